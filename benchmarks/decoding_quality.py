"""Is a local LLM's final decision right? Ranker, masked LLM, PMI, noisy channel, and all fused.

    MOMA_DATA=../shared/data MOMA_SCRATCH=DIR OMP_NUM_THREADS=1 \
        python benchmarks/decoding_quality.py lists channel adapted choice masked report

Shortlists of 8 and 16 by our ranker, from descriptions alone and with 10 examples an agent; which
tables: `decoding_lists.py`. SmolLM2-135M-Instruct on the CPU, as it is (``channel``, ``choice``,
``masked``) and with an adapter (``adapted``, ``--adapter FILE``). Every row is kept, so each stage
may be stopped, started again, and run beside others; ``report`` writes
benchmarks/results/decoding_quality.json from whatever rows there are.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decoding_lists import (
    LENGTHS,
    PARTS,
    REGIMES,
    TABLES,
    asked_names,
    cards_of,
    keep,
    make_lists,
    rows_of,
    scored,
)
from decoding_report import report

from moma_core import AgentCard
from moma_core.decoding.evidence import ChoiceLikelihood, NoisyChannel, list_prompt
from moma_core.decoding.generate import begun_together, run
from moma_core.decoding.local_llm import PACKAGED_ADAPTERS, LocalLLM, merge_adapter
from moma_core.decoding.search import BestFirst, Branching, NamePath, Read
from moma_core.decoding.trie import Eligibility, NameTrie

OUT = Path("benchmarks/results/decoding_quality.json")


def adapted(adapter: Path) -> str:
    """Return the stage of one adapter, so that the rows of another are kept apart."""
    return f"adapted-{hashlib.sha256(adapter.read_bytes()).hexdigest()[:8]}"


def score(stage: str, evidence: ChoiceLikelihood | NoisyChannel, most: int | None) -> None:
    """Score every shortlisted agent by one kind of evidence."""
    done = scored(stage)
    parts = REGIMES if stage == "choice" else PARTS  # held-out examples fit the channel's weight

    def work() -> Iterator[tuple[str, Any]]:
        for table in TABLES:
            cards = {card.name: card for card in cards_of(table, examples=False)}
            for query, names in asked_names(table, parts, most).items():
                have = done.get(f"{table}|{query}", {})
                new = [name for name in names if name not in have]
                if new:
                    scores = evidence.scores(query, [cards[name] for name in new])
                    yield f"{table}|{query}", dict(zip(new, scores.round(4).tolist(), strict=True))

    keep(stage, work())


def masked(llm: LocalLLM, most: int | None) -> None:
    """Let the LLM choose from the paper's prompt, greedily, masked to the shortlist.

    Of the first two tables only: the third is there for the adapter.
    """
    done = scored("masked")

    def work() -> Iterator[tuple[str, Any]]:
        for length in LENGTHS:
            for table in TABLES[:2]:
                cards = {card.name: card for card in cards_of(table, examples=False)}
                for row in [row for part in REGIMES for row in rows_of(table, part, most)]:
                    names = sorted(row["names"][:length])  # both regimes often list the same
                    key = f"{table}|{row['query']}|{'|'.join(names)}"
                    if key not in done:
                        shown = [cards[name] for name in names]
                        done[key] = greedy(llm, row["query"], shown)
                        yield key, done[key]

    keep("masked", work())


class Greedy(BestFirst):
    """Goes on with the likeliest child of every branching, as greedy decoding does."""

    def take(self, branching: Branching, read: Read) -> None:
        """Open nothing but the best child."""
        super().take(branching, read)
        self._queue = self._queue[:1]  # of a heap, the least


def greedy(llm: LocalLLM, query: str, cards: Sequence[AgentCard]) -> str:
    """Return the name that masked greedy decoding gives; the list is in a random order.

    The same as ``generate`` with `NameMask`, in fewer forwards.
    """
    cards = [cards[i] for i in np.random.default_rng(len(query)).permutation(len(cards))]
    end = llm.tokens("\n")[-1]
    names = [card.name for card in cards]
    trie = NameTrie.from_names(names, llm.tokenizer, terminator=end, lead=" ")
    tree, (rest,) = begun_together(llm.model, [llm.prompt(list_prompt(query, cards))], None)
    search = Greedy(NamePath(trie, Eligibility(trie).counts, rest))
    run(tree, [search])
    return search.top().names[0]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    stages = ("lists", "channel", "adapted", "choice", "masked", "report")
    options.add_argument("stages", nargs="+", choices=stages)
    options.add_argument("--adapter", type=Path, default=PACKAGED_ADAPTERS["smollm2"])
    options.add_argument("--rows", type=int, help="of each part at most; by default all")
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    load = partial(LocalLLM.load, "smollm2")
    for stage in chosen.stages:
        match stage:
            case "lists":
                make_lists()
            case "channel":
                score(stage, NoisyChannel(load()), chosen.rows)
            case "adapted":
                llm = load()
                merge_adapter(llm.model, chosen.adapter)
                score(adapted(chosen.adapter), NoisyChannel(llm), chosen.rows)
            case "choice":
                score(stage, ChoiceLikelihood(load()), chosen.rows)
            case "masked":
                masked(load(), chosen.rows)
            case "report":
                report(adapted(chosen.adapter), chosen.out)


if __name__ == "__main__":
    main()
