"""Learning from use, simulated: a head trained on a tenth of the data, then bandit feedback.

    python benchmarks/feedback.py [--seeds 3] [--pools ulab zeroeval] [--out FILE.json]

Each query of the remaining nine tenths of the train split comes once, in random order; the score of
the LLM that was chosen, and of no other, is fed back. Preference: performance. Compared on the same
stream: the head as it was (static), learning at work from the start (learnt, with the tries it
pays for), and every score known in hindsight (oracle). Then on the val split (ulab has none: a
fifth held out by seed), without tries: static, learnt, and the head retrained on all scores of the
train split, which feedback never sees. The floor is checked on every query: the predicted quality
of the chosen LLM is at most delta below that of the static choice. The log of an exploring but not
yet applying run is estimated off-policy and held against what applying it really earned.
In the second scenario the LLM that the first head chooses most often got worse since: a quarter of
its scores are lost at random in the stream, in val and in what the retrained head sees. In the
third it lost half of them on a third of the tasks. "levels" learns one number an LLM, "memory" also
what was left near a query.
Data from MOMA_DATA; MOMA_VECTORS may name a folder of vectors encoded before (POOL.npz, q_mean).
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moma_core import Learning, LLMDataset, LLMRouter, Performance, RoutingDecision, RoutingEncoder
from moma_core.llms.feedback import FeedbackRecord, LearningConfig
from moma_core.llms.off_policy import estimate
from moma_core.llms.training import train

VARIANTS = {
    "levels": LearningConfig(apply=True, nearby_prior=1e12),
    "memory": LearningConfig(apply=True),
}
LOST = {"as measured": 0.0, "favourite degraded": 0.25, "degraded on some tasks": 0.5}
"""Scenario -> share of the favourite's scores that are lost where it got worse."""


def decisions(router: LLMRouter, data: LLMDataset, vectors: np.ndarray) -> list[RoutingDecision]:
    """What `MoMARouter` decides without learning, at the performance preference."""
    made = []
    for table in router.score_batch(data.queries, vectors):
        name, candidates = router.select(table, Performance())
        best = candidates[0]
        made.append(RoutingDecision("llm", (name,), best.score, candidates, cost=best.cost))
    return made


def parts(data: LLMDataset, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the first tenth, of the stream, and of val."""
    rng = np.random.default_rng(seed)
    if "val" in data.splits:
        val = np.flatnonzero(np.array(data.splits) == "val")
        rest = rng.permutation(np.flatnonzero(np.array(data.splits) != "val"))
    else:
        order = rng.permutation(len(data))
        val, rest = order[: len(data) // 5], order[len(data) // 5 :]
    first = len(rest) // 10
    return rest[:first], rest[first:], val


def simulate(
    learning: Learning, stream: list[RoutingDecision], vectors: np.ndarray, scores: np.ndarray,
    names: tuple[str, ...], anchor: str,
) -> dict[str, Any]:  # fmt: skip
    column = {name: i for i, name in enumerate(names)}
    earned, usd, tried, below = [], [], 0, 0.0
    records = []
    for row, plain in enumerate(stream):
        made = learning.instead(plain, vectors[row], Performance(), anchor)
        reward = float(scores[row, column[made.target]])
        below = max(below, plain.probability - made.probability)
        tried += made.target != plain.target
        learning.feedback(made, reward)
        records.append(FeedbackRecord.of(made, reward))
        earned.append(reward)
        usd.append(made.cost or 0.0)
    return {
        "score": float(np.mean(earned)),
        "expected_usd": float(np.mean(usd)),
        "moved": tried / len(stream),
        "most_below": below,
        "records": records,
    }


def frozen(
    learning: Learning, made: list[RoutingDecision], vectors: np.ndarray, scores: np.ndarray,
    names: tuple[str, ...], anchor: str,
) -> float:  # fmt: skip
    learning.configure(explore=0.0, apply=True)
    picks = [
        names.index(learning.instead(each, vectors[row], Performance(), anchor).target)
        for row, each in enumerate(made)
    ]
    return float(scores[np.arange(len(picks)), picks].mean())


def static_score(made: list[RoutingDecision], scores: np.ndarray, names: tuple[str, ...]) -> float:
    picks = [names.index(each.target) for each in made]
    return float(scores[np.arange(len(picks)), picks].mean())


def run(pool: str, folder: Path, seed: int, encoder: RoutingEncoder) -> list[dict[str, Any]]:
    data = LLMDataset.read(folder / f"{pool}.parquet")
    cache = os.environ.get("MOMA_VECTORS")
    raw = np.load(Path(cache) / f"{pool}.npz")["q_mean"] if cache else encoder.encode(data.queries)
    vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    small, rest, val = parts(data, seed)
    head = train(data.take(small), encoder, seed=seed, vectors=vectors[small])
    data = data.pool(head.names)
    stream = decisions(head, data.take(rest), vectors[rest])
    results = []
    for scenario in LOST:
        now = degraded(data, stream, small, seed, scenario)
        results += compare(now, head, (small, rest, val), vectors, stream, seed, encoder)
        for each in results[-len(VARIANTS) :]:
            each.update(pool=pool, scenario=scenario)
    return results


def degraded(
    data: LLMDataset, stream: list[RoutingDecision], small: np.ndarray, seed: int, scenario: str
) -> LLMDataset:
    """The favourite LLM loses scores, except on the first tenth."""
    favourite = Counter(each.target for each in stream).most_common(1)[0][0]
    rng, tasks = np.random.default_rng(seed), sorted(set(data.tasks))
    lost = rng.random(len(data)) < LOST[scenario]
    if "tasks" in scenario:
        lost &= np.isin(data.tasks, rng.permutation(tasks)[: max(1, len(tasks) // 3)])
    lost[small] = False
    scores = data.scores.copy()
    scores[lost, data.llms.index(favourite)] = 0.0
    return replace(data, scores=scores)


def compare(
    data: LLMDataset, head: LLMRouter, rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    vectors: np.ndarray, stream: list[RoutingDecision], seed: int, encoder: RoutingEncoder,
) -> list[dict[str, Any]]:  # fmt: skip
    small, rest, val = rows
    names, anchor = head.names, head.best_single
    whole = np.concatenate([small, rest])
    full = train(data.take(whole), encoder, seed=seed, vectors=vectors[whole])
    unseen = decisions(head, data.take(val), vectors[val])
    retrained = decisions(full, data.take(val), vectors[val])
    scores, held = data.scores[rest], data.scores[val]
    common = {
        "seed": seed,
        "first_tenth": len(small),
        "stream": len(rest),
        "stream_static": static_score(stream, scores, names),
        "stream_oracle": float(scores.max(axis=1).mean()),
        "val_static": static_score(unseen, held, names),
        "val_retrained": static_score(retrained, held, names),
    }
    on_stream = (stream, vectors[rest], scores, names, anchor)
    on_val = (unseen, vectors[val], held, names, anchor)
    return [{**common, **one(name, on_stream, on_val, seed)} for name in VARIANTS]


def one(
    name: str, on_stream: tuple[Any, ...], on_val: tuple[Any, ...], seed: int
) -> dict[str, Any]:
    """Learn at work, and from the log of a run that only explores."""
    config = VARIANTS[name]
    learning = Learning(config, seed=seed)
    used = simulate(learning, *on_stream)
    quiet = Learning(config, seed=seed)
    quiet.configure(apply=False)
    logged = simulate(quiet, *on_stream)
    guess = estimate(logged["records"], config, seed)
    return {
        "variant": name,
        "stream_learnt": used["score"],
        "stream_moved": used["moved"],
        "most_below": used["most_below"],
        "floor_holds": used["most_below"] <= config.delta + 1e-9,
        "val_learnt": frozen(learning, *on_val),
        "stream_only_exploring": logged["score"],
        "estimated_gain": guess.gain,
        "estimated_range": list(guess.gain_range),
        "val_learnt_of_the_log": frozen(quiet, *on_val),
    }


def show(results: list[dict[str, Any]]) -> None:
    keys = ("stream_static", "stream_learnt", "stream_only_exploring", "val_static", "val_learnt",
            "val_retrained", "estimated_gain", "most_below")  # fmt: skip
    print(f"{'':52}" + "".join(f"{key:>23}" for key in keys) + "   floor")
    kinds = ("pool", "scenario", "variant")
    for kind in dict.fromkeys(tuple(r[k] for k in kinds) for r in results):
        group = [r for r in results if tuple(r[k] for k in kinds) == kind]
        cells = ""
        for key in keys:
            values = [r[key] for r in group]
            cells += f"{np.mean(values):>14.4f} ±{np.std(values):.4f}"
        holds = all(r["floor_holds"] for r in group)
        pool, scenario, variant = kind
        print(f"{pool:9}{scenario:19}{variant:24}{cells}   {'holds' if holds else 'BROKEN'}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pools", nargs="+", default=["ulab", "zeroeval"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/feedback.json"))
    options = parser.parse_args()
    folder, encoder = Path(os.environ.get("MOMA_DATA", "../shared/data")), RoutingEncoder()
    results = [
        each
        for pool in options.pools
        for seed in range(options.seeds)
        for each in run(pool, folder, seed, encoder)
    ]
    show(results)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
