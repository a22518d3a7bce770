"""Train the packaged low-rank adapter of SmolLM2 for the noisy channel (eq. 26).

    MOMA_DATA=../shared/data python benchmarks/train_choice_adapter.py --minutes 80

Listwise: softmax over a shortlist of our ranker (descriptions alone) of .7 x log prior + scale x
log P(query | card) a token, against the right agent. 30 % of MetaTool's and of Seal-Tools' tools
are held out by name (neither asked for nor on a list); `benchmarks/decoding_quality.py` measures on
MetaTool's, and on CLINC150, of which nothing is seen. The packaged one had 80 minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from moma_core import AgentCard, RoutingEncoder
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.data import read_agents
from moma_core.agents.training import ranked_lists
from moma_core.decoding import LocalLLM
from moma_core.decoding.evidence import agent_prompt
from moma_core.decoding.local_llm import PACKAGED_ADAPTERS
from moma_core.registry.memory import MemoryRegistry

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
RANK, ALPHA, FIRST_LAYER = 8, 16, 18  # of 30 layers: those below need no backward pass
CANDIDATES, LEARNING_RATE, BATCH, SEED = 5, 5e-4, 8, 0
HELD_OUT = 0.3
MOST_TOKENS = 48  # of a query


class Row(NamedTuple):
    """A query, the agent it wants, and the ranker's shortlist."""

    query: str
    wanted: str
    cards: list[AgentCard]
    log_prior: np.ndarray[Any, Any]


def held_out_names(cards: list[AgentCard]) -> set[str]:
    """Return the names of a table's tools that training sees nothing of."""
    order = np.random.default_rng(SEED).permutation(len(cards))[: int(len(cards) * HELD_OUT)]
    return {cards[i].name for i in order}


def shortlists(table: str, split: str, side: str, count: int, length: int, seed: int) -> list[Row]:
    """Return queries with shortlists among ``train``, ``held`` or ``all`` tools."""
    cards = read_agents(DATA / f"{table}_agents.parquet")
    held = held_out_names(cards)
    use = {c.name: c for c in cards if side == "all" or (c.name in held) == (side == "held")}
    rows = pq.read_table(DATA / f"{table}_queries.parquet").to_pylist()
    asked = [
        (row["query"], row["agents"][0])
        for row in rows
        if row["split"] == split and len(row["agents"]) == 1 and row["agents"][0] in use
    ]
    asked = [(query, wanted) for query, wanted in asked if len(query) <= 400]
    picks = np.random.default_rng(seed).permutation(len(asked))[:count]
    asked = [asked[i] for i in picks]
    encoder = RoutingEncoder(threads=1)
    catalog = AgentCatalog(encoder, MemoryRegistry())
    catalog.put(*use.values())
    texts = [query for query, _ in asked]
    found = ranked_lists(catalog.snapshot, texts, encoder.encode(texts))
    return [
        Row(r.query, wanted, [use[n] for n in r.names[:length]], np.array(r.log_prior[:length]))
        for r, (_, wanted) in zip(found, asked, strict=True)
    ]


class LowRank(nn.Module):
    """A frozen linear layer plus a trainable product of two thin matrices."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.a = nn.Parameter(torch.randn(RANK, linear.in_features) / linear.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return W x + (alpha / rank) B A x."""
        low = functional.linear(functional.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))
        return self.linear(x) + low * (ALPHA / RANK)


def adapt(model: Any) -> list[nn.Parameter]:
    """Put a low-rank product beside every linear layer from `FIRST_LAYER` on; freeze the rest."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for block in model.model.layers[FIRST_LAYER:]:
        for part in (block.self_attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(part, name, LowRank(layer))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def log_likelihoods(llm: LocalLLM, cards: list[AgentCard], query: str) -> torch.Tensor:
    """Return log P(query | card) a token, shape (k,)."""
    said = llm.tokens(" " + " ".join(query.split()))[:MOST_TOKENS]
    prompts = [llm.prompt(agent_prompt(card)) for card in cards]
    longest = max(map(len, prompts)) + len(said)
    ids = torch.zeros(len(cards), longest, dtype=torch.long)
    seen = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(said) - len(prompt) :] = torch.tensor(prompt + said)
        seen[row, longest - len(said) - len(prompt) :] = 1
    places = (seen.cumsum(1) - 1).clamp(min=0)
    states = llm.model.model(
        input_ids=ids, attention_mask=seen, position_ids=places, use_cache=False
    ).last_hidden_state[:, -len(said) - 1 : -1]
    logits = llm.model.lm_head(states).float()
    picked = logits.gather(2, ids[:, -len(said) :, None])[..., 0] - logits.logsumexp(2)
    return picked.mean(1)


def training_rows() -> list[Row]:
    """Return rows with the right agent first and the ranker's best others behind it."""
    found = shortlists("metatool", "train", "train", 3000, 12, SEED)
    found += shortlists("sealtools", "val", "train", 300, 12, SEED)
    found += shortlists("banking50", "train", "all", 700, 12, SEED)
    rows = []
    for row in found:
        names = [card.name for card in row.cards]
        if row.wanted in names:
            right = names.index(row.wanted)
            keep = [right, *[i for i in range(len(names)) if i != right][: CANDIDATES - 1]]
            cards = [row.cards[i] for i in keep]
            rows.append(Row(row.query, row.wanted, cards, row.log_prior[keep]))
    random.Random(SEED).shuffle(rows)  # noqa: S311
    return rows


def train(llm: LocalLLM, rows: list[Row], minutes: float) -> None:
    """Train for so many minutes, the rate falling to zero."""
    weights, scale = adapt(llm.model), nn.Parameter(torch.tensor(1.0))
    optimiser = torch.optim.AdamW([{"params": weights}, {"params": [scale]}], LEARNING_RATE)
    began, losses, done = time.monotonic(), [], 0
    while (left := 1 - (time.monotonic() - began) / 60 / minutes) > 0:
        row = rows[done % len(rows)]
        heard = log_likelihoods(llm, row.cards, row.query)
        scores = 0.7 * torch.tensor(row.log_prior, dtype=torch.float32) + heard * scale.exp()
        loss = functional.cross_entropy(scores[None], torch.tensor([0])) - 0.1 * heard[0]
        (loss / BATCH).backward()
        losses.append(float(loss.detach()))
        done += 1
        if done % BATCH == 0:
            ramp = min(1.0, done / BATCH / 15) * max(0.03, left)
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * ramp
            optimiser.param_groups[1]["lr"] = 0.02 * ramp
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            optimiser.zero_grad()
        if done % 80 == 0:
            print(done, round(float(np.mean(losses[-80:])), 3), f"{left:.0%} left", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--out", type=Path, default=PACKAGED_ADAPTERS["smollm2"])
    chosen = options.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    llm = LocalLLM.load("smollm2")
    train(llm, training_rows(), chosen.minutes)
    state = llm.model.state_dict()
    thin = {k: v.to(torch.bfloat16) for k, v in state.items() if k.endswith((".a", ".b"))}
    save_file(thin, chosen.out, metadata={"format": "1", "scale": str(ALPHA / RANK)})


if __name__ == "__main__":
    main()
