"""Fits when a query for several things is cut (`moma_core.agents.compound`): three weights and a bias.

    MOMA_DATA=DIR python benchmarks/weights/train_cuts.py

Catalogs of about 45 tools from each source of the corpus, and the train rows of MetaTool, CLINC150
and banking50 (val of Seal-Tools), by descriptions alone: real queries for several tools, queries
joined from two, and real ones for one tool that could be cut. Of a query for several that cut is
learnt whose parts go to all it wants, of one for one thing the two likeliest cuts are learnt as
wrong, in four rounds. First each source is left out: how many of its queries for several are found
where 3, 5 and 9.4 % of those for one are cut; beside it the gain alone. The bias is such that 3 % of
all queries for one are cut: `CUT` of those that could be. About half an hour.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression

from moma_core import AgentCard, MoMARouter, Query
from moma_core.agents import compound
from moma_core.agents.router import Choice

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
JOINTS = (" and ", ", and ", ". ", ", then ", " and then ", " and also ", "; ", ", ", " plus ")
SETS = {"metatool": "train", "clinc150": "train", "banking50": "train", "sealtools": "val"}
SIZE, REAL, SINGLE, JOINED, LONGEST, ROUNDS = 45, 12, 14, 10, 400, 4
ALLOWED = (0.03, 0.05, 0.094)
CUT = 0.07  # of the corpus' English queries for one .42 could be cut

Wants = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Asked:
    """A query: its source and kind, its cuts as features (m, 3), and which of them are right."""

    source: str
    kind: str
    cuts: np.ndarray
    right: np.ndarray


def some(rng: np.random.Generator, items: Sequence[str], count: int) -> list[str]:
    return [items[i] for i in rng.permutation(len(items))[:count]]


def joined(rng: np.random.Generator, wants: Wants, singles: Sequence[str]) -> Wants:
    """Return made-up queries for two, the second often as a clause in small letters."""
    found = {}
    for first, second in zip(singles[::2], singles[1::2], strict=False):
        if wants[first] == wants[second] or max(len(first), len(second)) > LONGEST / 2:
            continue
        joint = JOINTS[rng.integers(len(JOINTS))]
        begin = first.rstrip(" .!") if joint.startswith(".") or rng.random() < 0.8 else first
        if begin.endswith("?"):
            joint = joint.lstrip(".,;")
        lower = second[0].lower() + second[1:] if rng.random() < 0.5 else second
        found[begin + joint + lower] = wants[first] | wants[second]
    return found


def asked(cards: Sequence[AgentCard], wants: Wants, kind: str, source: str) -> Iterator[Asked]:
    """Yield queries that could be cut, with all their cuts."""
    router = MoMARouter.from_cards(cards, llms=None, encoder="routing")
    agents, encoder, choice = router.agent_router, router.encoder, Choice()
    for text, wanted in wants.items():
        cut = compound.pieces(text)
        if len(cut) < 2:
            yield Asked(source, kind, np.zeros((0, 3)), np.zeros(0, bool))
            continue
        turns = agents.states.encode([Query(text)], encoder)
        [outcome] = agents.route_batch([Query(text)], turns, choice)
        whole = compound._worth(compound.Ranked(text, outcome, 1.0))
        parts = compound._Parts.of(turns.alone[0], cut, agents, encoder, choice)
        ways = [way for way in compound._ways(len(cut)) if parts.differ(way)]
        right = [{parts.ranked[span].agent for span in way} >= wanted for way in ways]
        cuts = [parts.features(way, whole) for way in ways]
        yield Asked(source, kind, np.reshape(cuts, (-1, 3)), np.array(right, bool))


def corpus() -> Iterator[tuple[str, Mapping[str, str], Wants]]:
    """Yield each source of the corpus: its tools, and what its English queries want."""
    tools: dict[str, dict[str, str]] = defaultdict(dict)
    for row in pq.read_table(DATA / "routing_tools.parquet").to_pylist():
        tools[row["source"]][row["tool_name"]] = row["tool_description"] or row["tool_name"]
    wants: dict[str, dict[str, frozenset[str]]] = defaultdict(dict)
    for row in pq.read_table(DATA / "routing_pairs.parquet").to_pylist():
        if row["language"] == "en" and len(row["query"]) < LONGEST:
            of = wants[row["source"]]
            of[row["query"]] = of.get(row["query"], frozenset()) | {row["tool_name"]}
    for source in sorted(wants):
        yield source, tools[source], wants[source]


def whole_sets() -> Iterator[tuple[str, Mapping[str, str], Wants]]:
    for name, split in SETS.items():
        agents = pq.read_table(DATA / f"{name}_agents.parquet").to_pylist()
        rows = pq.read_table(DATA / f"{name}_queries.parquet").to_pylist()
        wants = {r["query"]: frozenset(r["agents"]) for r in rows if r["split"] == split}
        wants = {text: wanted for text, wanted in wants.items() if wanted and text.strip()}
        yield name, {a["name"]: a["description"] or a["name"] for a in agents}, wants


def drawn(
    rng: np.random.Generator, tools: Mapping[str, str], wants: Wants
) -> tuple[list[AgentCard], dict[str, Wants]]:
    """Return a catalog of a source, and queries of each kind."""
    singles = [text for text, wanted in wants.items() if len(wanted) == 1]
    could = [text for text in singles if len(compound.pieces(text)) > 1]
    several = [text for text, wanted in wants.items() if 1 < len(wanted) <= 3]
    kinds: dict[str, Wants] = {
        "real": {text: wants[text] for text in some(rng, several, REAL)},
        "one": {text: wants[text] for text in some(rng, could, SINGLE)},
        "joined": joined(rng, wants, some(rng, singles, 2 * JOINED)),
    }
    names: Collection[str] = {n for of in kinds.values() for wanted in of.values() for n in wanted}
    others = [name for name in tools if name not in names]
    names = sorted({*names, *some(rng, others, max(10, SIZE - len(names)))})
    return [AgentCard(name, tools.get(name, name)) for name in names], kinds


def fitted(queries: Sequence[Asked]) -> np.ndarray:
    """Return three weights."""
    weights = np.array([1.0, 0.0, 0.0])
    for _ in range(ROUNDS):
        x, y = [], []
        for query in queries:
            scores = query.cuts @ weights
            if query.kind == "one":
                best = np.argsort(-scores)[:2]
            else:
                best = np.flatnonzero(query.right)
                best = best[np.argsort(-scores[best])[:1]]
            x.append(query.cuts[best])
            y += [query.kind != "one"] * len(best)
        model = LogisticRegression(C=10.0, max_iter=1_000).fit(np.concatenate(x), y)
        weights = model.coef_[0]
    return weights


def report(label: str, queries: Sequence[Asked], weights: Mapping[str, np.ndarray]) -> None:
    """Print how many for several are found, at so many of those for one that are cut."""
    top, good = [], []
    for query in queries:
        scores = query.cuts @ weights[query.source]
        top.append(scores.max() if scores.size else -np.inf)
        good.append(bool(scores.size and query.right[scores.argmax()]))
    kind, found = np.array([query.kind for query in queries]), np.array(good)
    for allowed in ALLOWED:
        cut = np.array(top) > np.quantile(np.array(top)[kind == "one"], 1.0 - allowed)
        shares = {k: round(float((cut & found)[kind == k].mean()), 3) for k in ("joined", "real")}
        print(f"{label}, {allowed:.1%} of those for one cut: found {shares}", flush=True)


def main() -> None:
    rng = np.random.default_rng(0)
    queries: list[Asked] = []
    for sources, times in ((corpus(), 1), (whole_sets(), 4)):
        for source, tools, wants in sources:
            for _ in range(times):
                cards, kinds = drawn(rng, tools, wants)
                for kind, of in kinds.items():
                    queries += asked(cards, of, kind, source)
            print(source, len(queries), flush=True)
    names = sorted({query.source for query in queries})
    left_out = {n: fitted([q for q in queries if q.source != n]) for n in names}
    report("each source left out", queries, left_out)
    report("gain alone", queries, dict.fromkeys(names, np.array([1.0, 0.0, 0.0])))
    weights = fitted(queries)
    single = [q.cuts @ weights for q in queries if q.kind == "one"]
    bias = -np.quantile([scores.max(initial=-np.inf) for scores in single], 1.0 - CUT)
    print("gain, alike, meant, bias:", *(round(float(w), 2) for w in (*weights, bias)))


if __name__ == "__main__":
    main()
