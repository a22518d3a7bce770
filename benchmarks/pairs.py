"""Judged pairs: the head beside outcome frequencies and Bradley-Terry, on queries held out.

    python benchmarks/pairs.py [--seeds 3] [--out FILE.json]

A fifth of the queries is held out by seed. alpaca_eval2_pairs: 44,265 judged pairs of 56 LLMs, all
against one (CC-BY-NC: measured only). zeroeval: ten random pairs of LLMs a query, outcomes by their
scores. Log loss of five outcomes, mean over pairs: of the head; of the levels that it starts from
(Bradley-Terry with ties and strong wins, fitted on the training pairs, whatever the query); of the
held-out pairs' own frequencies. Accuracy of the winner, mean over decided pairs. "elo" is rated on
the held-out pairs themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from llms import vectors_of

from moma_core import LLMDataset, RoutingEncoder
from moma_core.llms.heads.judged import outcomes_of_scores
from moma_core.training.evaluate_llms import evaluate_pairs
from moma_core.training.pairs import train_pairs

KEYS = (
    "n_pairs", "outcome_log_loss", "bradley_terry_log_loss", "base_rate_log_loss",
    "winner_accuracy", "bradley_terry_accuracy", "elo_accuracy",
)  # fmt: skip


class Remembering:
    """The packaged encoder, its vectors of known queries kept."""

    def __init__(self, known: LLMDataset, table: str) -> None:
        self._encoder = RoutingEncoder()
        self.fingerprint, self.dimension = self._encoder.fingerprint, self._encoder.dimension
        self._known = dict(zip(known.queries, vectors_of(table, known, self._encoder), strict=True))

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return vectors, shape (n, d)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, self._encoder.encode(new), strict=True))
        return np.array([self._known[text] for text in texts], np.float32)


def alpaca(folder: Path) -> tuple[list[dict[str, Any]], Remembering]:
    rows = pq.read_table(folder / "alpaca_eval2_pairs.parquet").to_pylist()
    known = LLMDataset.read(folder / "alpaca_eval2.parquet")
    return rows, Remembering(known, "alpaca_eval2")


def zeroeval(folder: Path) -> tuple[list[dict[str, Any]], Remembering]:
    data, rng = LLMDataset.read(folder / "zeroeval.parquet"), np.random.default_rng(0)
    rows = []
    for query, scores in zip(data.queries, data.scores, strict=True):
        for _ in range(10):
            a, b = rng.permutation(len(data.llms))[:2].tolist()
            code = int(outcomes_of_scores(scores[a : a + 1], scores[b : b + 1])[0])
            rows.append(
                {"query": query, "llm_a": data.llms[a], "llm_b": data.llms[b], "outcome": code}
            )
    return rows, Remembering(data, "zeroeval")


def run(rows: list[dict[str, Any]], encoder: Remembering, seed: int) -> dict[str, Any]:
    queries = sorted({row["query"] for row in rows})
    chosen = np.random.default_rng([seed, 5]).random(len(queries)) < 0.2
    held = {query for query, out in zip(queries, chosen, strict=True) if out}
    prices = {row[side]: 1.0 for row in rows for side in ("llm_a", "llm_b")}
    with tempfile.TemporaryDirectory() as place:
        train, test = Path(place) / "train.parquet", Path(place) / "test.parquet"
        pq.write_table(pa.Table.from_pylist([r for r in rows if r["query"] not in held]), train)
        pq.write_table(pa.Table.from_pylist([r for r in rows if r["query"] in held]), test)
        router = train_pairs(train, encoder, prices=prices, seed=seed)
        report = evaluate_pairs(router, test, encoder)
    chose = {key: router.metadata[key] for key in ("kept", "across", "net")}
    return {"seed": seed, **{key: round(report[key], 4) for key in KEYS}, **chose}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pairs.json"))
    options = parser.parse_args()
    folder, found = Path(os.environ.get("MOMA_DATA", "../shared/data")), []
    for table, made in (("alpaca_eval2_pairs", alpaca), ("zeroeval", zeroeval)):
        rows, encoder = made(folder)
        for seed in range(options.seeds):
            found.append({"pairs": table, **run(rows, encoder, seed)})
            print(found[-1], flush=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
