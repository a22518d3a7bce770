"""Teams against fixed strategies and ablations: every outcome is SIMULATED, no LLM is asked.

    python benchmarks/teams.py [--seeds 3] [--pools zeroeval mmlu_pro] [--steps 600] [--out F.json]
    python benchmarks/teams.py --draw DIR    # only draws what --out holds, seed 0, as SVG
    python benchmarks/teams.py --speed       # only times the packaged router's planning

Data from MOMA_DATA (default ../shared/data): the LLM router and the cascade are trained on four
fifths of the train split; on the last fifth each system picks its rate, the cheapest that keeps
98.5 % of the all-strongest team's quality there (else its best); both are then measured on val.
Nothing is chosen on val. The seed changes training, the fifth, and the simulated draws.
MOMA_VECTORS as in benchmarks/llms.py. What the simulator assumes: moma_core/teams/mechanics.py.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moma_core.cli.terminal import progress_bar
from moma_core.encoders import MiniLMEncoder
from moma_core.evaluation.repairs import measure_repair
from moma_core.evaluation.simulated import (
    SimulatedPool,
    baseline_plans,
    measure,
    routed_llms,
)
from moma_core.evaluation.team_plots import draw_teams
from moma_core.evaluation.teams import simulate_testing, simulate_training
from moma_core.llm_routing import LLMDataset, LLMRouter
from moma_core.teams.checkpoint import TeamParts
from moma_core.teams.features import Tables
from moma_core.teams.fitting import fit_teams
from moma_core.teams.mechanics import Assumptions
from moma_core.teams.options import TeamOptions
from moma_core.teams.plans import PlanBatch
from moma_core.teams.policy import Policy
from moma_core.teams.router import TeamRouter
from moma_core.teams.steps import Allowed, sampled
from moma_core.teams.training import RATES, TrainConfig

DOMAINS = {
    "zeroeval": {"gsm": "maths", "math-l5": "maths", "crux": "code"},
    "mmlu_pro": {
        "math": "maths", "physics": "maths", "engineering": "maths", "computer science": "code",
        "law": "business", "economics": "business", "business": "business",
        "chemistry": "commonsense", "health": "commonsense", "biology": "commonsense",
        "psychology": "commonsense", "philosophy": "commonsense", "history": "commonsense",
        "other": "commonsense",
    },
}  # fmt: skip
TEAM = "all-strongest team (debate)"
KEEP, MARGIN = 0.98, 0.985
MULTI = ("chain", "full", "debate", "reflection")


def vectors_of(pool: str, data: LLMDataset, encoder: MiniLMEncoder) -> np.ndarray:
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


@dataclass
class Setting:
    """One pool and seed: where to fit, to pick a rate, and to test."""

    options: TeamOptions
    fit: SimulatedPool
    pick: SimulatedPool
    test: SimulatedPool
    unit: float
    strongest: int
    seed: int
    steps: int


def prepare(
    pool: str, data: LLMDataset, vectors: np.ndarray, encoder: MiniLMEncoder, seed: int, steps: int
) -> Setting:
    options = TeamOptions.embed(encoder)
    held = np.array(data.splits) == "val"
    train, llms = simulate_training(
        data.take(~held), encoder, DOMAINS[pool], options, seed, vectors=vectors[~held]
    )
    test = simulate_testing(llms, data.take(held), encoder, DOMAINS[pool], options, vectors[held])
    fifth = np.random.default_rng(seed).permutation(len(train.inputs)) % 5 == 0
    strongest = train.best_single
    unit = float(train.simulator.costs[:, strongest].mean())
    return Setting(
        options, train.take(~fifth), train.take(fifth), test, unit, strongest, seed, steps
    )


def fit(setting: Setting, allowed: Allowed | None = None) -> TeamParts:
    simulator = setting.fit.simulator
    return fit_teams(
        setting.options, setting.fit.inputs, simulator, simulator.domains, setting.unit,
        TrainConfig(steps=setting.steps), setting.seed, allowed,
    )  # fmt: skip


def plans_at(parts: TeamParts, pool: SimulatedPool, allowed: Allowed | None) -> list[PlanBatch]:
    tables = Tables.of(parts.options, parts.policy.projection)
    rates = [np.full(len(pool.inputs), rate) for rate in RATES]
    return [parts.policy.walk(tables, pool.inputs, each, allowed=allowed).plans for each in rates]


def figures(pool: SimulatedPool, plans: PlanBatch, seed: int) -> dict[str, float]:
    quality, cost = measure(pool, plans, seed)
    return {
        "quality": float(quality.mean()),
        "cost": float(cost.mean()),
        "calls": float(plans.calls.sum(axis=1).mean()),
        "members": float(plans.size.mean()),
    }


def pick_rate(
    setting: Setting, plans: list[PlanBatch], goal: float
) -> tuple[int, list[dict[str, float]]]:
    found = [figures(setting.pick, each, setting.seed) for each in plans]
    good = [i for i, each in enumerate(found) if each["quality"] >= goal]
    if good:
        return min(good, key=lambda i: found[i]["cost"]), found
    return max(range(len(found)), key=lambda i: found[i]["quality"]), found


def system(
    setting: Setting, goal: float, picking: list[PlanBatch], testing: list[PlanBatch]
) -> dict[str, Any]:
    best, _ = pick_rate(setting, picking, goal)
    curve = [figures(setting.test, plans, setting.seed) for plans in testing]
    return {
        **curve[best],
        "rate": RATES[best],
        "curve": [[each["cost"], each["quality"]] for each in curve],
    }


def planned(setting: Setting, goal: float, allowed: Allowed | None = None) -> dict[str, Any]:
    parts = fit(setting, allowed)
    picking = plans_at(parts, setting.pick, allowed)
    return {
        **system(setting, goal, picking, plans_at(parts, setting.test, allowed)),
        "parts": parts,
        "picking": picking,
    }


def ablations(setting: Setting, goal: float, full: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Retrained with one choice taken away; what stands in is chosen on the fifth."""
    parts, options = full["parts"], setting.options
    names = [mode.name for mode in options.modes]
    scores = {}
    for mode in MULTI:
        only = Allowed(modes=np.array([name == mode for name in names]))
        best, found = pick_rate(setting, plans_at(parts, setting.pick, only), goal)
        met = found[best]["quality"] >= goal
        scores[mode] = (met, -found[best]["cost"] if met else found[best]["quality"])
    fixed_mode = max(scores, key=scores.get)
    every = PlanBatch.joined(full["picking"])
    seats = [
        int(np.bincount(column[column >= 0]).argmax()) if (column >= 0).any() else 0
        for column in every.roles.T
    ]
    strong = np.arange(len(setting.test.llms)) == setting.strongest
    without = {
        "no mode choice": Allowed(modes=np.array([name == fixed_mode for name in names])),
        "no role choice": Allowed(seats=np.array(seats)),
        "no LLM choice": Allowed(llms=strong),
    }
    results = {name: planned(setting, goal, allowed) for name, allowed in without.items()}
    results["no mode choice"]["fixed"] = fixed_mode
    results["no role choice"]["fixed"] = [options.roles[i].name for i in seats]
    return results


def random_plans(setting: Setting, parts: TeamParts) -> PlanBatch:
    flat = Policy({name: np.zeros_like(value) for name, value in parts.policy.params.items()},
                  parts.policy.projection, setting.unit)  # fmt: skip
    tables = Tables.of(setting.options, parts.policy.projection)
    rng = np.random.default_rng(setting.seed)
    rates = np.full(len(setting.test.inputs), 0.05)
    return flat.walk(tables, setting.test.inputs, rates, sampled(rng)).plans


def robust(setting: Setting, full: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The same plans, planned as before, when the simulator's assumptions are others."""
    best = RATES.index(full["rate"])
    plans = plans_at(full["parts"], setting.test, None)[best]
    base = Assumptions()
    others = {
        "roles do not matter": replace(
            base, right_domain=0.0, wrong_domain=0.0, right_duty=0.0, wrong_duty=0.0
        ),
        "debates persuade half as often": replace(base, persuaded=0.25),
        "critics notice half as often": replace(base, noticed=0.275, noticed_code=0.4),
        "calls repeat themselves more": replace(base, repeat=0.8),
    }
    results = {}
    for name, assumptions in others.items():
        pool = replace(setting.test, simulator=replace(setting.test.simulator,
                                                       assumptions=assumptions))  # fmt: skip
        tables = Tables.of(setting.options, full["parts"].policy.projection)
        team = baseline_plans(pool, tables, setting.strongest)[TEAM]
        ours, theirs = figures(pool, plans, setting.seed), figures(pool, team, setting.seed)
        results[name] = {
            "share_of_quality": ours["quality"] / theirs["quality"],
            "saved": 1 - ours["cost"] / theirs["cost"],
        }
    return results


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
    encoder, llms = MiniLMEncoder(), LLMRouter.packaged()
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
    encoder, results = MiniLMEncoder(), []
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
