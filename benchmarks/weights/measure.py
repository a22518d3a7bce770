"""Measures an encoder and rerankers on catalogs whose tools and queries were not trained on.

    python benchmarks/weights/measure.py --weights DIR [--reranker FILE ...] [--count N]

Descriptions (or names, where there is nothing else) alone. For each set: the share of queries whose
wanted agent comes first, by cosine, by logit among the ten nearest, and by both; how well queries
that no agent fits are told apart by the largest cosine and by the largest logit (AUROC); the same
for queries made of the set's own with templates held out of training (`reranker_queries.py`):
quoted, negated, asked about. ``--cases`` adds the project's small cases on words, never tuned on. Data from
MOMA_DATA. int8 ONNX, as it ships.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
from reranker_queries import TEXT_TOOL, mention, split_templates
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer

QUERY_TOKENS, CARD_TOKENS, NEAREST = 40, 72, 10
WEIGHTS = (0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
TEMPERATURE = 0.05
POOL_SOURCES = ("botframework-chitchat", "general-llm-requests")
HELD_OUT = ("mcp-bench", "ToolTalk", "WorkBench", "RestBench", "botframework-solutions-lu", "STAR")

CASES = (
    ("I do not want to know the weather, just book a flight to Rome", "travel"),
    ("Translate 'will it rain in Oslo?' to French", ""),
    ("what does the word 'balance' mean?", ""),
    ("explain how interest on a bank balance is computed", ""),
    ("bank bank bank bank: who wrote Hamlet?", ""),
    ("Why do people talk about the weather so much in novels?", ""),
    ("never book a hotel for me", ""),
    ("Write a poem about booking a flight to Rome", ""),
    ("what is the balance of power in Europe?", ""),
    ("will it rain in Oslo?", "weather"),
    ("pay the rent", "bank"),
    ("book a meeting with Ada", "calendar"),
    ("translate 'will it rain' to French", "translate"),
)
CASE_CARDS = {
    "weather": "Weather forecast for a place",
    "calendar": "Reads and books appointments",
    "travel": "Books flights and hotels",
    "bank": "Shows balances and makes payments",
}


@dataclass(frozen=True)
class Catalog:
    """Agents, queries with what they want, and queries that want none."""

    name: str
    cards: list[str]
    queries: list[tuple[str, set[int]]]
    none: list[str]


class Nets:
    """Encoder and one reranker over shared word embeddings."""

    def __init__(self, weights: Path, reranker: Path, vocabulary: Path, threads: int) -> None:
        found = load_file(weights / "words.safetensors")
        self._rows, self._scales = found["rows"], found["scales"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self._encoder, self._reranker = (
            onnxruntime.InferenceSession(str(p), options, providers=["CPUExecutionProvider"])
            for p in (weights / "encoder.onnx", reranker)
        )
        self._tokens = Tokenizer.from_str(vocabulary.read_text())
        self._tokens.no_padding()
        self._tokens.no_truncation()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, 384)."""
        rows = self._ids(texts, 128)
        out = np.empty((len(rows), 384), dtype=np.float32)
        order = np.argsort([len(r) for r in rows])
        for start in range(0, len(order), 32):
            at = order[start : start + 32]
            tokens, mask = _padded([rows[i] for i in at])
            (out[at],) = self._encoder.run(None, {"words": self._words(tokens), "mask": mask})
        return out

    def logits(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return a logit for each query and card."""
        asked = self._ids([q for q, _ in pairs], QUERY_TOKENS)
        cards = self._ids([c for _, c in pairs], CARD_TOKENS)
        rows = [a + b[1:] for a, b in zip(asked, cards, strict=True)]
        out = np.empty(len(rows), dtype=np.float32)
        order = np.argsort([len(r) for r in rows])
        for start in range(0, len(order), 16):
            at = order[start : start + 16]
            tokens, mask = _padded([rows[i] for i in at])
            kinds = mask.copy()
            for j, i in enumerate(at):
                kinds[j, : len(asked[i])] = 0
            feed = {"words": self._words(tokens), "mask": mask, "kinds": kinds}
            (out[at],) = self._reranker.run(None, feed)
        return out

    def _words(self, tokens: np.ndarray) -> np.ndarray:
        return self._rows[tokens] * self._scales[tokens][..., None]

    def _ids(self, texts: Sequence[str], most: int) -> list[list[int]]:
        found = (e.ids for e in self._tokens.encode_batch([t[:4000] for t in texts]))
        return [r if len(r) <= most else r[: most - 1] + r[-1:] for r in found]


def _padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    mask = np.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, 1
    return tokens, mask


def card(name: str, said: str | None) -> str:
    """Return a card's text as the reranker reads it."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", re.sub(r"[_\-./]", " ", name))
    spaced = re.sub(r"\s+", " ", spaced).strip().lower()
    return f"{spaced}: {said[:420].strip()}" if said else spaced


def public(data: Path, name: str, count: int, rng: np.random.Generator) -> Catalog:
    """Return one of the tables of agents."""
    agents = pq.read_table(data / f"{name}_agents.parquet").to_pylist()
    rows = pq.read_table(data / f"{name}_queries.parquet").to_pylist()
    at = {a["name"]: i for i, a in enumerate(agents)}
    rows = [r for r in rows if r["split"] in ("val", "weak")]
    asked = [(r["query"], {at[a] for a in r["agents"]}) for r in rows if r["agents"]]
    none = [r["query"] for r in rows if not r["agents"]]
    if name == "metatool":
        table = pq.read_table(data / "metatool_awareness.parquet").to_pylist()
        none = [r["query"] for r in table if not r["needs_tool"]]
    cards = [card(a["name"], a["description"]) for a in agents]
    return Catalog(name, cards, _some(asked, count, rng), _some(none, count // 2, rng))


def held_out(data: Path, source: str, count: int, rng: np.random.Generator) -> Catalog:
    """Return a held-out source of the corpus, all its English tools as one catalog."""
    tools: dict[str, int] = {}
    wanted: dict[str, set[int]] = {}
    for row in pq.read_table(data / "routing_pairs.parquet").to_pylist():
        if row["source"] != source or not str(row["language"] or "en").startswith("en"):
            continue
        text = card(row["tool_name"], row["tool_description"])
        wanted.setdefault(row["query"], set()).add(tools.setdefault(text, len(tools)))
    for row in pq.read_table(data / "routing_tools.parquet").to_pylist():
        if row["source"] == source and len(tools) < 600:
            tools.setdefault(card(row["tool_name"], row["tool_description"]), len(tools))
    return Catalog(source, list(tools), _some(list(wanted.items()), count, rng), [])


def _some(items: list[Any], count: int, rng: np.random.Generator) -> list[Any]:
    return [items[i] for i in sorted(rng.permutation(len(items))[:count])]


def measured(catalog: Catalog, nets: Nets, rng: np.random.Generator) -> dict[str, float]:
    """Return the figures of one catalog."""
    templates = split_templates()[1]
    made = []
    for query, want in catalog.queries:
        about = catalog.cards[next(iter(want))]
        if len(query) < 120:
            made.append(mention(rng, templates, query, about))
    made = made[: len(catalog.queries) // 2]
    asked = [q for q, _ in catalog.queries]
    texts = asked + catalog.none + made
    cosines = nets.encode(texts) @ nets.encode(catalog.cards).T
    near = np.argsort(-cosines, axis=1)[:, :NEAREST]
    pairs = [(text, catalog.cards[j]) for text, row in zip(texts, near) for j in row]
    logits = nets.logits(pairs).reshape(len(texts), -1)
    near_cosines = np.take_along_axis(cosines, near, axis=1)
    share = near_cosines / TEMPERATURE
    share -= np.log(np.exp(share - share.max(1, keepdims=True)).sum(1, keepdims=True))
    n = len(asked)
    hit = np.array(
        [[j in want for j in row] for row, (_, want) in zip(near, catalog.queries, strict=False)]
    )

    def right(score: np.ndarray) -> float:
        return float(hit[np.arange(n), score[:n].argmax(1)].mean())

    found = {"n": n, "cosine": right(near_cosines), "in ten": float(hit.any(1).mean())}
    found |= {f"+{w}": right(share + w * logits) for w in WEIGHTS}
    found["logit"] = right(logits)
    pick = (share + 0.15 * logits).argmax(1)
    picked = logits[np.arange(len(texts)), pick]
    best_cosine, best_logit = near_cosines.max(1), logits.max(1)
    spread = best_cosine[:n].std(), best_logit[:n].std()
    both = best_cosine / spread[0] + best_logit / spread[1]
    # Tools that work on texts may want a made-up query: they are not asked about those.
    fair = np.array([not any(TEXT_TOOL.search(catalog.cards[j]) for j in row[:3]) for row in near])
    parts = {
        "none": np.arange(n, n + len(catalog.none)),
        "made": np.arange(n + len(catalog.none), len(texts)),
    }
    for name, rows in parts.items():
        rows = rows[fair[rows]] if name == "made" else rows
        if len(rows) < 20:
            continue
        y = np.r_[np.ones(n), np.zeros(len(rows))]
        at = np.r_[np.arange(n), rows]
        for label, score in (
            ("cos", best_cosine),
            ("logit", best_logit),
            ("pick", picked),
            ("both", both),
        ):
            found[f"{name} {label}"] = float(roc_auc_score(y, score[at]))
        found[f"{name} n"] = len(rows)
        found[f"{name} logit>0"] = float((best_logit[rows] > 0).mean())
    found["in logit>0"] = float((best_logit[:n] > 0).mean())
    return found


def main() -> None:
    """Print a row a set and reranker; append them as JSON lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="MiniLM's tokenizer.json")
    parser.add_argument("--reranker", type=Path, nargs="*", default=[])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--sets",
        nargs="*",
        default=["metatool", "clinc150", "banking50", "lobe", "sealtools", *HELD_OUT],
    )
    parser.add_argument("--cases", action="store_true")
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    data = Path(os.environ.get("MOMA_DATA", "../shared/data"))
    for path in options.reranker or [options.weights / "reranker.onnx"]:
        nets = Nets(options.weights, path, options.tokenizer, options.threads)
        if options.cases:
            cards = [card(n, d) for n, d in CASE_CARDS.items()]
            for query, want in CASES:
                row = (
                    [*cards, card("translate", "Translates texts")]
                    if want == "translate"
                    else cards
                )
                got = nets.logits([(query, c) for c in row])
                names = [*CASE_CARDS, "translate"]
                best = names[int(got.argmax())] if got.max() > 0 else ""
                print(
                    "ok   " if best == want else "WRONG",
                    f"{query[:62]:62}",
                    np.round(got, 1),
                    flush=True,
                )
        for name in options.sets:
            rng = np.random.default_rng(7)
            began = time.time()
            make = held_out if name in HELD_OUT else public
            found = measured(make(data, name, options.count, rng), nets, rng)
            shown = " ".join(
                f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in found.items()
            )
            print(f"{path.name} {name}: {shown} ({time.time() - began:.0f} s)", flush=True)
            if options.log:
                with options.log.open("a") as file:
                    file.write(json.dumps({"reranker": str(path), "set": name, **found}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
