"""MoMA's third outcome, and the commands."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moma_core import (
    AgentCard,
    ArtifactError,
    Cost,
    LLMDataset,
    LLMRouter,
    MoMARouter,
    RoutingDecision,
    StateMachine,
    TeamRouter,
)
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.gate import Negatives
from moma_core.agents.router import AgentRouter
from moma_core.cli.main import app
from moma_core.errors import InvalidDataError
from moma_core.registry.memory import MemoryRegistry
from moma_core.teams.cards import RoleCard
from moma_core.teams.training import RATES, TrainConfig
from moma_core.training.evaluate_teams import evaluate_teams, train_teams
from moma_core.training.plots import draw_teams

DOMAINS = {"sums": "maths", "scripts": "code"}
CONFIG = TrainConfig(steps=30, queries=16, samples=4, repeats=2, priced=1500)
HARD = "prove the sum of these numbers"


def scored(n=120, seed=0):
    rng = np.random.default_rng(seed)
    words = {"sums": ["sum", "number", "prove", "angle"], "scripts": ["python", "loop", "list"]}
    tasks = [("sums", "scripts")[i % 2] for i in range(n)]
    texts = [f"{' '.join(rng.choice(words[task], 3))} {i}" for i, task in enumerate(tasks)]
    scores = (rng.random((n, 3)) < [0.4, 0.6, 0.7]).astype(float)
    costs = np.tile([1e-4, 4e-4, 2e-3], (n, 1)) * rng.uniform(0.8, 1.2, (n, 1))
    return LLMDataset(tuple(texts), ("small", "medium", "large"), scores, costs, tuple(tasks))


def to_table(data):
    columns = {"query": list(data.queries), "task": list(data.tasks)}
    for column, name in enumerate(data.llms):
        columns[f"score|{name}"] = data.scores[:, column]
        columns[f"cost|{name}"] = data.costs[:, column]
    return pa.table(columns)


@pytest.fixture(scope="module")
def trained(minilm):
    """A team router that likes teams of several and believes in them: no training is that quick."""
    teams, llms = train_teams(scored(), minilm, DOMAINS, config=CONFIG)
    teams.parts.policy.params["mode.n"][1] -= 50.0  # one member only
    teams.parts.value.weights[7] += 1.5  # log of the members
    return TeamRouter(minilm, llms, teams.parts.rounded()), llms


def moma(minilm, llms, teams=None):
    catalog = AgentCatalog(minilm, MemoryRegistry())
    agents = AgentRouter(catalog, StateMachine(), Negatives.of((), minilm))
    router = MoMARouter(minilm, agents, llms, teams)
    router.agents.add(AgentCard("weather", "Weather forecast", examples=("will it rain?",)))
    return router


def test_off_by_default_and_a_team_where_it_is_worth_it(minilm, trained):
    teams, llms = trained
    plain = moma(minilm, llms).route(HARD, "performance")
    assert plain.kind == "llm"
    assert plain.team is None
    router = moma(minilm, llms, teams)
    decision = router.route(HARD, "performance")
    assert decision.kind == "team"
    assert decision.team.llms == decision.targets
    assert decision.cost == decision.team.cost > plain.cost
    single = teams.alone(HARD, minilm.encode([HARD])[0], plain.target)
    assert single.llms == plain.targets
    assert decision.probability > single.quality
    assert "a team adds" in decision.reason
    assert [step.name for step in decision.trace][-1] == "team"
    batch = router.route_batch([HARD, "will it rain?"], "performance")[0].team
    assert batch.quality == pytest.approx(decision.team.quality)
    assert replace(batch, quality=decision.team.quality) == decision.team
    assert router.route("will it rain?").kind == "agent"


def test_one_llm_stays_where_a_team_is_not_worth_it(minilm, trained):
    teams, llms = trained
    router = moma(minilm, llms, teams)
    assert router.route(HARD, Cost(1e-5)).kind == "llm"
    decision = router.route(HARD, "auto:1")
    assert decision.kind == "llm"
    excluded = router.route(HARD, "performance", exclude=("large",))
    assert "large" not in excluded.targets


def test_decisions_go_through_json_and_old_ones_are_read(minilm, trained):
    teams, llms = trained
    decision = moma(minilm, llms, teams).route(HARD, "performance")
    again = RoutingDecision.from_dict(json.loads(json.dumps(decision.to_dict())))
    assert again == decision
    assert again.team == decision.team
    old = moma(minilm, llms).route(HARD).to_dict()
    del old["team"]
    assert RoutingDecision.from_dict(old).team is None


def test_a_saved_router_keeps_its_teams_until_saved_without(minilm, trained, tmp_path):
    teams, llms = trained
    router = moma(minilm, llms, teams)
    router.save(tmp_path)
    again = MoMARouter.load(tmp_path, encoder=minilm)
    assert again.route(HARD, "performance").team == router.route(HARD, "performance").team
    moma(minilm, llms).save(tmp_path)
    assert MoMARouter.load(tmp_path, encoder=minilm).route(HARD, "performance").kind == "llm"


def test_training_data_that_do_not_do(minilm):
    data = scored(40)
    with pytest.raises(InvalidDataError, match="no role has the domain 'music'"):
        train_teams(data, minilm, {"sums": "music"}, config=CONFIG)
    gaps = data.scores.copy()
    gaps[:, 0] = np.where(np.arange(40) % 2, np.nan, gaps[:, 0])
    gaps[:, 1] = np.where(np.arange(40) % 2, gaps[:, 1], np.nan)
    holes = LLMDataset(data.queries, data.llms, gaps, data.costs, data.tasks)
    with pytest.raises(InvalidDataError, match="simulator needs such rows"):
        train_teams(holes, minilm, DOMAINS, config=CONFIG)


def test_evaluation_says_simulated(minilm, trained, tmp_path):
    teams, llms = trained
    told = []
    report = evaluate_teams(
        teams, llms, scored(60, seed=5), DOMAINS, progress=lambda *each: told.append(each)
    )
    assert told == [("planning", done, len(RATES)) for done in range(1, len(RATES) + 1)]
    assert report["simulated"] is True
    assert report["n_test"] == 60
    team = report["baselines"]["all-strongest team (debate)"]
    assert team["calls"] == 7
    assert team["cost"] > report["baselines"]["one strong LLM"]["cost"]
    preferences = report["preferences"]
    assert preferences["cost"]["cost"] <= preferences["performance"]["cost"]
    draw_teams(report, tmp_path / "teams.svg")
    assert "Simulated" in (tmp_path / "teams.svg").read_text()
    draw_teams(report, tmp_path / "teams.png")
    assert (tmp_path / "teams.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ArtifactError, match="a picture is"):
        draw_teams(report, tmp_path / "teams.txt")
    with pytest.raises(InvalidDataError, match="moma eval teams"):
        draw_teams({}, tmp_path / "teams.svg")


def test_the_commands_train_plan_and_measure(tmp_path, minilm):
    data, domains = tmp_path / "scored.parquet", tmp_path / "domains.json"
    pq.write_table(to_table(scored(24)), data)
    domains.write_text(json.dumps(DOMAINS))
    out, report = tmp_path / "out", tmp_path / "report.json"
    figure = tmp_path / "teams.svg"
    run = CliRunner()
    common = ["--data", str(data), "--domains", str(domains)]
    done = run.invoke(app, ["train", "teams", *common, "--out", str(out), "--steps", "2"])
    assert done.exit_code == 0, done.output
    assert "simulator" in done.output
    done = run.invoke(app, ["teams", "plan", HARD, "--router", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["members"]
    done = run.invoke(app, ["teams", "plan", HARD, "--router", str(out)])
    assert "because of a" in done.output
    done = run.invoke(
        app,
        ["eval", "teams", *common, "--router", str(out), "--out", str(report),
         "--figure", str(figure)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Simulated" in done.output
    assert json.loads(report.read_text())["simulated"] is True
    assert figure.exists()
    llms = LLMRouter.load(out / "llms")
    own = RoleCard("tax_lawyer", "Applies tax law", "You apply tax law.", "law")
    TeamRouter.load(out / "teams", minilm, llms).adding(own).save(out / "teams")
    assert "tax_lawyer" in run.invoke(app, ["teams", "roles", "--router", str(out)]).output
    assert "tax_lawyer" not in run.invoke(app, ["teams", "roles"]).output


def test_the_packaged_router_plans_without_training(minilm):
    router = TeamRouter.packaged(minilm, LLMRouter.packaged())
    assert router.parts.metadata["simulated"] is True
    plan = router.plan("What is the derivative of x squared times the sine of x?", "performance")
    assert plan.domain == "maths"
    assert len(plan.members) > 1
    code = router.plan("def f(x): return x[::-1] * 2 # what does f('ab') return?")
    assert code.domain == "code"
    run = CliRunner()
    done = run.invoke(app, ["teams", "plan", "What is 2 + 2?"])
    assert done.exit_code == 0, done.output
    done = run.invoke(app, ["teams", "roles"])
    assert "proof_checker" in done.output
