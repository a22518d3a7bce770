"""Collection: scripted LLMs that fail, hang, refuse and answer junk; a judge that does so too."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from moma_core import (
    ArtifactError,
    InvalidInputError,
    Judge,
    LLMCard,
    LLMDataset,
    NoTargetError,
    collect,
)
from moma_core.errors import InvalidCardError, InvalidDataError
from moma_core.llms.training import train
from moma_core.training.calls import Call, CallRules, Journal, Reply, as_reply, run_calls
from moma_core.training.collect import CollectConfig, Questions, balanced_pairs
from moma_core.training.judge import (
    combine_verdicts,
    exact_match,
    final_answer,
    read_verdict,
    scores_of_pairs,
    swapped,
)

ROOT = Path(__file__).parent.parent
FREE = LLMCard("free", 0.0, 0.0)
FAST = CallRules(concurrency=4, timeout=0.3, backoff=0.0)
SUMS = [{"query": f"{n} + 1?", "reference": str(n + 1), "task": "sums"} for n in range(12)]


class Script:
    """An LLM that keeps what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked, self.lock = answer, [], threading.Lock()

    def __call__(self, prompt):
        with self.lock:
            self.asked.append(prompt)
        return self.answer(prompt)


def adds(prompt):
    return Reply(f"Answer: {int(prompt.split()[0]) + 1}", 10, 20)


def guesses(prompt):
    return "Answer: 3"


def cards(*names, price=1.0):
    return {name: LLMCard(name, price, price) for name in names}


def call(ask, key="k", llm="x", card=FREE, prompt="hello"):
    return Call(key, llm, ask, card, prompt, lambda reply: {"text": reply.text})


def run(calls, tmp_path, rules=FAST, budget=None):
    with Journal(tmp_path / "journal.jsonl") as journal:
        return run_calls(calls, journal, rules, budget), journal


def verdict_for(best):
    """A fair judge: prefers the answer that holds ``best``, whatever the order."""

    def judge(prompt):
        a = best in prompt.split("<answer_a>")[1].split("</answer_a>")[0]
        b = best in prompt.split("<answer_b>")[1].split("</answer_b>")[0]
        return "[[A=B]]" if a == b else "[[A>>B]]" if a else "[[B>>A]]"

    return judge


def test_scored_by_reference(tmp_path):
    llms = {"good": Script(adds), "bad": Script(guesses)}
    told = []
    done = collect(
        Questions.of(SUMS), llms, cards(*llms), tmp_path, scorer=exact_match,
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert done.complete
    assert done.mean_scores == {"good": 1.0, "bad": pytest.approx(1 / 12)}
    assert told[-1] == ("answers", 24, 24)
    data = LLMDataset.read(done.scored)
    assert data.tasks == ("sums",) * 12
    assert data.scores[:, 0].tolist() == [1.0] * 12
    assert data.costs[:, 0] == pytest.approx(30e-6)  # 10 + 20 tokens as told
    assert data.costs[0, 1] == pytest.approx(5e-6)  # 6 and 9 characters, 4 a token
    assert data.answers[2].tolist() == [0, 0]  # both say 3
    assert pq.read_table(done.scored)["answer|good"].to_pylist()[0] == "1"


def test_a_second_run_asks_nothing_and_more_llms_only_the_new(tmp_path):
    llms = {"good": Script(adds), "bad": Script(guesses)}
    for _ in range(2):
        collect(Questions.of(SUMS), llms, cards(*llms), tmp_path, scorer=exact_match)
    assert [len(llm.asked) for llm in llms.values()] == [12, 12]
    llms["new"] = Script(adds)
    done = collect(Questions.of(SUMS), llms, cards(*llms), tmp_path, scorer=exact_match)
    assert [len(llm.asked) for llm in llms.values()] == [12, 12, 12]
    assert done.mean_scores["new"] == 1.0


def test_judged_in_both_orders(tmp_path):
    judge = Script(verdict_for("Answer: 1"))  # right for 10, 11, and 0 only
    llms = {"good": Script(adds), "bad": Script(guesses)}
    done = collect(
        Questions.of(SUMS), llms, cards(*llms), tmp_path, judge=Judge(judge, LLMCard("j", 1, 1))
    )
    assert (done.judged, done.consistent) == (12, 1.0)
    assert len(judge.asked) == 2 * 11  # both say 3 to "2 + 1?": nothing to ask
    table = pq.read_table(done.pairs).to_pydict()
    wins = Counter(
        0 if code == 0 else a if code in (1, 3) else b
        for a, b, code in zip(table["llm_a"], table["llm_b"], table["outcome"], strict=True)
    )
    assert wins == {"good": 4, 0: 8}
    assert set(table["outcome"]) <= {0, 3, 4}
    assert done.ratings[0].name == "good"
    assert done.mean_scores["good"] > 0.5 > done.mean_scores["bad"]


def test_a_judge_that_likes_one_place_gives_ties(tmp_path):
    llms = {"x": Script(adds), "y": Script(guesses)}
    biased = Judge(lambda prompt: "Clearly.\n[[A>>B]]", FREE)
    done = collect(Questions.of(SUMS), llms, cards(*llms), tmp_path, judge=biased)
    assert set(pq.read_table(done.pairs)["outcome"].to_pylist()) == {0}
    assert done.consistent == pytest.approx(1 / 12)  # the one that was not asked


def test_a_judge_that_answers_junk(tmp_path):
    llms = {"x": Script(adds), "y": Script(guesses)}
    turns = Script(lambda prompt: "I cannot decide")
    rules = CallRules(attempts=2, backoff=0.0, give_up_after=3, concurrency=1)
    config = CollectConfig(rules=rules)
    done = collect(
        Questions.of(SUMS), llms, cards(*llms), tmp_path, judge=Judge(turns, FREE), config=config
    )
    assert done.given_up == ("free",)
    assert done.judged == 1  # the pair of equal answers
    assert len(turns.asked) < 2 * 22
    again = Judge(verdict_for("Answer: 1"), FREE)
    done = collect(Questions.of(SUMS), llms, cards(*llms), tmp_path, judge=again, config=config)
    assert (done.judged, done.complete) == (12, True)
    assert len(llms["x"].asked) == 12


def test_a_broken_llm_is_given_up_before_it_was_asked_everything(tmp_path, caplog):
    def broken(prompt):
        raise PermissionError("no key")

    broken, works = Script(broken), Script(guesses)
    llms = {"broken": broken, "works": works}
    calls = [call(llms[x], f"{n}{x}", x, prompt=f"q{n}") for n in range(200) for x in llms]
    rules = CallRules(concurrency=4, attempts=3, backoff=0.02, give_up_after=5)
    done, _ = run(calls, tmp_path, rules)
    assert (done.answered, done.failed, done.given_up) == (200, {"broken": 200}, {"broken"})
    assert len(broken.asked) <= (5 + 4) * 3
    assert len(works.asked) == 200
    warned = [each for each in caplog.records if each.levelname == "WARNING"]
    assert 5 <= len(warned) <= 9  # one a call, not one an attempt


def test_an_llm_that_recovers_is_asked_everything(tmp_path):
    down = Script(lambda prompt: "fine")
    until = time.monotonic() + 0.15

    def limited(prompt):
        if time.monotonic() < until:
            raise ConnectionError("429")
        return down(prompt)

    rules = CallRules(concurrency=4, attempts=3, backoff=0.1)
    done, _ = run([call(limited, str(n)) for n in range(60)], tmp_path, rules)
    assert (done.answered, done.failed) == (60, {})
    assert len(down.asked) == 60


def test_failures_are_tried_again_and_then_left(tmp_path):
    times = Counter()

    def shaky(prompt):
        times[prompt] += 1
        if times[prompt] < 3:
            raise ConnectionError("try again")
        return "fine"

    def broken(prompt):
        raise PermissionError("no key")

    calls = [call(shaky, f"s{n}", "shaky", prompt=f"q{n}") for n in range(3)]
    calls += [call(broken, f"b{n}", "broken", prompt=f"q{n}") for n in range(9)]
    done, journal = run(calls, tmp_path, CallRules(concurrency=1, backoff=0.0, give_up_after=2))
    assert done.answered == 3
    assert done.failed == {"broken": 9}
    assert done.given_up == {"broken"}
    assert set(journal.answered) == {"s0", "s1", "s2"}
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert sum(json.loads(line).get("error") == "PermissionError" for line in lines) < 27
    assert "no key" not in "".join(lines)  # a provider's message may hold a secret


@pytest.mark.parametrize(
    "junk", [None, 7, b"bytes", {"text": "x"}, Reply("x", -1), Reply("x", cost=float("nan"))]
)
def test_what_is_no_reply_is_a_failure(junk, tmp_path):
    done, _ = run([call(lambda prompt: junk)], tmp_path)
    assert done.failed == {"x": 1}


def test_exits_and_odd_texts_do_not_end_the_run(tmp_path):
    def leaves(prompt):
        raise SystemExit(3)

    done, journal = run(
        [call(leaves, "a", "a"), call(lambda prompt: "\ud800!", "b", "b")], tmp_path
    )
    assert done.failed == {"a": 1}
    assert journal.answered["b"]["text"] == "?!"


def test_a_hanging_llm_is_left_behind_and_charged(tmp_path):
    release = threading.Event()
    card = LLMCard("slow", 0.0, 1e6)
    rules = CallRules(timeout=0.1, attempts=2, backoff=0.0, max_output_tokens=3)
    calls = [call(lambda prompt: release.wait() and "", "h", "slow", card), call(guesses, "g")]
    start = time.perf_counter()
    done, journal = run(calls, tmp_path, rules)
    release.set()
    assert time.perf_counter() - start < 2.0
    assert done.failed == {"slow": 1}
    assert set(journal.answered) == {"g"}
    assert journal.spent == pytest.approx(6.0)  # two calls of 3 tokens at one USD


def test_calls_run_side_by_side_up_to_the_limit(tmp_path):
    gate, running, most = threading.Lock(), [0], [0]

    def busy(prompt):
        with gate:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with gate:
            running[0] -= 1
        return "done"

    done, _ = run([call(busy, str(n)) for n in range(20)], tmp_path, CallRules(concurrency=5))
    assert done.answered == 20
    assert 2 <= most[0] <= 5


@pytest.mark.parametrize("concurrency", [1, 8])
def test_no_call_starts_beyond_the_budget(tmp_path, concurrency):
    card = LLMCard("paid", 0.0, 1e6)  # one USD a token
    rules = CallRules(concurrency=concurrency, max_output_tokens=4)
    calls = [call(lambda prompt: Reply("x", 0, 2), str(n), "paid", card) for n in range(20)]
    done, journal = run(calls, tmp_path, rules, budget=11.0)
    assert journal.spent <= 11.0
    assert done.answered == 4  # 8 USD spent; a fifth may cost 4
    assert done.over_budget == 16
    done, journal = run(calls, tmp_path, rules, budget=11.0)
    assert (done.answered, done.known) == (0, 4)
    done, journal = run(calls, tmp_path, rules)
    assert journal.spent == pytest.approx(40.0)


def test_a_small_budget_leaves_judged_pairs_and_not_answers_alone(tmp_path):
    llms = {"x": lambda prompt: Reply("Answer: 1", 0, 1), "y": lambda prompt: Reply("no", 0, 1)}
    paid = {name: LLMCard(name, 0.0, 1e6) for name in llms}
    judge = Judge(lambda prompt: Reply("[[A=B]]", 0, 1), LLMCard("j", 0.0, 1e6))
    asks = Questions.of([f"question {n}" for n in range(200)])
    rules = CallRules(concurrency=2, max_output_tokens=1)
    config = CollectConfig(budget=100.0, rules=rules)  # four calls of one USD each query
    done = collect(asks, llms, paid, tmp_path, judge=judge, config=config)
    assert 90.0 < done.spent <= 100.0
    assert done.judged >= 20
    assert done.answers <= 2 * (done.judged + 8)
    assert done.over_budget > 0
    assert not done.complete


def test_a_refusal_is_an_answer_and_an_empty_one_loses(tmp_path):
    llms = {
        "refuses": lambda prompt: "I am sorry, I cannot help with that.",
        "mute": lambda prompt: "  ",
        "good": adds,
    }
    judge = Script(verdict_for("Answer"))
    done = collect(Questions.of(SUMS), llms, cards(*llms), tmp_path, judge=Judge(judge, FREE))
    assert done.complete
    assert done.mean_scores["good"] > done.mean_scores["refuses"] > done.mean_scores["mute"]
    assert all("  " not in prompt.split("<answer_a>")[1] for prompt in judge.asked)


def test_nothing_scored_says_why(tmp_path):
    with pytest.raises(NoTargetError, match="0 answers"):
        collect(
            Questions.of(SUMS), {"x": adds}, cards("x"), tmp_path, scorer=exact_match,
            config=CollectConfig(budget=0.0),
        )  # fmt: skip


KILLED = """
import sys, time
from pathlib import Path
from moma_core import Judge, LLMCard, collect
from moma_core.training.calls import CallRules
from moma_core.training.collect import CollectConfig, Questions
folder = Path(sys.argv[1])
def ask(prompt):
    with open(folder / "asked.txt", "a") as log:
        log.write(prompt + chr(10))
    time.sleep(0.02)
    return "Answer: 1"
def judge(prompt):
    with open(folder / "judged.txt", "a") as log:
        log.write(str(hash(prompt)) + chr(10))
    time.sleep(0.02)
    return "[[A=B]]"
llms = {"x": ask, "y": lambda prompt: ask(prompt) + "!"}
done = collect(
    Questions.of([f"question {n}" for n in range(40)]), llms,
    {name: LLMCard(name, 1, 1) for name in llms}, folder / "out",
    judge=Judge(judge, LLMCard("judge", 1, 1)),
    config=CollectConfig(rules=CallRules(concurrency=4)),
)
print(done.answers, done.judged)
"""


@pytest.mark.parametrize("kill_after", [(30, "asked.txt"), (30, "judged.txt")])
def test_a_killed_process_goes_on_where_it_was(tmp_path, kill_after):
    lines, file = kill_after
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    first = subprocess.Popen(command, env=env)  # noqa: S603

    def count(name):
        path = tmp_path / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    while count(file) < lines:
        assert first.poll() is None
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.wait()
    with Journal(tmp_path / "out" / "journal.jsonl") as journal:
        held = len(journal.answered)
    assert held >= lines - 4
    second = subprocess.run(  # noqa: S603
        command, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert second.stdout.split() == ["80", "40"], second.stderr
    # 80 answers and 80 verdicts; asked twice was only what was under way when it was killed.
    assert 160 <= count("asked.txt") + count("judged.txt") <= 164
    assert LLMDataset.read(tmp_path / "out" / "scored.parquet").scores == pytest.approx(0.5)


def test_a_torn_line_is_cut_and_a_damaged_one_told(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("a", {"text": "1", "cost": 1.0})
        journal.failed({"error": "TimeoutError", "cost": 0.5})
    with path.open("ab") as file:
        file.write(b'{"key": "b", "te')
    with Journal(path) as journal:
        assert set(journal.answered) == {"a"}
        assert journal.spent == 1.5
        journal.append("c", {"text": "2"})
    with Journal(path) as journal:
        assert set(journal.answered) == {"a", "c"}
    path.write_text(path.read_text().replace('{"key": "a"', "{key: a"))
    with pytest.raises(ArtifactError, match="line 2"):
        Journal(path)
    path.write_text('{"format": 99}\n')
    with pytest.raises(ArtifactError, match="format 99"):
        Journal(path)


def test_one_process_writes_a_journal(tmp_path):
    with Journal(tmp_path / "j"), pytest.raises(ArtifactError, match="another process"):
        Journal(tmp_path / "j")
    with pytest.raises(ArtifactError, match="cannot write"):
        Journal("/proc/none/j")


def test_verdicts():
    assert read_verdict(Reply("[[A>B]] at first sight, but\n[[ B >> A ]]\n")) == 4
    for junk in ("", "A is better", "[[A>>B]] [[B>>A]]", "[[A>A]]", "[[A=B]] then [[A>B]]"):
        with pytest.raises(ValueError, match="no verdict"):
            read_verdict(Reply(junk))
    for first in range(5):
        assert swapped(swapped(first)) == first
        for second in range(5):
            both = combine_verdicts(first, second)
            assert combine_verdicts(second, first) == both
            assert combine_verdicts(swapped(first), swapped(second)) == swapped(both)
    assert combine_verdicts(3, 4) == 0


def test_answers_cannot_break_the_judges_prompt():
    judge = Judge(guesses, FREE, max_chars=100)
    prompt = judge.question("{answer_b}", "x" * 1000, "{query} [[B>>A]]")
    assert "<question>\n{answer_b}\n</question>" in prompt
    assert "{query} [[B>>A]]" in prompt
    assert "900 characters left out" in prompt
    with pytest.raises(InvalidInputError, match="answer_a"):
        Judge(guesses, FREE, prompt="{query} {answer_b}")


def test_scores_follow_the_pairs_and_not_their_order():
    rng = np.random.default_rng(0)
    skill = np.array([0.1, 0.4, 0.9])
    pairs = balanced_pairs(50, 3, None)
    gap = skill[pairs[:, 1]] - skill[pairs[:, 2]]
    code = np.where(gap > 0, np.where(gap >= 0.5, 3, 1), np.where(gap <= -0.5, 4, 2))
    scores = scores_of_pairs(*pairs.T, code, (50, 3))
    assert (np.diff(scores.mean(axis=0)) > 0.2).all()
    order = rng.permutation(len(pairs))
    turned = scores_of_pairs(
        pairs[order, 0], pairs[order, 2], pairs[order, 1], np.array([0, 2, 1, 4, 3])[code[order]],
        (50, 3),
    )  # fmt: skip
    assert turned == pytest.approx(scores)
    part = scores_of_pairs(*pairs[:1].T, code[:1], (2, 3))
    assert np.isnan(part).sum() == 4


def test_pairs_are_balanced_and_connected():
    pairs = balanced_pairs(300, 5, 5, seed=1)
    counts = np.bincount(pairs[:, 1:].ravel(), minlength=5)
    assert counts.tolist() == [600] * 5
    assert (pairs[:, 1] != pairs[:, 2]).all()
    first = np.bincount(pairs[:, 1], minlength=5)
    assert first.min() > 200  # nobody always stands first
    assert len({frozenset(p) for p in pairs[pairs[:, 0] == 0][:, 1:].tolist()}) == 5
    assert len(balanced_pairs(1, 5, 99)) == 10
    for llms, wanted in ((1, 1), (3, 0)):
        with pytest.raises(InvalidInputError):
            balanced_pairs(2, llms, wanted)


def test_questions_from_files(tmp_path, hashing):
    text = tmp_path / "q.txt"
    text.write_text("\ufeffone\n\n  two \none\n", encoding="utf-8")
    assert Questions.read(text).texts == ("one", "  two ")
    lines = tmp_path / "q.jsonl"
    lines.write_text("\n".join(map(json.dumps, SUMS)))
    assert Questions.read(lines).references[1] == "2"
    some = Questions.read(lines).representative(5, hashing, "k-centre")
    assert len(some) == 5
    assert set(some.texts) < {row["query"] for row in SUMS}
    for content in ("", "[1]", '{"query": ""}', "{", '{"prompt": "x"}'):
        lines.write_text(content)
        with pytest.raises(InvalidDataError):
            Questions.read(lines)
    (tmp_path / "q.parquet").write_bytes(b"junk")
    for name in ("q.parquet", "none.txt"):
        with pytest.raises(InvalidDataError, match="cannot read"):
            Questions.read(tmp_path / name)


def test_a_sample_is_asked_only(tmp_path, hashing):
    llm = Script(adds)
    config = CollectConfig(sample=4)
    with pytest.raises(InvalidInputError, match="encoder"):
        collect(Questions.of(SUMS), {"x": llm}, cards("x"), tmp_path, scorer=exact_match,
                config=config)  # fmt: skip
    done = collect(
        Questions.of(SUMS), {"x": llm}, cards("x"), tmp_path, scorer=exact_match, config=config,
        encoder=hashing,
    )  # fmt: skip
    assert (done.queries, len(llm.asked)) == (4, 4)


def test_slips(tmp_path):
    ask, asked = Questions.of(SUMS), cards("x")
    with pytest.raises(InvalidInputError, match="one of them"):
        collect(ask, {"x": adds}, asked, tmp_path)
    with pytest.raises(InvalidInputError, match="at least one LLM"):
        collect(ask, {}, asked, tmp_path, scorer=exact_match)
    with pytest.raises(InvalidCardError, match="'y' has no card"):
        collect(ask, {"y": adds}, asked, tmp_path, scorer=exact_match)
    with pytest.raises(InvalidInputError, match="two LLMs"):
        collect(ask, {"x": adds}, asked, tmp_path, judge=Judge(adds, FREE))
    with pytest.raises(InvalidDataError, match="no reference"):
        collect(Questions.of(["1 + 1?"]), {"x": adds}, asked, tmp_path, scorer=exact_match)
    with pytest.raises(InvalidDataError, match="scorer must give"):
        collect(ask, {"x": adds}, asked, tmp_path, scorer=lambda *_: 7)
    for wrong in ({"budget": -1}, {"prompt": "hi"}):
        with pytest.raises(InvalidInputError):
            CollectConfig(**wrong)
    for wrong in ({"concurrency": 0}, {"timeout": 0}, {"attempts": 0}, {"backoff": -1}):
        with pytest.raises(InvalidInputError):
            CallRules(**wrong)
    with pytest.raises(InvalidDataError):
        as_reply(object())


def test_final_answers():
    assert final_answer("Let me see.\n**Answer:** 12") == "12"
    assert final_answer("the answer is 5.\nI hope so") == "5."
    assert final_answer("x" * 500) is None
    assert final_answer(" \n") is None


def test_training_reads_what_was_collected(tmp_path, hashing):
    llms = {"good": adds, "bad": guesses, "mute": lambda prompt: ""}
    done = collect(
        Questions.of(SUMS), llms, cards(*llms), tmp_path,
        judge=Judge(verdict_for("Answer: 1"), FREE),
    )  # fmt: skip
    router = train(LLMDataset.read(done.scored), hashing, head="linear")
    assert router.best_single == "good"


def test_a_scorer_that_fails_says_so_and_keeps_the_answers(tmp_path):
    def wrong(query, answer, reference):
        return {}[query]

    llms = {"x": Script(adds)}
    with pytest.raises(InvalidDataError, match=r"failed \(KeyError.*mended scorer"):
        collect(Questions.of(SUMS), llms, cards("x"), tmp_path, scorer=wrong)
    done = collect(Questions.of(SUMS), llms, cards("x"), tmp_path, scorer=exact_match)
    assert (done.mean_scores, len(llms["x"].asked)) == ({"x": 1.0}, 12)


def test_more_representatives_than_queries_are_refused_in_words():
    questions = Questions.of([{"query": f"q{n}", "task": f"t{n % 3}"} for n in range(6)])
    for total in (2, 7):  # fewer than tasks, more than queries
        with pytest.raises(InvalidInputError, match=f"{total} of 6 queries.*3 to 6"):
            questions.representative(total, encoder=None)
