"""Other languages: right first from descriptions, and what the English encoder says it cannot read.

    MOMA_DATA=../shared/data python benchmarks/languages.py [--count 150]

Fifteen agents and sixty queries in English, German, Spanish, Chinese and Arabic (languages.toml,
written before any was routed), and of the corpus ACEBench in Chinese, FunctionChat in Korean, home
assistant intents in German (English cards there). With the multilingual encoder, the English one,
and the plain cosine of each: right first; with the English one also how many queries it notices
that it cannot read, and the share that goes to a wrong agent with a probability above .5. Writes
benchmarks/results/languages.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from moma_core import AgentCard, MoMARouter, RoutingEncoder
from moma_core.encoder import MultilingualEncoder

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
HERE = Path(__file__).parent
OUT = HERE / "results" / "languages.json"
LANGUAGES = ("en", "de", "es", "zh", "ar")
CORPUS = {
    "ACEBench, Chinese": ("ACEBench", "zh"),
    "FunctionChat, Korean": ("FunctionChat-Bench", "ko"),
    "home assistant, German": ("home-assistant-intents", "de"),
}
SURE, SEED = 0.5, 0

Asked = list[tuple[str, frozenset[str]]]


def own(language: str) -> tuple[list[AgentCard], Asked]:
    """Return the agents of languages.toml and their queries."""
    agents = tomllib.loads((HERE / "languages.toml").read_text(encoding="utf-8"))["agent"]
    cards = [AgentCard(agent["name"], agent[language][0]) for agent in agents]
    return cards, [(q, frozenset([a["name"]])) for a in agents for q in a[language][1:]]


def corpus(source: str, language: str, count: int) -> tuple[list[AgentCard], Asked]:
    """Return the tools asked for in the largest catalog of a source in a language, and queries."""
    rows = pq.read_table(DATA / "routing_pairs.parquet").to_pylist()
    rows = [r for r in rows if r["source"] == source and r["language"] == language]
    names = [row["catalog"] for row in rows]
    catalog = max(sorted(set(names)), key=names.count)
    rows = [row for row in rows if row["catalog"] == catalog]
    wanted: dict[str, set[str]] = {}
    said: dict[str, str] = {}
    for row in rows:
        wanted.setdefault(row["query"], set()).add(row["tool_name"])
        said.setdefault(row["tool_name"], row["tool_description"] or row["tool_name"])
    queries = sorted(wanted)
    picked = np.random.default_rng(SEED).permutation(len(queries))[:count]
    cards = [AgentCard(name, text) for name, text in said.items()]
    return cards, [(queries[i], frozenset(wanted[queries[i]])) for i in picked]


def measured(cards: Sequence[AgentCard], asked: Asked, encoder: object) -> dict[str, float]:
    texts = [text for text, _ in asked]
    router = MoMARouter.from_cards(cards, llms=None, encoder=encoder)
    rankings = router.rank(texts, 1)
    right = np.array([r[0].name in w for r, (_, w) in zip(rankings, asked, strict=True)])
    sure = np.array([r.best_probability > SURE for r in rankings])
    near = (
        encoder.encode(texts)
        @ encoder.encode([f"{c.name.replace('_', ' ')}: {c.description}" for c in cards]).T
    )
    cosine = [cards[i].name in w for i, (_, w) in zip(near.argmax(axis=1), asked, strict=True)]
    found = {
        "right_first": float(right.mean()),
        "cosine": float(np.mean(cosine)),
        "sure_and_wrong": float((sure & ~right).mean()),
        "taken": float(np.mean([r.fits for r in rankings])),
    }
    if isinstance(encoder, RoutingEncoder):
        found["noticed"] = float(np.mean([not encoder.reads(text) for text in texts]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=150)
    options = parser.parse_args()
    sets = {f"own, {language}": own(language) for language in LANGUAGES}
    sets |= {name: corpus(*where, options.count) for name, where in CORPUS.items()}
    encoders = {"multilingual": MultilingualEncoder(), "English": RoutingEncoder()}
    report: dict[str, dict[str, object]] = {}
    for name, (cards, asked) in sets.items():
        report[name] = {"agents": len(cards), "queries": len(asked)}
        for label, encoder in encoders.items():
            report[name][label] = measured(cards, asked, encoder)
        print(name, json.dumps(report[name]), flush=True)
        OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
