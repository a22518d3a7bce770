"""How many of 100,000 decodes name an agent that was not eligible (none may), with a tiny LLM.

    python benchmarks/decoding_fuzz.py [--decodes 100000] [--seed 0] [--out FILE.json]

Random tries, eligibility that differs by row and is switched between steps, left padding; greedy,
sampled, top-p, beams, several sequences, and the hook under eligibility that stays. A name counts
as wrong if it was not eligible in the step that closed it. A batch where the mask raises
NoTargetError (every way on was switched off) is counted apart. The best score that the hook's tree
finds is compared with plain forwards of every name. With --stale the mask reads who was eligible in
the first step only: the count of wrong names it then finds shows that the check can fail.
"""

# ruff: noqa: ARG002, D102  # a processor's own signature
from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor

from moma_core import NoTargetError
from moma_core.decoding.generate import choose_name
from moma_core.decoding.mask import NameMask
from moma_core.decoding.search import masked_scores
from moma_core.decoding.trie import Eligibility, NameTrie

END, PAD, VOCABULARY = 0, 1, 64
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 1.7, "top_k": 0},
    "top-p": {"do_sample": True, "top_p": 0.6, "top_k": 5},
    "beams": {"num_beams": 3},
    "several": {"do_sample": True, "num_return_sequences": 2},
    "hook": {"custom_generate": choose_name},
}


class Switcher(LogitsProcessor):
    """Switches random agents after every step and keeps who was eligible in which step."""

    def __init__(self, eligible: list[Eligibility], rng: np.random.Generator) -> None:
        self.eligible, self.rng = eligible, rng
        self.by_step: list[list[np.ndarray]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.by_step.append([one.where() for one in self.eligible])
        for one in self.eligible:
            if self.rng.random() < 0.05:
                name = one.trie.names[self.rng.integers(len(one.trie))]
                (one.disable if name in one else one.enable)(name)
        return scores


def tiny_llm(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=2,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config).eval()


def world(rng: np.random.Generator, rows: int) -> tuple[NameTrie, list[Eligibility]]:
    alphabet = int(rng.integers(4, VOCABULARY))
    drawn = {
        tuple(rng.integers(2, alphabet, rng.integers(1, 6)).tolist())
        for _ in range(rng.integers(1, 60))
    }
    trie = NameTrie(sorted(drawn), END)
    eligible = [Eligibility(trie) for _ in range(rows)]
    for one in eligible:
        chosen = rng.random(len(trie)) < rng.random()
        chosen[rng.integers(len(trie))] = True
        one.only_where(chosen)
    return trie, eligible


def prompts(rng: np.random.Generator, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = rng.integers(1, 9, rows)
    ids = torch.full((rows, int(lengths.max())), PAD)
    for row, length in enumerate(lengths):
        ids[row, -length:] = torch.from_numpy(rng.integers(2, VOCABULARY, length))
    first = torch.from_numpy(ids.shape[1] - lengths)
    return ids, (torch.arange(ids.shape[1]) >= first[:, None]).long()


def decode(llm: LlamaForCausalLM, mode: str, seed: int, rows: int, stale: bool) -> dict[str, float]:
    """Decode one batch; return counts of decodes, wrong names and refusals."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    trie, eligible = world(rng, rows)
    ids, attention = prompts(rng, rows)
    switcher = Switcher(eligible, rng)
    read = [one.copy() for one in eligible] if stale else eligible
    options = dict(MODES[mode])
    if mode == "hook":
        options |= {"trie": trie, "eligible": read}
        switcher.by_step = [[one.where() for one in eligible]] * trie.length
    else:
        mask = NameMask(trie, read, ids.shape[1], num_beams=options.get("num_beams", 1))
        options["logits_processor"] = [mask, switcher]
    try:
        out = llm.generate(ids, attention_mask=attention, max_new_tokens=trie.length, **options)
    except NoTargetError:
        return {"refused batches": 1}
    tails = out[:, ids.shape[1] :].tolist()
    wrong = 0
    for i, tail in enumerate(tails):
        name = trie.match(tail)
        row = i // (len(tails) // rows)
        wrong += name is None or not switcher.by_step[tail.index(END)][row][trie.place(name)]
    result = {"decodes": len(tails), "wrong": wrong}
    if mode == "hook" and seed % 8 == 0:
        result["largest error"] = error_of_best(llm, trie, read[0], ids[0][attention[0].bool()])
    return result


def error_of_best(llm: Any, trie: NameTrie, eligible: Eligibility, prompt: torch.Tensor) -> float:
    """Compare the hook's best log probability with plain forwards of every eligible name."""
    tokens = prompt.tolist()
    best = -np.inf
    for name in eligible.names():
        spelled = trie.tokens_of(name)
        with torch.no_grad():
            logits = llm(torch.tensor([tokens + spelled])).logits[0].double().numpy()
        node, total = 0, 0.0
        for row, token in zip(logits[len(tokens) - 1 :], spelled, strict=False):
            children = eligible.live(node)
            shares = row[trie.token[children]]
            total -= np.logaddexp.reduce(shares) - row[token]
            node = trie.child(node, token) or 0
        best = max(best, total)
    return float(abs(best - masked_scores(llm, trie, tokens, eligible).log_probs.max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decodes", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stale", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    llm = tiny_llm(args.seed)
    began = time.perf_counter()
    totals: dict[str, dict[str, float]] = {mode: {} for mode in MODES}
    for mode, total in totals.items():
        seed = args.seed
        while total.get("decodes", 0) < args.decodes / len(MODES):
            for key, value in decode(llm, mode, seed, args.rows, args.stale).items():
                least = key == "largest error"
                total[key] = max(total.get(key, 0), value) if least else total.get(key, 0) + value
            seed += 1
        print(mode, total, flush=True)
    result = {
        "decodes": sum(total["decodes"] for total in totals.values()),
        "wrong": sum(total["wrong"] for total in totals.values()),
        "modes": totals,
        "seconds": round(time.perf_counter() - began),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
