"""Fit the curves of the gate where few examples are known, and judge them on catalogs left out.

    MOMA_DATA=../shared/data python benchmarks/fit_cold_gate.py [--encoder multilingual]

Catalogs of 2 to 120 agents are drawn from five data sets with queries of theirs (train rows;
Seal-Tools val rows, lobe's weak ones), with no example and, a third of them, with three an agent as
well. Beside those stand queries that no agent of the drawn catalog fits: the same ones with
their agent taken away
("removed"), those of the data set's other agents ("near"), CLINC150's out-of-scope train rows
("oos"), chit-chat ("talk"), questions to an LLM ("general"), and those of other data sets
("other"). None of these sets was seen by the encoder or the reranker in training. The corpus that
both were trained on is no judge of them: there the reranker looks three times as good.

Two curves tell queries that some agent fits from the others: by nearness, and by whether they mean
it; a third, among queries that some agent fits, whether the best one is right. The first two are
multiplied, and their log-odds get a slope and an intercept (Platt) so that what is said holds where
`OUT` queries are out of scope for each in scope. Inputs are what
`moma_core.agents.rank.rank` sees. Weights whose sign sense demands are held to it. Every data
set, and the twelve engines of benchmarks/llamaindex_corpus.toml, is judged as a whole catalog, on
val rows (lobe: its weak ones), by curves fitted without it: right first, share of the right ones
kept, wrong, caught, AUROC of in and out of scope beside the plain largest cosine's, expected
calibration error (`OUT` queries out of scope for each in scope) of each and of all together; a
gate that holds to the letter would show some .04 on so few queries of one set. Writes
benchmarks/results/fit_cold_gate.json and prints what gate.py holds.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from moma_core import AgentCard
from moma_core._checks import readable
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.conversation import EncodedTurns, Reading
from moma_core.agents.gate import Evidence, Negatives, _log_odds
from moma_core.agents.rank import Fitted, RankRequest, _evidence, _Field, _scores
from moma_core.agents.reranker import Read, Reranker, exemplars, rerank, shortlist
from moma_core.agents.training import train
from moma_core.encoder import open_encoder
from moma_core.registry.memory import MemoryRegistry
from moma_core.training.evaluate_agents import calibration_error

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
ENGINES = Path(__file__).with_name("llamaindex_corpus.toml")
RESULTS = Path("benchmarks/results")
SOURCES = {
    "metatool": ("train", "val"),
    "clinc150": ("train", "val"),
    "banking50": ("train", "val"),
    "sealtools": ("val", "test_in"),
    "lobe": ("weak", "weak"),
}
DRAWS, ASKED, MOST, FOREIGN, SEED = 12, 12, 600, 300, 0
OUT = 0.3  # queries out of scope for each in scope, where calibration is judged
SHARES = {"own": 1.0, "removed": 0.03, "near": 0.1, "oos": 0.1, "talk": 0.05, "general": 0.06}
SHARES |= {"other": 0.03, "talked": 0.12}
SAID = {"own": 1.0, "near": 0.05, "removed": 0.02, "oos": 0.1, "talk": 0.05, "general": 0.05}
SAID |= {"other": 0.0, "talked": 0.03}
"""Of each kind where probabilities are to hold: `OUT` out of scope together."""
TALKED = (
    "Translate '{q}' into French",
    "What does the word '{w}' mean?",
    "Why do people ask '{q}'?",
    "Write a poem about {n}",
    "Explain how {n} works in general",
    "do not do this: {q}",
    "Tell me about the history of {n}",
    "Who invented {n}?",
    "Give me three synonyms of '{w}'",
    "Is '{q}' correct English?",
    "Write a short story in which somebody says: {q}",
    "Where does the word {w} come from?",
    "{w} {w} {w}: what is the capital of Peru?",
    "I never want you to {q}",
    "What is the difference between {n} and {w}?",
)
"""What is only talked about, quoted or refused: q is a query of the catalog's, w a word of it, n an
agent's name. A catalog's translator, for one, should take some of them: that noise is left in."""
FITS = ("above", "foreign")
MEANT = ("refused", "general")
RIGHT = ("cosine_lead", "log_share", "lead", "read_lead", "read")
FALLS = {"foreign", "general"}  # all others may only raise a chance
THRESHOLDS = (0.3, 0.35, 0.38, 0.4, 0.45)
L2 = 0.01


class Remembered:
    """A packaged encoder; each text is encoded once."""

    def __init__(self, name: str) -> None:
        self.inner = open_encoder(name)
        self.fingerprint, self.dimension = self.inner.fingerprint, self.inner.dimension
        self.seen: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:  # noqa: D102 - the protocol says it
        new = [text for text in dict.fromkeys(texts) if text not in self.seen]
        self.seen |= dict(zip(new, self.inner.encode(new), strict=True))
        rows = np.array([self.seen[text] for text in texts], dtype=np.float32)
        return rows.reshape(len(texts), self.dimension)


@dataclass
class Source:
    """A data set: its cards, queries to fit on and to judge on with the agents they want."""

    cards: list[AgentCard]
    known: list[tuple[str, frozenset[int]]]
    asked: list[tuple[str, frozenset[int]]]
    foreign: list[str]


@dataclass
class Seen:
    """What the gate sees of one catalog's queries."""

    evidence: np.ndarray
    right: np.ndarray
    kind: np.ndarray
    cosine: np.ndarray


def rows_of(name: str) -> list[dict]:
    return pq.read_table(DATA / f"{name}.parquet").to_pylist()


def load(name: str, general: list[str], rng: np.random.Generator) -> Source:
    agents = rows_of(f"{name}_agents")
    at = {agent["name"]: i for i, agent in enumerate(agents)}
    cards = [AgentCard(a["name"], a["description"] or readable(a["name"])) for a in agents]
    queries = rows_of(f"{name}_queries")
    queries = [queries[i] for i in rng.permutation(len(queries))]
    sides = []
    for split in SOURCES[name]:
        rows = [r for r in queries if r["split"] == split and r["agents"] and r["query"].strip()]
        sides.append([(r["query"], frozenset(at[a] for a in r["agents"])) for r in rows])
    oos = [r["query"] for r in rows_of("clinc150_queries") if not r["agents"]]
    oos = oos[len(oos) // 2 :]
    foreign = {"clinc150": oos, "metatool": [
        r["query"] for r in rows_of("metatool_awareness") if not r["needs_tool"]
    ]}.get(name, [*oos, *general[:60]])  # fmt: skip
    if name == "lobe":  # weak rows alone: one half each
        half = len(sides[0]) // 2
        sides = [sides[0][:half], sides[0][half:]]
    foreign = [foreign[i] for i in rng.permutation(len(foreign))[:FOREIGN]]
    return Source(cards, sides[0], sides[1][:MOST], foreign)


def engines() -> Source:
    told = tomllib.loads(ENGINES.read_text(encoding="utf-8"))
    cards = [AgentCard(engine["name"], engine["description"]) for engine in told["engine"]]
    asked = [(q, frozenset([i])) for i, e in enumerate(told["engine"]) for q in e["questions"]]
    return Source(cards, [], asked, told["out_of_scope"]["questions"])


class Looker:
    """Shows catalogs queries as `rank` would, and keeps what the gate sees."""

    def __init__(self, name: str) -> None:
        self.encoder = Remembered(name)
        self.reranker = Reranker() if name == "routing" else None
        self.negatives = Negatives.of((), self.encoder)

    def fitted(self, cards: Sequence[AgentCard]) -> Fitted:
        """Return a catalog of these cards, fitted."""
        catalog = AgentCatalog(self.encoder, MemoryRegistry())
        catalog.add(*cards)
        return Fitted(catalog.snapshot, train(catalog.snapshot, self.negatives), self.negatives)

    def look(
        self, catalog: Fitted, texts: Sequence[str], rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return evidence (n, 7), the best agents (n,), the largest cosines with a card (n,)."""
        vectors = self.encoder.encode(texts)
        turns = EncodedTurns([Reading(t, t) for t in texts], vectors, vectors[:0])
        snapshot, weight = catalog.snapshot, catalog.trained.exemplar_weight
        field = _Field.of(RankRequest(turns), rows, rows[:0], catalog)
        logits, _, _ = _scores(field, catalog)
        own = (lambda i: exemplars(snapshot.records[rows[i]])) if weight else None
        best = shortlist(logits, vectors, own)
        read = Read(np.zeros(best.logits.shape, np.float32), np.ones(len(texts), np.float32))
        if self.reranker is not None:
            best, said = rerank(best, texts, vectors, rows, (snapshot, weight), self.reranker)
            read = said
        seen = _evidence(best, read, turns, rows, catalog)
        columns = np.column_stack([getattr(seen, f.name) for f in fields(Evidence)])
        cosines = (vectors @ snapshot.descriptions[rows].T).max(axis=1)
        return columns.astype(np.float64), rows[best.best(weight)], cosines

    def see(
        self,
        catalog: Fitted,
        own: Sequence[tuple[str, frozenset[int]]],
        foreign: dict[str, Sequence[str]],
        removed: int,
    ) -> Seen:
        """Return what the gate sees of own, foreign, and ``removed`` own queries without agents."""
        everybody = np.arange(len(catalog.snapshot.records))
        parts: list[tuple[np.ndarray, np.ndarray, str, np.ndarray]] = []
        found, best, cosines = self.look(catalog, [text for text, _ in own], everybody)
        right = np.array([b in wanted for b, (_, wanted) in zip(best, own, strict=True)])
        parts.append((found, right, "own", cosines))
        for kind, texts in foreign.items():
            if texts:
                found, best, cosines = self.look(catalog, list(texts), everybody)
                parts.append((found, np.zeros(len(best), dtype=bool), kind, cosines))
        for text, wanted in own[:removed]:
            rest = np.setdiff1d(everybody, list(wanted))
            if rest.size:
                found, best, cosines = self.look(catalog, [text], rest)
                parts.append((found, np.zeros(1, dtype=bool), "removed", cosines))
        return Seen(
            np.concatenate([p[0] for p in parts]),
            np.concatenate([p[1] for p in parts]),
            np.concatenate([np.repeat(p[2], len(p[1])) for p in parts]),
            np.concatenate([p[3] for p in parts]),
        )


def draw(
    source: Source,
    pools: dict[str, list[str]],
    shots: int,
    looker: Looker,
    rng: np.random.Generator,
) -> Seen | None:
    size = min(int(np.exp(rng.uniform(np.log(2), np.log(120)))), len(source.cards))
    order = [source.known[i] for i in rng.permutation(len(source.known))[: 8 * ASKED]]
    chosen: dict[int, None] = {}
    for _, wanted in order:
        if len(chosen) < max(size // 2, 1):
            chosen.update(dict.fromkeys(sorted(wanted)))
    for agent in rng.permutation(len(source.cards)):
        if len(chosen) < size:
            chosen.setdefault(int(agent))
    at = {agent: i for i, agent in enumerate(chosen)}
    own = [(q, frozenset(at[w] for w in wanted)) for q, wanted in order if wanted <= at.keys()]
    own, near = own[:ASKED], [q for q, wanted in order if not wanted & at.keys()][: ASKED // 2]
    told = {q for q, _ in own}
    examples: dict[int, list[str]] = defaultdict(list)
    if shots:
        for q, wanted in source.known:
            (agent,) = wanted if len(wanted) == 1 else (-1,)
            if agent in at and q not in told and len(examples[agent]) < shots:
                examples[agent].append(q)
        if len(examples) < len(at):
            return None
    cards = [replace(source.cards[a], examples=tuple(examples[a])) for a in at]
    foreign: dict[str, Sequence[str]] = {"near": near, "talked": talked(own, cards, rng)}
    for kind, pool in pools.items():
        foreign[kind] = [pool[i] for i in rng.permutation(len(pool))[: ASKED // 3]]
    return looker.see(looker.fitted(cards), own, foreign, ASKED // 3)


def talked(
    own: Sequence[tuple[str, frozenset[int]]], cards: Sequence[AgentCard], rng: np.random.Generator
) -> list[str]:
    """Return texts that hold queries and names of a catalog and ask no agent for anything."""
    made = []
    for q, wanted in own[: ASKED // 2]:
        word = max(q.split(), key=len).strip(".,?!'\"")
        name = readable(cards[min(wanted)].name)
        made.append(str(rng.choice(TALKED)).format(q=q.rstrip(".?!"), w=word, n=name))
    return made


NAMES = tuple(f.name for f in fields(Evidence))


def fit_curve(x: np.ndarray, y: np.ndarray, w: np.ndarray, use: Sequence[str]) -> np.ndarray:
    """Return weights of ``use`` and the intercept of a logistic regression."""
    x = x[:, [NAMES.index(u) for u in use]]
    spread = np.where(x.std(axis=0) > 1e-6, x.std(axis=0), 1e6)  # a constant says nothing
    design = np.column_stack([x / spread, np.ones(len(x))])
    signs, w = np.where(y, 1.0, -1.0), w / w.sum()

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (design @ theta)
        slope = design.T @ (-w * signs / (1.0 + np.exp(np.clip(margins, -50, 50))))
        held = np.append(theta[:-1], 0.0)
        value = (w * np.logaddexp(0.0, -margins)).sum() + 0.5 * L2 * held @ held
        return float(value), slope + L2 * held

    bounds = [(None, 0.0) if u in FALLS else (0.0, None) for u in use] + [(None, None)]
    theta = minimize(loss, np.zeros(design.shape[1]), jac=True, bounds=bounds).x
    return np.append(theta[:-1] / spread, theta[-1])


def chances(x: np.ndarray, theta: np.ndarray, use: Sequence[str]) -> np.ndarray:
    score = x[:, [NAMES.index(u) for u in use]] @ theta[:-1] + theta[-1]
    return 1.0 / (1.0 + np.exp(-np.clip(score, -50, 50)))


Curves = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def fit(drawn: dict[str, list[Seen]]) -> Curves:
    """Return the curves of several data sets, each counting the same, and what makes them hold."""
    x, right, kind, weight, said = [], [], [], [], []
    for parts in drawn.values():
        kinds = np.concatenate([part.kind for part in parts])
        x.append(np.concatenate([part.evidence for part in parts]))
        right.append(np.concatenate([part.right for part in parts]))
        kind.append(kinds)
        weight.append(np.array([SHARES[k] / (kinds == k).sum() for k in kinds]))
        said.append(np.array([SAID[k] / (kinds == k).sum() for k in kinds]))
    rows, rights, kinds, weights, mix = map(np.concatenate, (x, right, kind, weight, said))
    own, talk = kinds == "own", kinds == "talked"
    both = own | talk
    near = fit_curve(rows[~talk], own[~talk], weights[~talk], FITS)
    meant = fit_curve(rows[both], own[both], weights[both], MEANT)
    right_curve = fit_curve(rows[own], rights[own], weights[own], RIGHT)
    odds = _log_odds(chances(rows, near, FITS) * chances(rows, meant, MEANT))
    held = LogisticRegression(C=1e9).fit(odds[:, None], own, sample_weight=mix)
    return near, meant, right_curve, np.append(held.coef_, held.intercept_)


def fitting(seen: Seen, curves: Curves) -> np.ndarray:
    """Return the probability that some agent fits, shape (n,)."""
    fits = chances(seen.evidence, curves[0], FITS) * chances(seen.evidence, curves[1], MEANT)
    slope, intercept = curves[3]
    return 1.0 / (1.0 + np.exp(-(slope * _log_odds(fits) + intercept)))


def reliability(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return mean probability, share right and share of the weight of each tenth, (bins, 3)."""
    bins = np.minimum((p * 10).astype(int), 9)
    parts = [bins == b for b in np.unique(bins)]
    means = [(np.average(p[m], weights=w[m]), np.average(y[m], weights=w[m])) for m in parts]
    return np.column_stack([means, [w[m].sum() / w.sum() for m in parts]])


Said = tuple[np.ndarray, np.ndarray, np.ndarray]


def judge(seen: Seen, curves: Curves) -> tuple[dict[str, float], Said]:
    """Return figures of a whole catalog; probabilities, what came true and weights of (n,)."""
    fits = fitting(seen, curves)
    p = fits * chances(seen.evidence, curves[2], RIGHT)
    own, out = seen.kind == "own", seen.kind == "oos"
    both = own | out
    w = np.where(own, 1.0 / own.sum(), OUT / max(out.sum(), 1))[both]
    said = p[both], seen.right[both], w
    report = {
        "right first": seen.right[own].mean(),
        "auroc": roc_auc_score(own[both], fits[both]),
        "auroc of cosine": roc_auc_score(own[both], seen.cosine[both]),
        "auroc of right": roc_auc_score(seen.right[own], p[own]),
        "calibration error": calibration_error(reliability(*said)),
    }
    if (seen.kind == "other").any():
        two = own | (seen.kind == "other")
        report["auroc of others"] = roc_auc_score(own[two], fits[two])
        report["auroc of others, cosine"] = roc_auc_score(own[two], seen.cosine[two])
    for least in THRESHOLDS:
        taken = p >= least
        report |= {
            f"of right kept at {least}": taken[own & seen.right].mean(),
            f"wrong at {least}": (taken & ~seen.right)[own].mean(),
            f"caught at {least}": (~taken)[out].mean(),
        }
        if (seen.kind == "other").any():
            report[f"other sets' caught at {least}"] = (~taken)[seen.kind == "other"].mean()
        if (seen.kind == "removed").any():
            report[f"removed caught at {least}"] = (~taken)[seen.kind == "removed"].mean()
    return {key: round(float(value), 4) for key, value in report.items()}, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="routing", help="with another there is no reranker")
    args = parser.parse_args()
    rng, looker = np.random.default_rng(SEED), Looker(args.encoder)
    pools = ("ulab", "zeroeval", "mmlu_pro")
    general = [list(dict.fromkeys(r["query"][:240] for r in rows_of(n))) for n in pools]
    general = [[pool[i] for i in rng.permutation(len(pool))[:800]] for pool in general]
    held, shown = ([q for pool in general for q in pool[side::2]] for side in (0, 1))
    held = [held[i] for i in rng.permutation(len(held))]
    sources = {name: load(name, held, rng) for name in SOURCES}
    oos = [r["query"] for r in rows_of("clinc150_queries") if not r["agents"]]
    none = [r for r in rows_of("routing_none") if r["language"] == "en"]
    talk = [r["query"] for r in none if "irrelevance" not in r["kind"]]
    drawn: dict[str, list[Seen]] = {}
    for name, source in sources.items():
        others = [q for n, s in sources.items() if n != name for q, _ in s.known[:1500]]
        pools = {"oos": oos[: len(oos) // 2], "talk": talk, "general": shown, "other": others}
        parts = [
            draw(source, pools, s, looker, rng)
            for i in range(DRAWS)
            for s in ((0, 3) if i % 3 == 0 else (0,))
        ]
        drawn[name] = [part for part in parts if part is not None]
        print(name, "drawn", flush=True)
    whole = {}
    for name, source in {**sources, "engines": engines()}.items():
        catalog = looker.fitted(source.cards)
        others = [q for n, other in sources.items() if n != name for q, _ in other.asked[:30]]
        foreign = {"oos": source.foreign, "other": others}
        whole[name] = looker.see(catalog, source.asked, foreign, 60)
        print(name, "seen", flush=True)
    report: dict[str, dict] = {}
    said = {}
    for name, seen in whole.items():
        without = fit({n: parts for n, parts in drawn.items() if n != name})
        report[name], said[name] = judge(seen, without)
    everything = reliability(*map(np.concatenate, zip(*said.values(), strict=True)))
    report["mean"] = {
        key: round(float(np.mean([report[name][key] for name in whole])), 4)
        for key in report["engines"]
    }
    report["all"] = {
        "calibration error": round(calibration_error(everything), 4),
        "reliability": everything.round(4).tolist(),
    }
    report["reliability"] = {n: reliability(*each).round(4).tolist() for n, each in said.items()}
    curves = fit(drawn)
    report["curves"] = {
        "fits": dict(zip([*FITS, "intercept"], curves[0].round(3).tolist(), strict=True)),
        "meant": dict(zip([*MEANT, "intercept"], curves[1].round(3).tolist(), strict=True)),
        "right": dict(zip([*RIGHT, "intercept"], curves[2].round(3).tolist(), strict=True)),
        "holds": dict(zip(["slope", "intercept"], curves[3].round(3).tolist(), strict=True)),
    }
    suffix = "" if args.encoder == "routing" else f"_{args.encoder}"
    (RESULTS / f"fit_cold_gate{suffix}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
