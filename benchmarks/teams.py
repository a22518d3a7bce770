"""Teams against fixed strategies and ablations: every outcome is SIMULATED, no LLM is asked.

    python benchmarks/teams.py [--seeds 3] [--pools zeroeval mmlu_pro] [--steps 600] [--out F.json]
    python benchmarks/teams.py --draw DIR    # only draws what --out holds, seed 0, as SVG
    python benchmarks/teams.py --speed       # only times the packaged router's planning

Data from MOMA_DATA (default ../shared/data): the LLM router and the cascade are trained on four
fifths of the train split; on the last fifth each system picks its rate, the cheapest that keeps
98.5 % of the all-strongest team's quality there (else its best); both are then measured on val.
Nothing is chosen on val. The seed changes training, the fifth, and the simulated draws.
MOMA_VECTORS as in benchmarks/llms.py. What the simulator assumes: moma_core/teams/simulator.py.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from team_systems import (
    DOMAINS,
    TEAM,
    Setting,
    ablations,
    figures,
    planned,
    prepare,
    random_plans,
    robust,
    system,
)

from moma_core import LLMDataset, LLMRouter, RoutingEncoder, TeamRouter
from moma_core.cli.terminal import progress_bar
from moma_core.teams.features import Tables
from moma_core.teams.policy import RATES
from moma_core.training.evaluate_teams import baseline_plans, measure_repair, routed_llms
from moma_core.training.plots import draw_teams

KEEP, MARGIN = 0.98, 0.985


def vectors_of(pool: str, data: LLMDataset, encoder: RoutingEncoder) -> np.ndarray:
    cache = os.environ.get("MOMA_VECTORS")
    if cache:
        vectors = np.load(Path(cache) / f"{pool}.npz")["q_mean"]
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    parts = []
    with progress_bar() as tell:
        for start in range(0, len(data), 256):
            parts.append(encoder.encode(data.queries[start : start + 256]))
            tell(f"encoding {pool}", start + len(parts[-1]), len(data))
    return np.concatenate(parts)


def run(setting: Setting, pool: str) -> dict[str, Any]:
    start = time.perf_counter()
    projection = np.eye(setting.fit.inputs.vectors.shape[1])[:, :1]
    tables = Tables.of(setting.options, projection)
    goal = (
        MARGIN
        * figures(
            setting.pick,
            baseline_plans(setting.pick, tables, setting.strongest)[TEAM],
            setting.seed,
        )["quality"]
    )
    full = planned(setting, goal)
    systems: dict[str, dict[str, Any]] = {"team router": full}
    for name, plans in baseline_plans(setting.test, tables, setting.strongest).items():
        systems[name] = figures(setting.test, plans, setting.seed)
    systems["random team"] = figures(
        setting.test, random_plans(setting, full["parts"]), setting.seed
    )
    systems["LLM routing alone"] = system(
        setting, goal, routed_llms(setting.pick, tables, setting.unit),
        routed_llms(setting.test, tables, setting.unit),
    )  # fmt: skip
    systems |= ablations(setting, goal, full)
    repair = measure_repair(full["parts"], setting.test, RATES.index(full["rate"]), setting.seed)
    kept = {name: {k: v for k, v in each.items() if k not in ("parts", "picking")}
            for name, each in systems.items()}  # fmt: skip
    team = kept[TEAM]
    return {
        "simulated": True,
        "pool": pool,
        "seed": setting.seed,
        "unit": setting.unit,
        "strongest": setting.test.llms[setting.strongest],
        "n_test": len(setting.test.inputs),
        "seconds": round(time.perf_counter() - start, 1),
        "share_of_team_quality": full["quality"] / team["quality"],
        "saved_beside_team": 1 - full["cost"] / team["cost"],
        "systems": kept,
        "repair": repair,
        "other_assumptions": robust(setting, full),
    }


def show(results: list[dict[str, Any]], pool: str) -> None:
    group = [each for each in results if each["pool"] == pool]
    print(f"\n{pool}: SIMULATED, {len(group)} seeds; cost in units of one strong LLM")
    for name in group[0]["systems"]:
        quality = [each["systems"][name]["quality"] for each in group]
        cost = [each["systems"][name]["cost"] / each["systems"]["one strong LLM"]["cost"]
                for each in group]  # fmt: skip
        calls = np.mean([each["systems"][name]["calls"] for each in group])
        print(f"  {name:30s} quality {np.mean(quality):.4f} +- {np.std(quality):.4f}  "
              f"cost {np.mean(cost):6.3f} +- {np.std(cost):.3f}  calls {calls:.2f}")  # fmt: skip
    share = [each["share_of_team_quality"] for each in group]
    saved = [each["saved_beside_team"] for each in group]
    print(f"  share of the team's quality {np.mean(share):.4f} (target {KEEP}), saved "
          f"{np.mean(saved):.3f} (target 0.52); least {min(share):.4f}, "
          f"{min(saved):.3f}")  # fmt: skip
    for name in group[0]["repair"]:
        shown = {k: round(float(np.mean([each["repair"][name][k] for each in group])), 4)
                 for k in group[0]["repair"][name]}  # fmt: skip
        print(f"  repair, {name}: {shown}")


def draw(results: list[dict[str, Any]], folder: Path) -> None:
    for row in results:
        if row["seed"] == 0:
            systems = dict(row["systems"])
            curves = {name: each["curve"] for name, each in systems.items() if "curve" in each}
            report = {
                "curve": curves.pop("team router"),
                "curves": curves,
                "preferences": {"team router, rate picked on train": systems["team router"]},
                "baselines": {k: v for k, v in systems.items() if "curve" not in v},
            }
            draw_teams(report, folder / f"teams_{row['pool']}.svg")


def speed(queries: int = 300) -> None:
    encoder, llms = RoutingEncoder(), LLMRouter.packaged()
    router = TeamRouter.packaged(encoder, llms)
    text = "A train leaves at 3 pm at 80 km/h, another at 4 pm at 120 km/h. When do they meet?"
    vector = encoder.encode([text])[0]
    ways = {
        "plan, LLM router included": lambda: router.plan_encoded(text, vector),
        "LLM router alone": lambda: llms.predict([text], vector[None]),
    }
    for name, way in ways.items():
        walls, cpus = [], []
        for _ in range(queries):
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            walls.append(1e3 * (time.perf_counter() - wall))
            cpus.append(1e3 * (time.process_time() - cpu))
        print(f"{name}: ms median wall {np.median(walls):.2f}, least {min(walls):.2f}, "
              f"median CPU {np.median(cpus):.2f}; load {os.getloadavg()[0]:.1f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--pools", nargs="+", default=list(DOMAINS), choices=tuple(DOMAINS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/teams.json"))
    parser.add_argument("--draw", type=Path)
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    if options.speed:
        speed()
        return
    if options.draw is not None:
        draw(json.loads(options.out.read_text()), options.draw)
        return
    folder = Path(os.environ.get("MOMA_DATA", "../shared/data"))
    encoder, results = RoutingEncoder(), []
    for pool in options.pools:
        data = LLMDataset.read(folder / f"{pool}.parquet")
        vectors = vectors_of(pool, data, encoder)
        for seed in range(options.seeds):
            setting = prepare(pool, data, vectors, encoder, seed, options.steps)
            results.append(run(setting, pool))
            last = results[-1]
            print(f"{pool} seed {seed}: simulated, {last['share_of_team_quality']:.4f} of the "
                  f"team's quality at {last['saved_beside_team']:.3f} less cost, "
                  f"{last['seconds']} s", flush=True)  # fmt: skip
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
        show(results, pool)


if __name__ == "__main__":
    main()
