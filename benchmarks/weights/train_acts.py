"""Trains what tells requests from replies and statements (`moma_core.agents.conversation`).

    MOMA_DATA=DIR python benchmarks/weights/train_acts.py --out moma_core/packaged/acts.safetensors

Requests are the corpus' English queries and short ones by templates; replies and statements are the templates beside this file,
filled with a seed. Templates are held out whole to choose how strongly weights are held near zero.
About a minute.
"""

from __future__ import annotations

import argparse
import os
import random
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from moma_core.agents.conversation import N_TERMS, act_terms

HERE = Path(__file__).parent
PER_TEMPLATE = 60  # texts at most
REQUESTS = 30_000
STYLES = (
    str,
    str.lower,
    str.capitalize,
    lambda t: t.rstrip(".?!,"),
    lambda t: t.lower().rstrip("."),
)


def templates(name: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the templates of a file and the words that fill them."""
    body, slots = (HERE / name).read_text(encoding="utf-8").split("[slots]\n")
    lines = [line for line in body.splitlines() if line and not line.startswith("#")]
    fill = dict(line.split(": ", 1) for line in slots.splitlines())
    return lines, {k: [w.replace("_", " ") for w in v.split()] for k, v in fill.items()}


def filled(template: str, slots: dict[str, list[str]], rng: random.Random) -> str:
    """Return one text of a template."""
    text = re.sub(r"{(\w+)}", lambda match: rng.choice(slots[match[1]]), template)
    return rng.choice(STYLES)(text)


def rows(texts: list[str]) -> csr_matrix:
    """Return texts as rows of terms, shape (n, N_TERMS)."""
    terms = [act_terms(text) for text in texts]
    indptr = np.cumsum([0, *map(len, terms)])
    indices = np.concatenate([np.array(t, dtype=np.int32) for t in terms])
    return csr_matrix((np.ones(indices.size, np.float32), indices, indptr), (len(texts), N_TERMS))


def requests(data: Path, rng: random.Random) -> list[str]:
    """Return queries of people who want something, short ones twice: those are like replies."""
    table = pq.read_table(data / "routing_pairs.parquet").to_pylist()
    noisy = ("nlu++", "MultiDoGO", "ToolTalk", "SGD")  # hold what is said inside conversations
    found = {r["query"] for r in table if r["language"] == "en" and r["source"] not in noisy}
    found |= {r["query"] for r in table if r["source"] == "SGD" and len(r["query"].split()) > 8}
    chosen = rng.sample(sorted(found), min(REQUESTS, len(found)))
    return [rng.choice(STYLES)(text) for text in chosen]


def general_requests(data: Path, rng: random.Random) -> list[str]:
    """Return the first sentences of what people ask an LLM."""
    none = pq.read_table(data / "routing_none.parquet").to_pylist()
    found = [r["query"] for r in none if r["language"] == "en" and r["kind"] == "general request"]
    texts = sorted({re.split(r"(?<=[.?!])\s|\n", text.strip())[0][:300] for text in found})
    return [style(text) for text in texts if text for style in rng.sample(STYLES, 2)]


def main() -> None:
    """Train, print what held-out templates say, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOMA_DATA"), required=False)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)  # noqa: S311 - no secret
    texts, labels, groups = [], [], []
    wanted, asked = requests(Path(args.data), rng), general_requests(Path(args.data), rng)
    texts += wanted + asked
    labels += [0] * len(texts)
    groups += list(range(len(texts)))
    for label, name in ((0, "requests.txt"), (1, "replies.txt"), (2, "statements.txt")):
        lines, slots = templates(name)
        for i, line in enumerate(lines):
            made = sorted({filled(line, slots, rng) for _ in range(PER_TEMPLATE)})
            texts += made
            labels += [label] * len(made)
            groups += [i] * len(made)
    x, y, group = rows(texts), np.array(labels), np.array(groups)
    weight = np.array([1.0, 1.0, 1.0]) * len(y) / (3 * np.bincount(y))
    best = (np.inf, 0.0)
    held = group % 5 == 0
    for strength in (0.03, 0.06, 0.1, 0.2):
        model = LogisticRegression(C=strength, max_iter=400)
        model.fit(x[~held], y[~held], sample_weight=weight[y[~held]])
        p = model.predict_proba(x[held])
        loss = float(np.average(-np.log(p[np.arange(len(p)), y[held]]), weights=weight[y[held]]))
        right = [float((p[y[held] == k].argmax(axis=1) == k).mean()) for k in range(3)]
        print(f"strength {strength}: held-out log loss {loss:.3f}, right {np.round(right, 3)}")
        if loss < best[0] + 0.01:  # of about equals the surer one
            best = (min(loss, best[0]), strength)
    model = LogisticRegression(C=best[1], max_iter=400).fit(x, y, sample_weight=weight[y])
    xs = rows([*wanted, *asked])
    ys = np.repeat([0, 1], [len(wanted), len(asked)])
    general = LogisticRegression(C=0.03, max_iter=400, class_weight="balanced").fit(xs, ys)
    print(f"{len(asked)} requests to an LLM, right on both sides {general.score(xs, ys):.3f}")
    save_file(
        {
            "weights": np.ascontiguousarray(model.coef_.T.astype(np.float16)),
            "bias": model.intercept_.astype(np.float32),
            "general": np.ascontiguousarray(general.coef_[0].astype(np.float16)),
            "general_bias": general.intercept_.astype(np.float32),
        },
        args.out,
    )
    print(f"strength {best[1]}, {len(y)} texts -> {args.out}")


if __name__ == "__main__":
    main()
