"""What the demo asks, where each query belongs, and what no agent should take.

None of these is among the agents' few-shot examples: they are new to the router.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LLM", "NEGATIVES", "SCENES", "SWITCHED", "DemoQuery", "Scene"]

LLM = "LLM"
"""Expected where no agent fits."""


@dataclass(frozen=True)
class DemoQuery:
    """A query, where it belongs, and how much the answer may cost.

    Args:
        text: The user's words.
        expected: An agent's name, `LLM`, or ``"not NAME"``.
        preference: What matters: performance, auto or cost.
    """

    text: str
    expected: str
    preference: str = "auto"


@dataclass(frozen=True)
class Scene:
    """Queries that show one thing, with a sentence that says what."""

    title: str
    words: str
    queries: tuple[DemoQuery, ...]


_HARD = (
    "Prove that every bounded sequence of real numbers has a convergent subsequence, then explain "
    "where the proof breaks down in infinite dimensions."
)

SCENES = (
    Scene(
        "Plain requests",
        "These say what they want. The agent that takes one also runs, here and now.",
        (
            DemoQuery("What is (17 + 25) * 3 - 6?", "calculator"),
            DemoQuery("convert 26.2 miles to km", "unit_converter"),
            DemoQuery("what time is it in Lisbon right now?", "time_zone_converter"),
            DemoQuery("please put 'renew the passport' on my to-do list", "todo_list"),
        ),
    ),
    Scene(
        "The same, in other words",
        "No word here names the tool. The router goes by meaning, not by keywords.",
        (
            DemoQuery(
                "My house cost 318,000; at 3.9% over 25 years, what leaves my account each month?",
                "loan_payment",
            ),
            DemoQuery("could people make out navy letters on a teal wall?", "contrast_checker"),
            DemoQuery("where would a 90 minute workshop fit in on Friday?", "free_slot_finder"),
            DemoQuery("write 40,312 the way I would say it aloud", "number_speller"),
        ),
    ),
    Scene(
        "Twins",
        "Pairs of agents that are easy to mix up: two for dates, two for one table, two for codes.",
        (
            DemoQuery(
                "how many days lie between 3 May 2026 and 24 December 2026?", "date_difference"
            ),
            DemoQuery("which date comes 200 days after 3 May 2026?", "date_adder"),
            DemoQuery("what is the median price in the csv of orders?", "table_statistics"),
            DemoQuery("which product earned the most revenue in Berlin?", "table_query"),
            DemoQuery("please decode bW9tYSByb3V0ZXI= for me", "base64_coder"),
            DemoQuery("what is the md5 of 'moma router'?", "text_hasher"),
        ),
    ),
    Scene(
        "Nobody's job",
        "No agent does these. A router that must pick one would pick a wrong one; this one hands "
        "them to an LLM.",
        (
            DemoQuery("who painted the ceiling of the Sistine Chapel?", LLM),
            DemoQuery("write a short poem about rain on a tin roof", LLM),
            DemoQuery("why do cats purr when they are hurt?", LLM),
        ),
    ),
    Scene(
        "One hard question, three purses",
        "'performance' takes the LLM with the best predicted answer, 'cost' the best within a "
        "budget, and 'auto' balances the two.",
        (
            DemoQuery(_HARD, LLM, "performance"),
            DemoQuery(_HARD, LLM, "auto"),
            DemoQuery(_HARD, LLM, "cost"),
        ),
    ),
)

SWITCHED = (
    DemoQuery("how would an ancient Roman carve 888 into stone?", "roman_numerals"),
    DemoQuery("how would an ancient Roman carve 888 into stone?", "not roman_numerals"),
)
"""The same query before and after its agent is disabled."""

NEGATIVES = (
    "who wrote the divine comedy?",
    "explain photosynthesis to a ten year old",
    "what causes the northern lights?",
    "tell me a joke about penguins",
    "write a haiku about the sea",
    "write a birthday message for my grandmother",
    "summarise the plot of Hamlet",
    "give me a recipe for lentil soup",
    "what are the side effects of aspirin?",
    "how do I train a puppy not to bite?",
    "compare buddhism and stoicism",
    "why did the Roman empire fall?",
    "translate good morning into Japanese",
    "what is the best way to learn the piano?",
    "write a Python class for a linked list",
    "prove that the square root of two is irrational",
    "explain the difference between TCP and UDP",
    "what should I wear to a wedding in June?",
    "discuss whether free will exists",
    "how does a nuclear reactor work?",
    "suggest names for a black cat",
    "who won the world cup in 1998?",
    "derive the Euler-Lagrange equation",
    "write a cover letter for a nurse",
    "what is the capital of Mongolia?",
    "is it going to rain tomorrow?",
    "book a flight to Madrid",
)
"""Queries that no agent here should take; they sharpen the router's sense of 'none fits'."""
