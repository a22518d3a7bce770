"""What every command shares: --json, whole names, progress, Ctrl-C, clean folders, completion."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from moma_core._tables import write_table
from moma_core.agents.data import read_agents
from moma_core.cli import terminal
from moma_core.cli.main import app
from moma_core.cli.terminal import answer, new_folder, progress_bar, table

ROOT = Path(__file__).parent.parent
ENV = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}", "MOMA_ROUTER": ""}


pytestmark = pytest.mark.usefixtures("one_session")


@pytest.fixture
def moma(run_moma, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOMA_ROUTER", raising=False)
    return run_moma


def commands(group, path=()):
    for name, inner in group.commands.items():
        if hasattr(inner, "commands"):
            yield from commands(inner, (*path, name))
        else:
            yield (*path, name), inner


def test_every_command_answers_in_json():
    without = [
        " ".join(words)
        for words, command in commands(typer.main.get_command(app))
        if not any("--json" in parameter.opts for parameter in command.params)
    ]
    assert without == []


def test_json_of_the_agents_commands(moma, tmp_path):
    def said(*words):
        status, out, err = moma(*words, "--json")
        assert status == 0, err
        return json.loads(out)

    (tmp_path / "agents.csv").write_text(
        'name,description,examples\nweather,Forecast,"[""will it rain?"", ""snow?""]"\nnews,News,\n'
    )
    assert said("agents", "add", "--from", "agents.csv")["agents"] == 2
    listed = said("agents", "list", "--out", "copy.tsv")["agents"]
    assert listed[0]["examples"] == ["will it rain?", "snow?"]
    assert [card.name for card in read_agents(tmp_path / "copy.tsv")] == ["weather", "news"]
    assert said("agents", "show", "news")["description"] == "News"
    assert said("agents", "disable", "news") == {"agent": "news", "enabled": False}
    assert said("agents", "update", "news", "-e", "what happened?")["fields"] == ["examples"]
    assert said("agents", "remove", "news") == {"removed": "news", "agents": 1}
    assert said("states", "show")["mermaid"].startswith("stateDiagram")
    assert said("llms", "list")["llms"][0]["name"]


def test_names_are_whole_and_inert_when_piped(capsys):
    name = "an_agent_with_quite_a_long_name_" * 4
    answer(False, {}, table(("agent", "what"), [(name, "\x1b[2J[red]x[/]" * 9)]), f"{name} is on")
    out = capsys.readouterr().out
    assert out.count(name) == 2
    assert "\\x1b[2J[red]x[/]" * 9 in out
    assert "\x1b" not in out


def test_progress_without_a_terminal_says_step_time_and_place(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "_FIRST", 0.05)
    monkeypatch.setattr(terminal, "_EVERY", 0.05)
    with progress_bar("out") as tell:
        tell("answers", 0, 40)
        time.sleep(0.12)
        tell("answers", 10, 40)
        time.sleep(0.12)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("answers 0/40, 0 s so far") for line in lines)
    assert any(" s left → out" in line and "answers 10/40" in line for line in lines)


def test_short_work_says_nothing(capsys):
    with progress_bar("out") as tell:
        tell("answers", 1, 2)
    assert capsys.readouterr().err == ""


def half_written(path):
    path.write_text("x")
    raise ZeroDivisionError


def test_a_failed_command_leaves_no_folder(tmp_path):
    new, old = tmp_path / "a" / "b", tmp_path / "old"
    old.mkdir()
    for folder in (new, old):
        with pytest.raises(ZeroDivisionError), new_folder(folder, lambda _: False):
            half_written(folder / "part")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
    assert (old / "part").exists()
    with pytest.raises(ZeroDivisionError), new_folder(new, lambda _: True):
        raise ZeroDivisionError
    assert new.is_dir()
    with new_folder(tmp_path / "fine", lambda _: False):
        pass
    assert (tmp_path / "fine").is_dir()


def test_failed_commands_clean_up(moma, tmp_path):
    write_table(tmp_path / "twice.csv", {"name": ["a", "a"], "description": ["x", "y"]})
    write_table(tmp_path / "bad.csv", {"query": ["x"], "score|a": [7], "cost|a": [0]})
    (tmp_path / "queries.txt").write_text("why?\n")
    for words, says in (
        (("agents", "add", "--from", "twice.csv"), "'a'"),
        (("train", "llms", "--data", "bad.csv", "--out", "pool"), "bad.csv, line 2"),
        (
            ("collect", "queries.txt", "--llm", "x=python:math:sqrt", "--out", "o/p",
             "--scorer", "exact"),
            "column 'reference'",
        ),
    ):  # fmt: skip
        status, _, err = moma(*words)
        assert status == 1
        assert says in " ".join(err.split())
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".txt"}


@pytest.mark.parametrize(
    "words",
    [
        ("agents", "add", "a", "b", "--queries", "here.csv"),
        ("agents", "add", "--from", "here.csv", "-e", "x"),
        ("states", "show", "here.csv", "--router", "other"),
        ("collect", "here.csv", "--llm", "x=python:a:b", "--out", "o", "--scorer", "exact",
         "--pairs", "2"),
        ("collect", "here.csv", "--llm", "x=python:a:b", "--out", "o", "--scorer", "exact",
         "--method", "k-centre"),
        ("collect", "here.csv", "--llm", "x=python:a:b", "--out", "o", "--scorer", "exact",
         "--max-output-tokens", "9"),
        ("llms", "add", "x", "--input", "1"),
        ("llms", "add", "x", "--input", "1", "--output", "1", "--data", "here.csv", "--like", "y"),
        ("eval", "llms", "--router", ".", "--data", "pairs.csv", "--out", "r.json",
         "--strategy", "cascade"),
    ],
)  # fmt: skip
def test_an_option_that_would_be_ignored_is_an_error(moma, tmp_path, words):
    (tmp_path / "here.csv").write_text("query\nx\n")
    (tmp_path / "pairs.csv").write_text("query,llm_a,llm_b,outcome\nx,a,b,1\n")
    status, _, err = moma(*words)
    assert status == 2, err
    assert not (tmp_path / "o").exists()


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tmp_path):
    (tmp_path / "queries.txt").write_text("".join(f"query {i}\n" for i in range(40)))
    (tmp_path / "slow.py").write_text(
        "import time\ndef ask(prompt):\n    time.sleep(0.05)\n    return 'yes'\n"
        "def half(query, answer, reference):\n    return 0.5\n"
    )
    words = [
        "collect", "queries.txt", "--llm", "x=python:slow:ask", "--scorer", "python:slow:half",
        "--out", "out", "--concurrency", "1", "--format", "csv",
    ]  # fmt: skip
    code = (  # a test run in the background hands its children an ignored SIGINT
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from moma_core.cli import main\nmain()"
    )
    run = [sys.executable, "-c", code, *words]
    child = subprocess.Popen(run, cwd=tmp_path, env=ENV, stderr=subprocess.PIPE, text=True)  # noqa: S603
    journal = tmp_path / "out" / "journal.jsonl"
    until = time.monotonic() + 30
    while time.monotonic() < until and not (journal.exists() and journal.stat().st_size > 300):
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    err = child.communicate(timeout=30)[1]
    assert child.returncode == 130, err
    assert "Stopped. Every answer is kept in out/journal.jsonl: the same command" in err
    before = len(journal.read_text().splitlines())
    done = subprocess.run(run, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert len(journal.read_text().splitlines()) >= 40 > before
    assert "moma train llms --data out/scored.csv" in done.stdout
    assert (tmp_path / "out" / "scored.csv").read_text().startswith("query,task,reference,score|x")


def test_light_commands_load_nothing_heavy():
    code = (
        "import sys\nfrom moma_core.cli.main import main\nsys.argv = ['moma', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([n for n in ('numpy', 'scipy', 'sklearn', 'chromadb', 'onnxruntime', 'pyarrow') "
        "if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == "[]"


def test_listing_agents_opens_no_encoder_and_no_ranker(moma):
    assert moma("agents", "add", "weather", "Weather forecast")[0] == 0
    code = (
        "import sys\nfrom moma_core.cli.main import main\nsys.argv = ['moma', 'agents', 'list']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([n for n in ('sklearn', 'onnxruntime') if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=False
    )
    assert "weather" in done.stdout
    assert done.stderr.strip() == "[]"


def test_completion(moma):
    moma("agents", "add", "weather", "Weather forecast")
    for words, offered in {
        "moma route x --preference perf": "performance",
        "moma teams plan x --preference cost:": "cost:0.002",
        "moma train llms --head neigh": "neighbours",
        "moma llms remove gpt-4o-mini": "gpt-4o-mini-2024-07-18",
        "moma agents disable wea": "weather",
    }.items():
        env = {"_MOMA_COMPLETE": "complete_bash", "COMP_WORDS": words,
               "COMP_CWORD": str(len(words.split()) - 1)}  # fmt: skip
        done = CliRunner().invoke(app, [], prog_name="moma", env=env)
        assert offered in done.output.split()


def test_a_pool_with_a_new_llm_is_measured_on_the_others(moma, tmp_path):
    rows = range(40)
    columns = {
        "query": [f"what is {i} plus {i}?" for i in rows],
        "score|a": [float(i % 2) for i in rows], "cost|a": [1e-5] * 40,
        "score|b": [1.0] * 40, "cost|b": [1e-3] * 40,
    }  # fmt: skip
    write_table(tmp_path / "scored.csv", columns)
    for words in (
        ("train", "llms", "--data", "scored.csv", "--out", "pool", "--head", "neighbours"),
        ("llms", "add", "fresh", "--input", "1", "--output", "2", "--quality", "0.5", "--router",
         "pool"),
    ):  # fmt: skip
        status, _, err = moma(*words)
        assert status == 0, err
    status, out, err = moma("eval", "llms", "--router", "pool", "--data", "scored.csv", "--out",
                            "r.json")  # fmt: skip
    assert status == 0, err
    assert "Left out, as scored.csv has no scores of them: fresh." in out


def test_exit_codes_are_told(moma):
    assert "130 stopped with Ctrl-C" in " ".join(moma("--help")[1].split())
