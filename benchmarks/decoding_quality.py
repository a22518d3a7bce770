"""Is a local LLM's final decision right? Ranker, masked LLM, PMI, noisy channel, and all fused.

    MOMA_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/decoding_quality.py STAGE

Shortlists of 8 and 16 by our ranker on MetaTool and CLINC150 (val rows that one agent should take),
from descriptions alone and with 10 examples an agent. SmolLM2-135M-Instruct on the CPU. Stages:
``lists``, ``channel``, ``choice``, ``masked`` (hours on a busy machine; every row is kept in
``MOMA_SCRATCH``, so each may be stopped and started again), then ``report``, which writes
benchmarks/results/decoding_quality.json from whatever rows there are.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moma_core import AgentCard, AgentCatalog, MemoryRegistry, MiniLMEncoder
from moma_core.agent_routing.dataset import read_agents
from moma_core.agent_routing.held_out import held_out_lists, ranked_lists

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
SCRATCH = Path(os.environ.get("MOMA_SCRATCH", Path(tempfile.gettempdir()) / "decoding_quality"))
OUT = Path("benchmarks/results/decoding_quality.json")
TABLES = os.environ.get("MOMA_TABLES", "metatool,clinc150").split(",")
QUERIES, HELD_OUT, SHOTS, SEED = 500, 200, 10, 0
LENGTHS = (8, 16)
PARTS = ("descriptions", "examples", "held-out")
Rows = list[dict[str, Any]]


def cards_of(table: str, *, examples: bool) -> list[AgentCard]:
    """Return a table's agents, with 10 train rows each as examples or with none."""
    cards = read_agents(DATA / f"{table}_agents.parquet")
    if not examples:
        return cards
    rng, shown = np.random.default_rng(SEED), {}
    for text, wanted in single(table, "train"):
        shown.setdefault(wanted, set()).add(text)
    return [
        replace(card, examples=tuple(rng.permutation(sorted(shown.get(card.name, ())))[:SHOTS]))
        for card in cards
    ]


def single(table: str, split: str) -> list[tuple[str, str]]:
    """Return queries that one agent should take, with its name."""
    whole = pq.read_table(DATA / f"{table}_queries.parquet")
    rows = whole.filter(pc.equal(whole["split"], split)).to_pylist()
    return [(row["query"], row["agents"][0]) for row in rows if len(row["agents"]) == 1]


def make_lists() -> None:
    """Write the ranker's shortlists of val rows and of held-out examples."""
    encoder = MiniLMEncoder(threads=1)
    for table in TABLES:
        val = single(table, "val")
        picks = np.random.default_rng(SEED).permutation(len(val))[:QUERIES]
        asked = [val[i] for i in picks]
        for regime in ("descriptions", "examples"):
            if read(f"{table}-{'held-out' if regime == 'examples' else regime}"):
                continue
            catalog = AgentCatalog(encoder, MemoryRegistry())
            catalog.put(*cards_of(table, examples=regime == "examples"))
            texts = [text for text, _ in asked]
            found = ranked_lists(catalog.snapshot, texts, encoder.encode(texts))
            rows = [
                {"query": row.query, "wanted": wanted, "names": row.names, "prior": row.log_prior}
                for row, (_, wanted) in zip(found, asked, strict=True)
            ]
            write(f"{table}-{regime}", rows)
            if regime == "examples":
                held = held_out_lists(catalog.snapshot, most=HELD_OUT, seed=SEED)
                rows = [
                    {"query": h.query, "wanted": h.wanted, "names": h.names, "prior": h.log_prior}
                    for h in held
                ]
                write(f"{table}-held-out", rows)


def write(name: str, rows: Rows) -> None:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    plain = [{**row, "names": list(row["names"]), "prior": list(row["prior"])} for row in rows]
    (SCRATCH / f"{name}.json").write_text(json.dumps(plain))
    print(name, len(rows), flush=True)


def read(name: str) -> Rows:
    path = SCRATCH / f"{name}.json"
    rows: Rows = json.loads(path.read_text()) if path.exists() else []
    return rows


def asked_names(table: str, length: int) -> dict[str, list[str]]:
    """Return for each query the first agents of all its shortlists; held-out examples come last."""
    names: dict[str, list[str]] = {}
    for part in PARTS:
        for row in read(f"{table}-{part}"):
            kept = names.setdefault(row["query"], [])
            kept += [name for name in row["names"][:length] if name not in kept]
    return names


def known(stage: str) -> dict[str, Any]:
    """Return the rows of a stage that are done, by their keys."""
    path = SCRATCH / f"{stage}.jsonl"
    if not path.exists():
        return {}
    found: dict[str, Any] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        key, value = line["key"], line["value"]
        found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
    return found


def keep(stage: str, work: Iterator[tuple[str, Any]]) -> None:
    with (SCRATCH / f"{stage}.jsonl").open("a") as file:
        for i, (key, value) in enumerate(work):
            file.write(json.dumps({"key": key, "value": value}) + "\n")
            file.flush()
            if i % 25 == 0:
                print(stage, i, flush=True)


def score(stage: str) -> None:
    """Score every shortlisted agent by one kind of evidence."""
    from moma_core.decoding.evidence import ChoiceLikelihood, NoisyChannel
    from moma_core.decoding.local_llm import LocalLLM

    llm = LocalLLM.load()
    evidence = NoisyChannel(llm) if stage == "channel" else ChoiceLikelihood(llm)
    done = known(stage)

    def work() -> Iterator[tuple[str, Any]]:
        for length, table in itertools.product(LENGTHS, TABLES):
            cards = {card.name: card for card in cards_of(table, examples=False)}
            for query, names in asked_names(table, length).items():
                key = f"{table}|{query}"
                have = done.setdefault(key, {})
                new = [name for name in names if name not in have]
                if new:
                    scores = evidence.scores(query, [cards[name] for name in new])
                    have |= dict(zip(new, scores.round(4).tolist(), strict=True))
                    yield key, have

    keep(stage, work())


def masked() -> None:
    """Let the LLM choose from the paper's prompt, greedily, masked to the shortlist."""
    from moma_core.decoding.local_llm import LocalLLM

    llm = LocalLLM.load()
    done = known("masked")

    def work() -> Iterator[tuple[str, Any]]:
        for length in LENGTHS:
            for regime in ("descriptions", "examples"):
                for table in TABLES:
                    cards = {card.name: card for card in cards_of(table, examples=False)}
                    for row in read(f"{table}-{regime}"):
                        key = f"{table}|{regime}|{length}|{row['query']}"
                        if key not in done:
                            shown = [cards[name] for name in row["names"][:length]]
                            yield key, greedy(llm, row["query"], shown)

    keep("masked", work())


def greedy(llm: Any, query: str, cards: Sequence[AgentCard]) -> str:
    """Return the name that masked greedy decoding gives; the list is in a random order."""
    import torch

    from moma_core.decoding import Eligibility, NameMask, NameTrie
    from moma_core.decoding.prompts import list_prompt

    cards = [cards[i] for i in np.random.default_rng(len(query)).permutation(len(cards))]
    end = llm.tokens("\n")[-1]
    names = [card.name for card in cards]
    trie = NameTrie.from_names(names, llm.tokenizer, terminator=end, lead=" ")
    prompt = torch.tensor([llm.prompt(list_prompt(query, cards))])
    out = llm.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        logits_processor=[NameMask(trie, Eligibility(trie), prompt.shape[1])],
        max_new_tokens=trie.length,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )
    return str(trie.match(out[0, prompt.shape[1] :].tolist()))


def report() -> None:
    """Write every cell from the rows that are there, with 95 % intervals."""
    scores = {stage: known(stage) for stage in ("channel", "choice", "masked")}
    cells = {
        f"{table}, {regime}, {length}": cell(table, regime, length, scores)
        for table, regime, length in itertools.product(TABLES, PARTS[:2], LENGTHS)
    }
    OUT.write_text(json.dumps(cells, indent=1) + "\n")
    print(json.dumps(cells, indent=1))


def cell(table: str, regime: str, length: int, scores: dict[str, Any]) -> dict[str, Any]:
    """Return the share right by each method over the rows that were scored."""
    rows = [row for row in read(f"{table}-{regime}") if scored(table, row, length, scores)]
    if not rows:
        return {"queries": 0}
    weights = weights_for(table, regime, length, scores)
    wanted = [row["wanted"] for row in rows]
    picks = {
        "ranker": [row["names"][0] for row in rows],
        "noisy channel": [pick(row, length, scores, table, None) for row in rows],
        "fused": [pick(row, length, scores, table, weights) for row in rows],
    }
    right = {name: np.array(np.array(chosen) == wanted) for name, chosen in picks.items()}
    result: dict[str, Any] = {"queries": len(rows), "on the list": share(listed(rows, length))}
    result |= {name: share(values) for name, values in right.items()}
    result["fused - ranker"] = paired(right["fused"], right["ranker"])
    result["weight"] = {"noisy channel": weights.noisy_channel, "fitted on": weights.n_cases}
    for name, key in (("choice", "pmi"), ("masked", "masked greedy")):
        values = single_method(table, regime, length, rows, name, scores)
        result[key] = share(values) if values.size else "not run"
    return result


def scored(table: str, row: dict[str, Any], length: int, scores: dict[str, Any]) -> bool:
    have = scores["channel"].get(f"{table}|{row['query']}", {})
    return all(name in have for name in row["names"][:length])


def listed(rows: Rows, length: int) -> np.ndarray[Any, Any]:
    return np.array([row["wanted"] in row["names"][:length] for row in rows])


def evidence_of(
    table: str, row: dict[str, Any], length: int, scores: dict[str, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    have = scores["channel"][f"{table}|{row['query']}"]
    names = row["names"][:length]
    return np.array(row["prior"][:length]), np.array([have[name] for name in names])


def pick(row: dict[str, Any], length: int, scores: dict[str, Any], table: str, weights: Any) -> str:
    prior, noisy = evidence_of(table, row, length, scores)
    best = noisy if weights is None else prior + weights.noisy_channel * noisy
    return str(row["names"][int(best.argmax())])


def weights_for(table: str, regime: str, length: int, scores: dict[str, Any]) -> Any:
    """Return the weights that `FusedDecider` would use."""
    from moma_core.decoding.fusion import DEFAULT_WEIGHTS, Case, fit_weights

    if regime == "descriptions":
        return DEFAULT_WEIGHTS
    cases = []
    for row in read(f"{table}-held-out"):
        if scored(table, row, length, scores):
            prior, noisy = evidence_of(table, row, length, scores)
            names = row["names"][:length]
            wanted = names.index(row["wanted"]) if row["wanted"] in names else None
            cases.append(Case(prior, noisy, np.zeros(len(names)), wanted))
    return fit_weights(cases)


def single_method(
    table: str, regime: str, length: int, rows: Rows, stage: str, scores: dict[str, Any]
) -> np.ndarray[Any, Any]:
    right = []
    for row in rows:
        names = row["names"][:length]
        if stage == "masked":
            chosen = scores[stage].get(f"{table}|{regime}|{length}|{row['query']}")
        else:
            have = scores[stage].get(f"{table}|{row['query']}", {})
            whole = all(name in have for name in names)
            chosen = max(names, key=have.__getitem__) if whole else None
        if chosen is not None:
            right.append(chosen == row["wanted"])
    return np.array(right)


def share(right: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return a share with its Wilson interval at 95 %."""
    n, p, z = right.size, float(right.mean()), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {
        "right": round(p, 3),
        "of": n,
        "95 %": [round(middle - half, 3), round(middle + half, 3)],
    }


def paired(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the mean difference on the same queries with its bootstrap interval at 95 %."""
    gained = first.astype(float) - second
    draws = np.random.default_rng(SEED).integers(gained.size, size=(4000, gained.size))
    low, high = np.quantile(gained[draws].mean(axis=1), [0.025, 0.975])
    return {"gain": round(float(gained.mean()), 3), "95 %": [round(low, 3), round(high, 3)]}


def main() -> None:
    stages = {
        "lists": make_lists,
        "channel": lambda: score("channel"),
        "choice": lambda: score("choice"),
        "masked": masked,
        "report": report,
    }
    for stage in sys.argv[1:]:
        stages[stage]()


if __name__ == "__main__":
    main()
