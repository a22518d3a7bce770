"""Train the team router that ships in moma_core/packaged/teams; its outcomes are SIMULATED.

    python benchmarks/train_packaged_teams.py [--steps 2000] [--seed 0]

Data from MOMA_DATA (default ../shared/data): the same rows and LLMs as train_packaged_head.py,
whose gaps are filled as there. No row of the data is written anywhere. MOMA_VECTORS as in
benchmarks/llms.py.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from team_systems import DOMAINS
from teams import vectors_of
from train_packaged_head import PUBLISHED, completed, joined

from moma_core import LLMDataset, RoutingEncoder
from moma_core.cli.terminal import progress_bar
from moma_core.llms.features import QueryFeatures
from moma_core.llms.training import train_pool
from moma_core.teams.cards import TeamOptions
from moma_core.teams.features import TeamInputs
from moma_core.teams.planner import write_teams
from moma_core.teams.simulator import TeamSimulator
from moma_core.teams.training import TrainConfig, fit_teams

SPECIALISTS = {
    "gsm": "word_problem_reader", "math-l5": "maths_solver", "crux": "code_tracer",
    "math": "maths_solver", "physics": "maths_solver", "engineering": "maths_solver",
    "computer science": "programmer", "law": "legal_adviser", "economics": "economist",
    "business": "accountant", "chemistry": "scientist", "health": "scientist",
    "biology": "scientist", "psychology": "psychologist", "philosophy": "philosopher",
    "history": "knowledge_expert", "other": "knowledge_expert",
}  # fmt: skip
"""Task -> the role that is taken to know it best (assumed), so that roles of a domain differ."""

PACKAGED = Path("moma_core/packaged/teams")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=PACKAGED)
    options = parser.parse_args()
    folder, encoder = Path(os.environ.get("MOMA_DATA", "../shared/data")), RoutingEncoder()
    parts, vectors = [], []
    for pool in DOMAINS:
        data = LLMDataset.read(folder / f"{pool}.parquet")
        kept = np.array(data.splits) == "train"
        parts.append(data.take(kept))
        vectors.append(vectors_of(pool, data, encoder)[kept])
    both, every = joined(*parts), np.concatenate(vectors)
    filled = completed(both, QueryFeatures.fit(both.queries).join(both.queries, every), PUBLISHED)
    with progress_bar() as tell:
        trained = train_pool(both, encoder, seed=options.seed, progress=tell, vectors=every,
                             completed=filled)  # fmt: skip
        order = both.order()
        ordered = every[order]
        scores = filled[order][:, [both.llms.index(name) for name in trained.data.llms]]
        domains = {**DOMAINS["zeroeval"], **DOMAINS["mmlu_pro"]}
        named = [domains[task] for task in trained.data.tasks]
        experts = [SPECIALISTS[task] for task in trained.data.tasks]
        choices = TeamOptions.embed(encoder)
        best = trained.data.llms.index(trained.router.best_single)
        unit = float(trained.costs[:, best].mean())
        notes = {
            "simulated": True,
            "sources": ["ZeroEval (train rows), Apache-2.0", "MMLU-Pro (train rows), Apache-2.0"],
            "llms": list(trained.data.llms),
            "command": "python benchmarks/train_packaged_teams.py",
        }
        fitted = fit_teams(
            choices, TeamInputs(ordered.astype(np.float64), trained.held_out, trained.expected),
            TeamSimulator(scores, trained.costs, named, choices, specialists=experts), named,
            unit=unit, config=TrainConfig(steps=options.steps), seed=options.seed,
            progress=tell, notes=notes,
        )  # fmt: skip
    write_teams(fitted, options.out)
    print(f"wrote {options.out}: simulated utility {fitted.metadata['last_utility']}")


if __name__ == "__main__":
    main()
