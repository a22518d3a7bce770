"""The ``moma`` program: every command, on a router of a few agents and a pool of two LLMs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moma_core.cli.main import app

AGENT_KEYS = {
    "n_agents",
    "n_test",
    "in_scope_top1",
    "top5",
    "recall_at_5",
    "oos_auroc",
    "kept_in_scope_top1",
    "oos_recall",
    "encode_ms_p50",
    "route_ms_p50",
    "route_ms_p95",
}
LLM_KEYS = {
    "n_test",
    "best_single",
    "best_single_score",
    "best_single_cost",
    "oracle_score",
    "preferences",
    "curve",
    "score_at_cost",
    "cost_to_match_best_single",
    "usage",
    "intervals",
    "baselines",
    "why_null",
}


pytestmark = pytest.mark.usefixtures("one_session")


@pytest.fixture
def moma(run_moma, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOMA_ROUTER", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return run_moma


@pytest.fixture
def ok(moma):
    def ok(*arguments):
        status, out, err = moma(*arguments)
        assert status == 0, err
        return out

    return ok


@pytest.fixture
def fails(moma):
    def fails(*arguments, status=1):
        found, out, err = moma(*arguments)
        assert found == status, out + err
        return " ".join(err.split())

    return fails


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def files(tmp_path, cards):
    agents = parquet(
        tmp_path / "agents.parquet",
        name=[card.name for card in cards],
        description=[card.description for card in cards],
        category=[card.categories[0] for card in cards],
    )
    rows = [(example, [card.name]) for card in cards for example in card.examples]
    rows += [("convert 3 and tell me the weather", ["calculator", "weather"]), ("who am I", [])]
    train = parquet(
        tmp_path / "train.parquet", query=[row[0] for row in rows], agents=[row[1] for row in rows]
    )
    test = parquet(
        tmp_path / "test.parquet",
        query=["is rain expected", "cat in french", "7 times 8 and the weather", "write a poem"],
        agents=[["weather"], ["translator"], ["calculator", "weather"], []],
    )
    return agents, train, test


@pytest.fixture
def scored(tmp_path, scored_queries):
    columns = {"query": list(scored_queries.queries)}
    for i, name in enumerate(scored_queries.llms):
        columns[f"score|{name}"] = scored_queries.scores[:, i]
        columns[f"cost|{name}"] = scored_queries.costs[:, i]
    return parquet(tmp_path / "scored.parquet", **columns)


def commands(typer_app, *path):
    import typer

    def walk(command, words):
        yield words, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))

    return list(walk(typer.main.get_command(typer_app), path))


@pytest.mark.parametrize("words", [words for words, _ in commands(app)], ids=" ".join)
def test_every_help_has_words_and_an_example(words):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    groups = {path for path, command in commands(app) if hasattr(command, "commands")}
    if words not in groups:
        assert f"Example: moma {' '.join(words)}" in " ".join(result.output.split())


def test_the_commands_are_these():
    names = {" ".join(words) for words, _ in commands(app)}
    assert names >= {
        "demo",
        "route",
        "agents list",
        "agents categories",
        "agents show",
        "agents add",
        "agents remove",
        "agents update",
        "agents enable",
        "agents disable",
        "eval agents",
        "eval llms",
        "train llms",
    }


def test_agents_from_the_first_to_the_last(ok):
    out = ok("agents", "add", "weather", "Weather forecast", "-e", "will it rain?", "-c", "out")
    assert "1 agents now" in out
    ok("agents", "add", "translator", "Translates text", "-e", "say hello in French")
    assert "translator" in ok("agents", "list")
    shown = json.loads(ok("agents", "show", "weather"))
    assert shown["examples"] == ["will it rain?"]
    assert shown["categories"] == ["out"]
    assert "disabled" in ok("agents", "disable", "weather")
    assert not json.loads(ok("agents", "show", "weather"))["enabled"]
    assert json.loads(ok("route", "will it rain?", "--json"))["targets"] != ["weather"]
    assert "enabled" in ok("agents", "enable", "weather")
    decision = json.loads(ok("route", "will it rain?", "--json"))
    assert decision["kind"] == "agent"
    assert decision["targets"] == ["weather"]
    assert "1 agents left" in ok("agents", "remove", "translator")
    assert "translator" not in ok("agents", "list")


def test_an_agent_is_changed_in_part(ok, fails, tmp_path):
    ok("agents", "add", "weather", "Weather forecast", "-e", "will it rain?", "-c", "outside")
    ok("agents", "add", "news", "Reads the news")
    ok("agents", "disable", "weather")
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"place": {"type": "string"}}}')
    said = ok("agents", "update", "weather", "-e", "how warm is it?", "--schema", schema)
    assert "Updated examples, input_schema of 'weather'" in said
    shown = json.loads(ok("agents", "show", "weather"))
    assert shown["examples"] == ["how warm is it?"]
    assert list(shown["input_schema"]["properties"]) == ["place"]
    assert (shown["description"], shown["categories"]) == ("Weather forecast", ["outside"])
    assert not shown["enabled"]
    ok("agents", "update", "weather", "--description", "Forecasts", "-c", "sky")
    ok("agents", "enable", "weather")
    assert json.loads(ok("route", "how warm is it?", "--json"))["targets"] == ["weather"]
    assert "Forecasts" in ok("agents", "list")
    fails("agents", "update", "weather", status=2)
    schema.write_text("{")
    assert "is not JSON" in fails("agents", "update", "weather", "--schema", schema)
    assert "Did you mean 'weather'?" in fails("agents", "update", "wether", "-e", "x")


def test_llms_are_those_of_the_router_here(ok, fails):
    assert "moma train llms" in (said := fails("llms", "list"))
    assert "from_cards(llms=cards)" in said
    ok("agents", "add", "weather", "Weather forecast")
    listed = ok("llms", "list")
    assert "gpt-4o-2024-08-06" in listed
    ok("llms", "price", "gpt-4o-2024-08-06", "--input", "7", "--output", "7")
    ok("llms", "remove", "gpt-4o-mini-2024-07-18")
    ok("llms", "add", "fresh", "--input", "1", "--output", "2", "--quality", "0.5")
    changed = ok("llms", "list")
    assert "fresh" in changed
    assert "gpt-4o-mini" not in changed


def test_route_without_any_agent(ok):
    out = ok("route", "Prove that there are infinitely many primes.", "--explain")
    assert "llm" in out
    for word in ("Considered", "encode", "select", "moma agents add"):
        assert word in out
    decision = json.loads(ok("route", "Prove it.", "--json", "--preference", "performance"))
    assert decision["preference"] == "performance"
    assert decision["kind"] == "llm"


def test_the_router_from_the_environment(ok, monkeypatch, tmp_path):
    monkeypatch.setenv("MOMA_ROUTER", str(tmp_path / "elsewhere"))
    ok("agents", "add", "weather", "Weather forecast")
    assert (tmp_path / "elsewhere" / "router.json").exists()
    assert "weather" in ok("agents", "list", "--router", tmp_path / "elsewhere")


def test_agents_from_parquet(ok, files, cards):
    agents, train, _ = files
    assert "3 agents now" in ok("agents", "add", "--from", agents, "--queries", train)
    shown = json.loads(ok("agents", "show", "weather"))
    assert len(shown["examples"]) == len(cards[0].examples) + 1
    assert json.loads(ok("route", "is rain expected", "--json"))["targets"] == ["weather"]


def test_more_queries_bring_their_negatives_too(ok, files, tmp_path):
    agents, train, _ = files
    ok("agents", "add", "--from", agents, "--queries", train)
    more = parquet(tmp_path / "more.parquet", name=["dice"], description=["Rolls dice"])
    foreign = [f"write verse number {i} of a poem" for i in range(3)]
    rows = parquet(
        tmp_path / "rows.parquet", query=["roll a die", *foreign], agents=[["dice"], [], [], []]
    )
    assert "4 agents now" in ok("agents", "add", "--from", more, "--queries", rows)
    saved = json.loads((tmp_path / ".moma" / "ranker.json").read_text())
    assert saved["negatives_given"] == 4
    assert saved["negatives"][:4] == ["who am I", *foreign]


def test_categories_are_listed(ok):
    ok("agents", "add", "weather", "Weather forecast", "-c", "out[doors]")
    listed = ok("agents", "categories")
    assert "out[doors]" in listed
    assert "weather" in listed


def test_llms_of_the_router_from_the_environment(ok, monkeypatch, tmp_path):
    ok("agents", "add", "weather", "Weather forecast")
    monkeypatch.setenv("MOMA_ROUTER", str(tmp_path / ".moma"))
    assert "best single" in ok("llms", "list")


def test_names_that_look_like_markup(ok):
    name, text = "[/red] [bold]x", "[/] closes nothing [link=x]"
    ok("agents", "add", name, text, "-e", "[/bold] example", "-c", "[/green]")
    assert "[/red]" in ok("agents", "list")
    assert json.loads(ok("agents", "show", name))["description"] == text
    ok("route", "[/red] [bold]x", "--explain")
    ok("agents", "disable", name)
    ok("agents", "enable", name)
    assert "[/red]" in ok("agents", "remove", name)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["route", ""], "visible character"),
        (["route", "x", "--preference", "best"], "performance"),
        (["agents", "list"], "moma agents add"),
        (["agents", "show", "x"], "moma agents add"),
        (["agents", "remove", "x"], "moma agents add"),
        (["agents", "add", " x ", "y"], "name"),
        (["agents", "add", "x", "  "], "description"),
        (["agents", "add", "x", "y", "-e", " "], "example"),
    ],
)
def test_errors_are_one_line(fails, arguments, says):
    message = fails(*arguments)
    assert message.startswith("Error: ")
    assert says in message


def test_errors_about_registered_agents(ok, fails):
    ok("agents", "add", "weather", "Weather forecast")
    again = fails("agents", "add", "weather", "Again")
    assert "'weather' exists" in again
    assert "moma agents update weather --router .moma" in again
    for change in ("show", "remove", "enable", "disable"):
        said = fails("agents", change, "wether")
        assert "'wether' in .moma. Did you mean 'weather'?" in said
        assert "moma agents list --router .moma" in said


def test_states_that_are_not_there(fails):
    assert "moma states show states.toml" in fails("states", "show", "missing.toml")
    Path("router-file").write_text("in the way")
    fails("agents", "add", "a", "b", "--router", "router-file", status=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["agents", "add"],
        ["agents", "add", "only a name"],
        ["agents", "add", "--from", "missing.parquet"],
        ["eval", "agents"],
        ["train", "llms", "--data", "missing.parquet", "--out", "x"],
    ],
)
def test_wrong_usage_has_status_two(fails, arguments):
    fails(*arguments, status=2)


def test_a_failed_first_add_can_be_tried_again(ok, fails, tmp_path):
    twice = parquet(tmp_path / "twice.parquet", name=["a", "a"], description=["x", "y"])
    assert "'a'" in fails("agents", "add", "--from", twice)
    ok("agents", "add", "a", "x")


def test_a_damaged_router_is_an_error(ok, fails, tmp_path):
    ok("agents", "add", "weather", "Weather forecast")
    (tmp_path / ".moma" / "ranker.json").write_text("{")
    assert "ranker.json" in fails("route", "rain")
    (tmp_path / ".moma" / "router.json").write_text("{")
    assert "router.save" in fails("agents", "list")


def test_eval_agents(ok, files, tmp_path):
    agents, train, test = files
    out = tmp_path / "reports" / "report.json"
    shown = ok("eval", "agents", "--agents", agents, "--train", train, "--test", test, "--out", out)
    assert "in_scope_top1" in shown
    report = json.loads(out.read_text())
    assert set(report) == AGENT_KEYS
    assert (report["n_agents"], report["n_test"]) == (3, 4)
    assert report["in_scope_top1"] == 1.0
    assert 0.5 <= report["recall_at_5"] <= 1.0


def test_eval_agents_on_an_empty_train_file(ok, files, tmp_path):
    agents, _, test = files
    empty = parquet(
        tmp_path / "empty.parquet",
        query=pa.array([], pa.string()),
        agents=pa.array([], pa.list_(pa.string())),
    )
    out = tmp_path / "report.json"
    given = ("--agents", agents, "--train", empty, "--test", test, "--out", out)
    ok("eval", "agents", *given, "--shots", "5", "--seed", "3")
    report = json.loads(out.read_text())
    assert set(report) == AGENT_KEYS
    assert report["top5"] == 1.0


def test_eval_agents_on_unfit_files(fails, files, tmp_path):
    agents, train, test = files
    out = ("--out", tmp_path / "report.json")
    unknown = parquet(tmp_path / "u.parquet", query=["x"], agents=[["gone"]])
    given = ("eval", "agents", "--agents", agents)
    assert "'gone'" in fails(*given, "--train", unknown, "--test", test, *out)
    assert "'gone'" in fails(*given, "--train", train, "--test", unknown, *out)
    assert "are missing" in fails(*given, "--train", agents, "--test", test, *out)
    (tmp_path / "file").write_text("")
    fails(*given, "--train", train, "--test", test, "--out", tmp_path / "file" / "r.json")


def test_train_and_eval_llms(ok, scored, tmp_path):
    shown = ok("train", "llms", "--data", scored, "--out", "pool", "--head", "neighbours")
    assert "2 LLMs" in shown
    ok("eval", "llms", "--router", "pool", "--data", scored, "--out", "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) == LLM_KEYS
    assert report["n_test"] == 80
    assert report["best_single"] == "big"
    assert set(report["preferences"]) == set(report["usage"]) == {"performance", "auto", "cost"}
    assert set(report["score_at_cost"]) == {"0.25", "0.5", "0.7"}
    given = ("eval", "llms", "--router", "pool", "--data", scored, "--out", "report.json")
    shown = ok(*given, "--train", scored)
    for name in ("best single", "neighbours 100", "clusters 32", "ridge", "logistic"):
        assert f"baseline: {name}" in shown
    assert "over the best single LLM (95 %)" in shown


def test_train_and_eval_llms_on_unfit_files(ok, fails, scored, files, tmp_path):
    assert "score|" in fails("train", "llms", "--data", files[0], "--out", "pool")
    (tmp_path / "prices.json").write_text("{")
    given = ("train", "llms", "--data", scored, "--out", "pool")
    assert "JSON" in fails(*given, "--prices", "prices.json")
    fails(*given, "--head", "no such head")
    (tmp_path / "empty").mkdir()
    assert "moma train llms" in fails(
        "eval", "llms", "--router", "empty", "--data", scored, "--out", "r.json"
    )


@pytest.mark.parametrize("what", ["llms", "teams"])
def test_training_says_at_once_that_it_cannot_write(fails, scored, tmp_path, what):
    (tmp_path / "file").write_text("in the way")
    said = fails("train", what, "--data", scored, "--out", "file/inside")
    assert "Choose another --out" in said


def test_the_program_in_a_process_of_its_own(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", "from moma_core.cli import main; main()", "agents", "list"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert not run.stdout
    assert run.stderr.startswith("Error: there is no router in .moma yet.")


def test_damaged_records_are_forgotten(ok, tmp_path):
    import chromadb

    folder = tmp_path / "router"
    ok("agents", "add", "rain", "Tells of rain", "--router", str(folder))
    ok("agents", "add", "sun", "Tells of sun", "--router", str(folder))
    with chromadb.PersistentClient(path=str(folder / "registry")) as client:
        client.get_collection("moma_agents", embedding_function=None).update(
            ids=["1#sun"], uris=[""]
        )
    assert "Forgot 1#sun" in (said := ok("agents", "repair", "--router", str(folder)))
    assert "1 damaged, 1 agents are whole" in said
    assert "0 damaged, 1 agents" in ok("agents", "repair", "--router", str(folder))
