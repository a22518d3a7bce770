"""Pools of three LLMs known by their cards alone, on rows and LLMs that the scale never saw.

    python benchmarks/own_llms.py [--seeds 3] [--out FILE.json]

For each seed the LLMs of mmlu_pro and of ulab are cut into pools of three at random. The scale of
abilities (benchmarks/fit_abilities.py) is fitted anew without the three, under all of their names
and in all tables, and without the test rows (mmlu_pro: val; ulab: a fifth, by seed). The pool is
then LLMRouter.from_cards of three cards: price, and what the line says:

  by benchmark   mean score by subject (mmlu_pro) or task (ulab), as published: on the fitted rows
  one score      mmlu_pro: the mean of all of them as {"mmlu_pro": x}; ulab: as a bare number
  like           the fitted LLM whose scores on the fitted rows are nearest, and nothing else
  price          nothing else

Routes are those of ``auto:r`` over a ladder of r. Compared at equal measured cost, on nine costs
between the cheapest and the dearest LLM of the pool:

  over random    against a random mix of the two LLMs that are the best to mix at that cost
  over single    against the best single LLM that costs no more
  over uniform   against each LLM for a third of the queries, at that cost

``auto`` is what routes of `auto` at its default are worth, score less 0.02 for each doubling of the
real cost, less that of the cheapest LLM for all (``auto over cheapest``), and of whichever one is
worth most, known in hindsight (``auto over fixed``).

``level error`` is predicted less measured mean score of an LLM (root mean square), ``covered`` how
often the measured one lies within one standard deviation of the mean that the card leaves, and
"covered_2" within two (.68 and .95 if true).
Means over pools with standard errors over pools; pools whose cheapest LLM is also the best have
nothing to trade and are left out of the leads.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from fit_abilities import SAME, Rows, exam_of, fit_scale, read
from llms import vectors_of

from moma_core import Auto, LLMCard, LLMDataset, LLMRouter, RoutingEncoder
from moma_core._numerics import sigmoid
from moma_core.llms.abilities import AbilityScale
from moma_core.llms.selection import POINTS, choose, value
from moma_core.training.evaluate_llms import score_at_cost, upper_hull

LADDER = (0.0, *np.logspace(-4, 0, 41).tolist())
WAYS = ("by benchmark", "one score", "like", "price")
COSTS = 9


def cards_of(
    way: str, names: list[str], rows: LLMDataset, table: str, prices: dict[str, Any]
) -> list[LLMCard]:
    """Return cards of LLMs that say what ``way`` says, from rows that the scale was fitted on."""
    exams = np.array([exam_of(table, task)[0] for task in rows.tasks])
    cards = []
    for name in names:
        own = rows.scores[:, rows.llms.index(name)]
        both = prices[name] if isinstance(prices[name], list) else [prices[name]] * 2
        scores = {exam: float(own[exams == exam].mean()) for exam in sorted(set(exams))}
        told: dict[str, Any] = {}
        if way == "by benchmark":
            told = {"quality": scores}
        elif way == "one score":
            mean = float(np.mean(list(scores.values())))
            told = {"quality": {"mmlu_pro": mean} if table == "mmlu_pro" else mean}
        elif way == "like":
            others = [each for each in rows.llms if each not in names]
            gaps = [(float((rows.scores[:, rows.llms.index(o)] - own).mean()), o) for o in others]
            like = min(gaps, key=lambda gap: abs(gap[0]))[1]
            told = {"like": SAME.get(like, like)}
        cards.append(LLMCard(name, *both, **told))
    return cards


def lead(pool: LLMRouter, test: LLMDataset, vectors: np.ndarray) -> dict[str, float]:
    """Return mean leads at equal cost, and how well levels were known."""
    quality, costs = pool.predict(test.queries, vectors)
    rows = np.arange(len(test))
    worth = value(test.costs, test.scores, POINTS)
    auto = worth[rows, choose(costs, quality, Auto())].mean() - worth.mean(axis=0)
    picks = [choose(costs, quality, Auto(points)) for points in LADDER]
    curve = upper_hull(
        np.array([[test.costs[rows, p].mean(), test.scores[rows, p].mean()] for p in picks])
    )
    singles = np.column_stack([test.costs.mean(axis=0), test.scores.mean(axis=0)])
    mixes = upper_hull(singles)
    spread = level_spread(pool, test, vectors)
    error = quality.mean(axis=0) - test.scores.mean(axis=0)
    found = {
        "level_error": float(np.sqrt((error**2).mean())),
        "covered": float((np.abs(error) <= spread).mean()),
        "covered_2": float((np.abs(error) <= 2.0 * spread).mean()),
        "auto_over_cheapest": float(auto[test.costs.mean(axis=0).argmin()]),
        "auto_over_fixed": float(auto.min()),
    }
    if len(mixes) == 1:
        return found
    low, high = max(mixes[0, 0], curve[0, 0]), mixes[-1, 0]
    leads = []
    for cost in np.linspace(low, high, COSTS + 2)[1:-1]:
        ours = float(np.interp(cost, curve[:, 0], curve[:, 1]))
        single = singles[singles[:, 0] <= cost + 1e-15, 1].max()
        leads.append([ours - (score_at_cost(mixes, cost) or 0.0), ours - single])
    uniform = singles.mean(axis=0)
    over_uniform = float(np.interp(uniform[0], curve[:, 0], curve[:, 1]) - uniform[1])
    over_random, over_single = np.mean(leads, axis=0)
    return {**found, "over_random": float(over_random), "over_single": float(over_single),
            "over_uniform": over_uniform}  # fmt: skip


def level_spread(pool: LLMRouter, test: LLMDataset, vectors: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each LLM's mean score that its card leaves, shape (m,)."""
    head = pool.head
    inputs = pool.features.join(test.queries, vectors)
    shares, steepness, difficulty = head.scale.model.read(inputs)
    found = []
    for mean, covariance in zip(head.means, head.covariances, strict=True):
        right = sigmoid(steepness * (shares @ mean) - difficulty)
        slope = (right * (1.0 - right) * steepness) @ shares / len(inputs)
        found.append(np.sqrt(slope @ covariance @ slope))
    return np.array(found)


def run(
    table: str, seed: int, folder: Path, rows: dict[str, Any], encoder: RoutingEncoder
) -> list[dict[str, Any]]:
    data = LLMDataset.read(folder / f"{table}.parquet")
    vectors = vectors_of(table, data, encoder)
    held, fitted = rows["held"], rows["fitted"]
    prices = json.loads((folder / "llm_prices.json").read_text())[table]
    order = np.random.default_rng([seed, 7]).permutation(len(data.llms))
    found = []
    for start in range(0, len(order) - 2, 3):
        names = [data.llms[i] for i in order[start : start + 3]]
        scale: AbilityScale = fit_scale(fitted.without(tuple(names)), encoder, seed)
        test = data.take(held).pool(names)
        for way in WAYS:
            cards = cards_of(way, names, data.take(~held), table, prices)
            pool = LLMRouter.from_cards(cards, scale)
            found.append({"table": table, "seed": seed, "way": way, "pool": names,
                          **lead(pool, test, vectors[held])})  # fmt: skip
    return found


def rows_of(table: str, seed: int, folder: Path, encoder: RoutingEncoder) -> dict[str, Any]:
    data = LLMDataset.read(folder / f"{table}.parquet")
    if table == "ulab":
        held = np.random.default_rng([seed, 3]).random(len(data)) < 0.2
    else:
        held = np.array(data.splits) == "val"
    fitted: Rows = read(folder, encoder, {table: ~held})
    return {"held": held, "fitted": fitted}


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = []
    for table in sorted({each["table"] for each in found}):
        for way in WAYS:
            own = [each for each in found if (each["table"], each["way"]) == (table, way)]
            line: dict[str, Any] = {"table": table, "way": way, "pools": len(own)}
            for key in (
                "over_random",
                "over_single",
                "over_uniform",
                "level_error",
                "covered",
                "covered_2",
                "auto_over_cheapest",
                "auto_over_fixed",
            ):
                values = np.array([each[key] for each in own if key in each])
                noise = values.std(ddof=1) / np.sqrt(len(values))
                line[key] = [round(float(values.mean()), 4), round(float(noise), 4)]
            line["above_random"] = round(
                float(np.mean([each["over_random"] > 0 for each in own if "over_random" in each])),
                2,
            )
            lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/own_llms.json"))
    options = parser.parse_args()
    folder, encoder = Path(os.environ.get("MOMA_DATA", "../shared/data")), RoutingEncoder()
    started, found = time.perf_counter(), []
    for table in ("mmlu_pro", "ulab"):
        for seed in range(options.seeds):
            rows = rows_of(table, seed, folder, encoder)
            found += run(table, seed, folder, rows, encoder)
    lines = summary(found)
    for line in lines:
        print(line)
    seconds = round(time.perf_counter() - started)
    print(f"{seconds} s")
    report = {"seeds": options.seeds, "summary": lines, "pools": found}
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
