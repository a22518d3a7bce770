"""Masked decoding beside xgrammar, llguidance and transformers' prefix function, in one run.

    pip install "moma-router[llm]" xgrammar==0.2.8 llguidance==1.9.1
    python benchmarks/decoding_peers.py --llm DIR [--sizes 8 100 1000 10000] [--queries 4]
        [--threads 1] [--out FILE.json]

For N names: building from cached tokens, one mask step (fill and apply, one row), switching one
agent off, and whole choices with a real LLM in float32 (`--llm` takes what `LocalLLM.load` takes).
The prompt describes at most 100 of the N agents in ten words each; all N may be named; above 100
names one query is run. Times are medians, wall beside CPU of this process: on a busy machine only
the latter, and ratios, mean much. Grammar engines get an alternation of the names, their caches
off. Names and queries from MOMA_DATA (default ../shared/data): MetaTool, then Seal-Tools and Lobe,
numbered copies beyond those.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llguidance.hf
import numpy as np
import torch
import xgrammar
from decoding_ways import PROMPT, WAYS, Moma

from moma_core.agent_routing.dataset import read_agents, read_queries
from moma_core.decoding import (
    KvPrefix,
    NameTrie,
    PrefixCache,
    choose_name,
    masked_scores,
    top_k,
    top_k_packed,
)
from moma_core.decoding.local_llm import LocalLLM

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
DESCRIBED = MANY = 100


class World:
    """N names with their cached tokens, prompts, and what the engines prepare once."""

    def __init__(self, n: int, tokenizer: Any, vocabulary: int) -> None:
        cards = read_agents(DATA / "metatool_agents.parquet")
        texts = read_queries(DATA / "metatool_queries.parquet").texts
        self.queries = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:64]]
        for more in ("sealtools", "lobe"):
            cards = [*cards, *read_agents(DATA / f"{more}_agents.parquet")]
        about = {card.name: card.description for card in cards}
        names = list(about) + [f"{name}_{i}" for i in (2, 3, 4) for name in about]
        self.names, self.end, self.vocabulary = names[:n], tokenizer.eos_token_id, vocabulary
        self.tokens = tokenizer(self.names, add_special_tokens=False)["input_ids"]
        self.tokenizer = tokenizer
        shown = self.names[:DESCRIBED]
        self.system = "Reply with the name of the one agent that fits the request.\n" + "\n".join(
            f"{name}: {' '.join(about[name].split()[:10])}" for name in shown
        )
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
        self.xgrammar = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self.llguidance = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary)

    def prompt(self, query: str) -> list[int]:
        """Return the whole prompt's token ids."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "system", "content": self.system}, {"role": "user", "content": query}],
            add_generation_prompt=True,
            tokenize=False,
        )
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def timed(run: Callable[[], object], times: int) -> dict[str, float]:
    """Return median wall and CPU milliseconds."""
    wall, cpu = [], []
    for _ in range(times):
        a, b = time.perf_counter(), time.process_time()
        run()
        cpu.append(time.process_time() - b)
        wall.append(time.perf_counter() - a)
    return {"wall_ms": 1e3 * float(np.median(wall)), "cpu_ms": 1e3 * float(np.median(cpu))}


def micro(world: World) -> dict[str, Any]:
    """Build, step, change and arbitrary subset, each way."""
    result: dict[str, Any] = {}
    scores = torch.randn(1, world.vocabulary)
    ids = torch.arange(PROMPT)[None]
    for name, way in WAYS.items():
        row = {"build": timed(partial(way, world), 5 if name in {"xgrammar", "llguidance"} else 15)}
        built = way(world)
        step = built.stepper()
        row["step"] = timed(lambda step=step: step(ids, scores.clone()), 100)
        row["change"] = row["build"]  # compiled or nested: made again without the agent
        if isinstance(built, Moma):
            row |= changes(built, world)
        result[name] = row
    result["copy of the scores, in each step"] = timed(scores.clone, 100)
    return result


def changes(built: Moma, world: World) -> dict[str, dict[str, float]]:
    """One agent off or on, and half of all agents by a vector; 100 changes a reading."""

    def switch() -> None:
        for _ in range(50):
            built.disable(world)
            built.restore(world)

    chosen = np.random.default_rng(0).random(len(world.names)) < 0.5

    def subset() -> None:
        for _ in range(100):
            built.eligible.only_where(chosen)

    return {
        name: {key: value / 100 for key, value in timed(run, 20).items()}
        for name, run in (("change", switch), ("subset", subset))
    }


class Forwards:
    """Counts forwards of an LLM's body."""

    def __init__(self, llm: Any) -> None:
        self.count = 0
        self.handle = llm.base_model.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.count += 1


def whole_choices(world: World, llm: Any, n_queries: int) -> dict[str, Any]:
    """Milliseconds, forwards and names of whole choices, each way on the same queries."""
    ways = {name: way(world) for name, way in WAYS.items()}
    trie = ways["moma"].trie
    prompts = [world.prompt(query) for query in world.queries[: n_queries + 1]]
    shared = next(i for i, (a, b) in enumerate(zip(*prompts[:2], strict=False)) if a != b)
    prefix = KvPrefix.encode(llm, prompts[0][:shared])
    prefixes = PrefixCache(llm, 2 * prefix.nbytes)
    prefixes.get(prompts[0][:shared])
    top_k(llm, trie, prompts[0][shared:], prefix=prefix)  # an LLM's first use probes it
    asked = {"max_new_tokens": trie.length + 4, "do_sample": False}

    def generate(way: str, ids: list[int], cached: bool) -> str:
        options = {"past_key_values": prefix.cache(llm)} if cached else {}
        masks = [ways[way].processor(len(ids))]
        out = llm.generate(torch.tensor([ids]), logits_processor=masks, **asked, **options)
        return str(world.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))

    def hook(ids: list[int]) -> str:
        options = {"prefixes": prefixes, "return_dict_in_generate": True}
        made = llm.generate(
            torch.tensor([ids]), custom_generate=choose_name, trie=trie, **asked, **options
        )
        return str(made.names[0][0])

    runs: dict[str, Callable[[list[int]], str]] = {
        "prefix function": lambda ids: generate("prefix function", ids, False),
        "xgrammar": lambda ids: generate("xgrammar", ids, False),
        "llguidance": lambda ids: generate("llguidance", ids, False),
        "prefix function, prefix cached": lambda ids: generate("prefix function", ids, True),
        "moma mask, prefix cached": lambda ids: generate("moma", ids, True),
        "moma hook": hook,
        "moma all names": lambda ids: masked_scores(llm, trie, ids[shared:], prefix=prefix).best()[
            0
        ][0],
    }
    result: dict[str, Any] = {
        name: {"wall_ms": [], "cpu_ms": [], "forwards": [], "names": []} for name in runs
    }
    forwards = Forwards(llm)
    for ids in prompts[1:]:  # ways side by side, query by query
        for name, run in runs.items():
            forwards.count = 0
            made: list[str] = []
            for key, value in timed(
                lambda run=run, ids=ids, made=made: made.append(run(ids)), 1
            ).items():
                result[name][key].append(value)
            result[name]["forwards"].append(forwards.count)
            result[name]["names"].append(made[0])
    for row in result.values():
        row |= {key: float(np.median(row[key])) for key in ("wall_ms", "cpu_ms")}
    result["packed"] = packed(world, llm, trie, prefix, shared)
    prefixes.close()
    forwards.handle.remove()
    return {"prompt_tokens": len(prompts[0]), "prefix_tokens": shared, "ways": result}


def packed(world: World, llm: Any, trie: NameTrie, prefix: KvPrefix, shared: int) -> dict[str, Any]:
    """Sixteen queries one by one and in shared forwards, per query: drawn ones, and short ones."""
    result: dict[str, Any] = {}
    short = sorted(world.queries, key=len)[:16]
    for kind, queries in (("drawn", world.queries[20:36]), ("short", short)):
        rests = [world.prompt(query)[shared:] for query in queries]
        alone = timed(lambda rests=rests: [top_k(llm, trie, r, prefix=prefix) for r in rests], 1)
        together = timed(lambda rests=rests: top_k_packed(llm, trie, rests, prefix=prefix), 2)
        result[kind] = {
            "tokens a query": float(np.mean([len(rest) for rest in rests])),
            "alone": {key: value / 16 for key, value in alone.items()},
            "together": {key: value / 16 for key, value in together.items()},
            "ratio_cpu": alone["cpu_ms"] / together["cpu_ms"],
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 100, 1000, 10000])
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = LocalLLM.load(args.llm, dtype="float32")
    llm, tokenizer = loaded.model, loaded.tokenizer
    peers = ("torch", "transformers", "xgrammar", "llguidance")
    result: dict[str, Any] = {
        "versions": {name: version(name) for name in peers},
        "load_average_before": os.getloadavg(),
        "threads": args.threads,
        "sizes": {},
    }
    for n in args.sizes:
        world = World(n, tokenizer, llm.config.vocab_size)
        row = {"mask": micro(world)}
        print(n, json.dumps(row), flush=True)
        if args.queries:
            row["choice"] = whole_choices(world, llm, args.queries if n <= MANY else 1)
            print(n, json.dumps(row["choice"]), flush=True)
        result["sizes"][n] = row | {"load_average": os.getloadavg()[0]}
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
