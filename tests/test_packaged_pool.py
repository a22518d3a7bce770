"""The packaged pool of LLMs: what it chooses over 42 tasks, easy and hard."""

from __future__ import annotations

from collections import Counter

import pytest

from moma_core import Learning, LLMCard, MoMARouter

EASY = (
    "What is the capital of France?",
    "How many days are in a leap year?",
    "What is 2+2?",
    "Who wrote Hamlet?",
    "Give me a synonym for happy.",
    "A farmer has 17 sheep and buys 5 more. How many sheep does he have?",
    "A train travels 120 km in 1.5 hours. What is its average speed?",
    "Tom has 3 boxes of 12 pencils and gives away 9. How many pencils are left?",
    "Translate 'good morning' into Spanish.",
    "Write a haiku about autumn.",
    "Draft a polite email declining a meeting.",
    "Summarise the causes of the First World War.",
    "Explain the difference between TCP and UDP.",
    "Write a Python function that reverses a linked list.",
)
USUAL = (
    "What does this print? print([i * i for i in range(4)])",
    "What are the side effects of ibuprofen?",
    "Which planet has the most moons?",
    "Suggest a name for a bakery.",
    "Explain photosynthesis to a child.",
    "What is the boiling point of water at sea level?",
    "Compute the derivative of x^2 sin x.",
    "Solve 3x + 7 = 22.",
    "What is the probability of two heads in three coin tosses?",
    "Explain the doctrine of consideration in contract law.",
    "Is a verbal agreement to sell land enforceable under the statute of frauds?",
    "A firm's marginal cost is 4 + 2q and the price is 20. What output maximises its profit?",
    "How do you treat diabetic ketoacidosis?",
    "What did Kant mean by the categorical imperative?",
    "Balance the equation of the combustion of propane.",
    "Calculate the pH of 0.01 M acetic acid (pKa 4.76).",
)
HARD = (
    "Prove that every finite integral domain is a field.",
    "Find all functions f: R -> R with f(x + y f(x)) = f(x) + x f(y) for all real x and y.",
    "Prove that there are infinitely many primes congruent to 3 modulo 4.",
    "Let G be a finite group of order p^2 q. Show that G is not simple.",
    "Evaluate the integral of x^4 / (e^x - 1)^2 from 0 to infinity.",
    "Derive the scattering cross-section of a Yukawa potential in the first Born approximation.",
    "Given n up to 200000, count the pairs i < j with a[i] xor a[j] < k, in two seconds.",
    "How many integers from 1 to 1000 are divisible neither by 2, 3 nor 5?",
    "Find the number of 10-digit strings of 0 and 1 without three equal digits in a row.",
    "A beam of steel, 3 m long, carries 10 kN in the middle. How far does it bend?",
    "Design an LRU cache in C++ with O(1) operations and explain its invariants.",
    "Compare the policies of the Federal Reserve and the European Central Bank after 2008.",
)


def test_choices_of_the_packaged_pool_vary_and_hard_tasks_get_an_able_llm():
    router = MoMARouter.from_cards()
    decisions = router.route_batch([*EASY, *USUAL, *HARD])
    chosen = [decision.target for decision in decisions]
    assert len(chosen) == 42
    assert len(set(chosen)) >= 4
    assert max(Counter(chosen).values()) <= 28
    best = router.llms.best_single
    assert chosen[-len(HARD) :].count(best) >= 0.6 * len(HARD)
    assert chosen[: len(EASY)].count(best) <= 0.5 * len(EASY)
    assert all("halving the cost is worth 0.02 of score" in each.reason for each in decisions)


@pytest.mark.parametrize(
    ("small", "middling", "large", "dear"), [(0.71, 0.80, 0.87, 0.0), (0.62, 0.75, 0.85, 0.2)]
)
def test_three_llms_known_by_their_cards_get_what_is_easy_and_what_is_hard(
    small, middling, large, dear
):
    router = MoMARouter.from_cards(
        llms=[
            LLMCard("small", 0.1, 0.4, quality={"mmlu_pro": small}),
            LLMCard("middling", 0.5, 2.0, quality={"mmlu_pro": middling}),
            LLMCard("large", 2.5, 10.0, quality={"mmlu_pro": large}),
        ]
    )
    easy, hard = (
        Counter(decision.target for decision in router.route_batch(tasks)) for tasks in (EASY, HARD)
    )
    assert easy["large"] == 0
    assert easy["small"] >= 0.8 * len(EASY)
    assert hard["small"] <= 0.8 * len(HARD)
    assert hard["large"] >= dear * len(HARD)
    router.learn(Learning())
    trials = [decision.trial for decision in router.route_batch([*EASY, *USUAL, *HARD])]
    assert sum(len(trial.safe) > 1 for trial in trials) >= 0.25 * len(trials)
