"""Trains what tells English from other languages by the letters of words (`moma_core.encoder`).

    MOMA_DATA=DIR python benchmarks/weights/train_english.py --out moma_core/packaged/english.safetensors

English are the corpus' queries and those of three LLM pools, the others its German, French, Dutch,
Spanish, Italian, Portuguese, Polish and Indonesian ones, with the packaged small talk. First each
source and each language is left out: how many of its texts are then noticed. Of English sets that
nothing was trained on, how many are taken for foreign. About two minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix, vstack
from sklearn.linear_model import LogisticRegression

import moma_core
from moma_core import RoutingEncoder, encoder
from moma_core.encoder import N_TERMS, letter_terms

LANGUAGES = ("de", "fr", "nl", "es", "it", "pt", "pl", "id")
POOLS = ("ulab", "zeroeval", "mmlu_pro")
JUDGES = ("clinc150", "banking50", "metatool", "sealtools")
ENGLISH, JUDGED, LEAST, SMALL_TALK = 30_000, 3_000, 50, 3
PACKAGED = Path(moma_core.__file__).parent / "packaged"


def rows(texts: Sequence[str]) -> csr_matrix:
    """Return texts as rows of terms, shape (n, N_TERMS)."""
    found = [letter_terms(text) for text in texts]
    starts = np.cumsum([0, *(terms.size for terms, _ in found)])
    terms, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return csr_matrix((values, terms, starts), (len(texts), N_TERMS))


def small_talk() -> list[str]:
    """Return the packaged lines of other languages that are written in Latin letters."""
    lines = (PACKAGED / "background_multilingual.txt").read_text(encoding="utf-8").splitlines()
    latin = [sum(unicodedata.name(c, "").startswith("LATIN") for c in line) for line in lines]
    return [line for line, count in zip(lines, latin, strict=True) if count > len(line) / 3]


class Trainer:
    """Fits the model to English and some other texts, and says what it notices."""

    def __init__(self, plain: Sequence[str]) -> None:
        self.plain, self.talk = rows(plain), rows(small_talk() * SMALL_TALK)
        self.encoder = RoutingEncoder()

    def fit(self, other: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return weights (N_TERMS,) and bias (1,)."""
        x = vstack([self.plain, rows(other), self.talk])
        y = np.arange(x.shape[0]) >= self.plain.shape[0]
        model = LogisticRegression(C=3.0, max_iter=300).fit(x, y)
        weights = model.coef_[0].astype(np.float16)
        return weights, model.intercept_.astype(np.float32)

    def noticed(self, texts: Sequence[str], model: tuple[np.ndarray, np.ndarray]) -> float:
        """Return the share of texts that an encoder would say it cannot read."""
        encoder._letters = lambda: (model[0].astype(np.float32), model[1])
        return float(np.mean([not self.encoder.reads(text) for text in texts]))


def main() -> None:
    """Judge, train on everything, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOMA_DATA"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, data = random.Random(args.seed), Path(args.data)  # noqa: S311 - no secret

    def table(name: str) -> list[dict]:
        return pq.read_table(data / f"{name}.parquet").to_pylist()

    corpus = {(r["query"], r["language"], r["source"])
              for r in table("routing_pairs") + table("routing_none")}  # fmt: skip
    plain = rng.sample(sorted(q for q, language, _ in corpus if language == "en"), ENGLISH)
    plain += [row["query"] for name in POOLS for row in table(name)[::4]]
    other = sorted(row for row in corpus if row[1] in LANGUAGES)
    trainer = Trainer(plain)
    for place, left in ((2, sorted({r[2] for r in other})), (1, LANGUAGES)):
        for each in left:
            model = trainer.fit([row[0] for row in other if row[place] != each])
            for language in LANGUAGES:
                texts = [q for q, of, s in other if of == language and each in (of, s)]
                if len(texts) >= LEAST:
                    share = trainer.noticed(texts, model)
                    print(f"without {each}: {language}, {len(texts)} texts, noticed {share:.3f}")
    model = trainer.fit([text for text, _, _ in other])
    for name in JUDGES:
        texts = [row["query"] for row in table(f"{name}_queries")]
        share = trainer.noticed(rng.sample(texts, min(len(texts), JUDGED)), model)
        print(f"{name}: English, taken for foreign {share:.4f}")
    save_file({"weights": model[0], "bias": model[1]}, args.out)


if __name__ == "__main__":
    main()
