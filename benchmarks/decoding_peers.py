"""Masked decoding beside what users install for it, in one run.

    pip install "moma-router[llm]" xgrammar==0.2.8 llguidance==1.9.1 outlines-core==0.2.14
    python benchmarks/decoding_peers.py [--llm smollm2] [--sizes 8 100 1000 10000] [--queries 4]
        [--packings 5] [--threads 1] [--out benchmarks/results/decoding_peers.json]

For N names: building from cached tokens, one mask step (fill and apply, one row), switching one
agent off, and whole choices with a real LLM in float32 (`--llm` takes what `LocalLLM.load` takes);
then 16 queries packed beside one by one, in float32 and bfloat16. Peers: xgrammar, llguidance,
outlines-core (masks only, up to 1,000 names: its index takes half a minute there) and transformers'
prefix function over a trie of dictionaries. To switch an agent off a peer is built again. The
prompt describes at most 100 of the N agents in ten words each; all N may be named; above 100 names
one query is run. Times are medians, wall beside CPU of this process: on a busy machine only the
latter, and ratios, mean much. Names and queries from MOMA_DATA (default ../shared/data): MetaTool,
then Seal-Tools and Lobe, numbered copies beyond those.
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

import numpy as np
import torch
from decoding_packing import packing
from decoding_ways import PROMPT, WAYS, Moma, OutlinesCore, World

from moma_core.decoding.generate import choose_name, top_k
from moma_core.decoding.local_llm import LocalLLM
from moma_core.decoding.prefix import KvPrefix, PrefixCache
from moma_core.decoding.search import masked_scores

OUT = Path("benchmarks/results/decoding_peers.json")
MANY = 100
MOST_OUTLINES = 1_000
PEERS = ("torch", "transformers", "xgrammar", "llguidance", "outlines_core")


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
    slow = len(world.names) >= MOST_OUTLINES
    ways: dict[str, Any] = dict(WAYS)
    if len(world.names) <= MOST_OUTLINES:
        ways["outlines-core"] = OutlinesCore
    for name, way in ways.items():
        times = {"moma": 15, "prefix function": 15, "outlines-core": 1 if slow else 3}.get(name, 5)
        row = {"build": timed(partial(way, world), times)}
        built = way(world)
        step = built.stepper()
        row["step"] = timed(lambda step=step: step(ids, scores.clone()), 100)
        row["change"] = row["build"]  # compiled or nested: made again without the agent
        if isinstance(built, Moma):
            row |= changes(built, world)
        result[name] = row
    mine = result["moma"]["change"]["cpu_ms"]
    for row in result.values():
        row["change beside ours"] = round(row["change"]["cpu_ms"] / mine)
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
    prefixes.close()
    forwards.handle.remove()
    return {"prompt_tokens": len(prompts[0]), "prefix_tokens": shared, "ways": result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", default="smollm2")
    parser.add_argument("--sizes", type=int, nargs="*", default=[8, 100, 1000, 10000])
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--packings", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = LocalLLM.load(args.llm, dtype="float32")
    llm, tokenizer = loaded.model, loaded.tokenizer
    result: dict[str, Any] = {
        "versions": {name: version(name) for name in PEERS},
        "load_average_before": os.getloadavg(),
        "threads": args.threads,
        "sizes": {},
        "packed": {},
    }
    for n in args.sizes:
        world = World(n, tokenizer, llm.config.vocab_size)
        row = {"mask": micro(world)}
        print(n, json.dumps(row), flush=True)
        if args.queries:
            row["choice"] = whole_choices(world, llm, args.queries if n <= MANY else 1)
            print(n, json.dumps(row["choice"]), flush=True)
        result["sizes"][n] = row | {"load_average": os.getloadavg()[0]}
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    for dtype in ("float32", "bfloat16") if args.packings else ():
        result["packed"][dtype] = packing(args.llm, dtype, MANY, args.packings)
        print(dtype, json.dumps(result["packed"][dtype]), flush=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
