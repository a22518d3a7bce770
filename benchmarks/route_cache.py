"""The route cache: the cosine from which queries mean the same, wrong hits, hit rate, times.

    MOMA_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/route_cache.py

A router of CLINC150's 150 agents, 10 examples each. Fits on 8,000 train rows: half of them are
known, the other half asked, and the threshold is the least cosine, in hundredths, from which at
most .25 % of the nearest known queries that an agent took with probability .8 or more went
elsewhere than the asked one. Then it routes 2,000 more train queries and, with those known, all
val queries with an intent. A near hit is wrong if the router without a cache decides otherwise; how
often the query that it was made for has another intent is counted beside. Of hits by the words: val
queries with other capitals and spaces. Writes benchmarks/results/route_cache.json.
"""

from __future__ import annotations

import ast
import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from moma_core import MoMARouter, RoutingEncoder
from moma_core.agents.data import read_agents
from moma_core.route_cache import NEAR, RouteCache

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/route_cache.json")
WRONG, SURE, KNOWN, FITTED, SEED = 0.0025, 0.8, 2_000, 8_000, 0
MEANS = re.compile(r"means ('.*'|\".*\") \(")


def rows(split: str) -> tuple[list[str], list[str]]:
    """Return queries of CLINC150 and their intents."""
    table = pq.read_table(DATA / "clinc150_queries.parquet").to_pylist()
    found = [(r["query"], r["agents"][0]) for r in table if r["split"] == split and r["agents"]]
    order = np.random.default_rng(SEED).permutation(len(found))
    texts, intents = zip(*[found[i] for i in order], strict=True)
    return list(texts), list(intents)


def fitted(router: MoMARouter, texts: list[str], intents: list[str]) -> dict[str, object]:
    """Return the threshold by the nearest known query of each asked one, and its neighbourhood."""
    vectors, half = router.encoder.encode(texts), len(texts) // 2
    decisions = router.route_batch(texts)
    sure = np.array([d.kind == "agent" and d.probability >= SURE for d in decisions[:half]])
    cosines = vectors[half:] @ vectors[:half][sure].T
    nearest, best = np.flatnonzero(sure)[cosines.argmax(axis=1)], cosines.max(axis=1)
    targets = np.array([decision.target for decision in decisions])
    wrong = targets[nearest] != targets[half:]
    other = np.array(intents)[nearest] != np.array(intents[half:])
    rates = {
        f"{at:.2f}": [float(x[best >= at].mean()) for x in (wrong, other)]
        + [float((best >= at).mean())]
        for at in np.arange(0.86, 0.985, 0.01)
    }
    least = next((at for at in reversed(rates) if rates[at][0] > WRONG), "0.85")
    return {"threshold": round(float(least) + 0.01, 2), "wrong_other_intent_hits_by_cosine": rates}


def near_hits(router: MoMARouter, known: tuple, asked: tuple) -> dict[str, float]:
    """Return how often queries are served what was decided for another, and how often wrongly."""
    fresh = [decision.target for decision in router.route_batch(asked[0])]
    router.cache = RouteCache()
    for text in known[0]:
        router.route(text)
    of, hits = dict(zip(*known, strict=True)), []
    for text, intent, target in zip(*asked, fresh, strict=True):
        decision = router.route(text)
        told = MEANS.match(decision.trace[-1].detail)
        if told:
            source = next(q for q in of if q.startswith(ast.literal_eval(told[1])))
            hits.append((of[source] != intent, decision.target != target))
        of[text] = intent
    wrong = np.mean(hits, axis=0).tolist()
    return {
        "asked": len(asked[0]),
        "hits": len(hits),
        "hit_rate": len(hits) / len(asked[0]),
        "wrong_by_intent": wrong[0],
        "wrong_by_target": wrong[1],
    }


def by_words(router: MoMARouter, asked: tuple) -> dict[str, float]:
    """Return hits of other capitals and spaces, and how often the router would decide otherwise."""
    router.cache = RouteCache(near=None)
    hits = wrong = 0
    texts = asked[0][:1_000]
    changed = [f" {text.upper()} " if i % 2 else text.title() for i, text in enumerate(texts)]
    for text in texts:
        router.route(text)
    served = [router.route(text) for text in changed]
    router.cache = False
    for text, decision in zip(changed, served, strict=True):
        if decision.trace[0].detail.startswith("same"):
            hits += 1
            wrong += router.route(text).target != decision.target
    return {"hit_rate": hits / len(texts), "wrong": wrong / max(hits, 1)}


def times(router: MoMARouter, texts: list[str], encoder: RoutingEncoder) -> dict[str, float]:
    """Return medians of the encoder, of hits and of a route without a cache."""
    known, new = texts[:KNOWN], texts[KNOWN : KNOWN + 300]
    router.cache = RouteCache(near=1e-6)  # every query is near: what a near hit costs at most
    for text in known:
        router.route(text)
    exact = [timed(router.route, text) for text in known]
    encode, near = [], []
    for text in new:
        encode.append(timed(encoder.encode, [text]))
        near.append(timed(router.route, text))
    router.cache = False
    whole = [timed(router.route, text) for text in new[:100]]
    e, n = float(np.median(encode)), float(np.median(near))
    return {
        "exact_us": float(np.median(exact) * 1e6),
        "encode_ms": e * 1e3,
        "near_ms": n * 1e3,
        "near_over_encode": n / e,
        "route_ms": float(np.median(whole) * 1e3),
    }


def timed(call, argument) -> float:
    start = time.perf_counter()
    call(argument)
    return time.perf_counter() - start


def elsewhere(encoder: RoutingEncoder) -> dict[str, float]:
    """Return hits and wrong ones by the nearest known query of MetaTool, at the shipped cosine."""
    table = pq.read_table(DATA / "metatool_queries.parquet").to_pylist()
    parts = {
        split: [(r["query"], frozenset(r["agents"])) for r in table if r["split"] == split]
        for split in ("train", "val")
    }
    (known, of), (asked, wanted) = (zip(*rows[:4_000], strict=True) for rows in parts.values())
    cosines = encoder.encode(list(asked)) @ encoder.encode(list(known)).T
    nearest, best = cosines.argmax(axis=1), cosines.max(axis=1)
    wrong = np.array([of[row] != want for row, want in zip(nearest, wanted, strict=True)])
    hits = best >= NEAR
    return {"asked": len(asked), "hit_rate": float(hits.mean()), "wrong": float(wrong[hits].mean())}


def main() -> None:
    encoder = RoutingEncoder(threads=1)
    train, val = rows("train"), rows("val")
    report: dict[str, object] = {"load": os.getloadavg()[0], "shipped": NEAR}
    cards = read_agents(DATA / "clinc150_agents.parquet")
    own: dict[str, list[str]] = {card.name: [] for card in cards}
    for text, intent in zip(*train, strict=True):
        own[intent].append(text)
    # Examples are other queries than those that become known, as of users who were never seen.
    cards = [replace(card, examples=tuple(own[card.name][-10:])) for card in cards]
    router = MoMARouter.from_cards(cards, encoder=encoder)
    router.fit()
    report["fit"] = fitted(
        router, train[0][KNOWN : KNOWN + FITTED], train[1][KNOWN : KNOWN + FITTED]
    )
    print(json.dumps(report["fit"]), flush=True)
    report["times"] = times(router, train[0], encoder)
    print(json.dumps(report["times"]), flush=True)
    report["near"] = near_hits(router, (train[0][:KNOWN], train[1][:KNOWN]), val)
    print(json.dumps(report["near"]), flush=True)
    report["words"] = by_words(router, val)
    print(json.dumps(report["words"]), flush=True)
    report["metatool"] = elsewhere(encoder)
    print(json.dumps(report["metatool"]), flush=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
