"""What README and docs print works: Python blocks and ``moma`` commands run, options exist.

A page's blocks run in order, in one folder and one namespace, after ``tests/docs/<page>.py`` if
there is one: the user's own things that the page takes for granted. ``# 'text'`` behind an
expression, or behind a ``print`` of it, is its value, ``# kind 'text'`` a decision's kind. A block
after ``<!-- not run: reason -->`` is left out; its commands must exist all the same.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from moma_core import encoder
from moma_core.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- not run: [^>]+-->\n)?```(\w*)\n(.*?)^```$", re.S | re.M)
COMMANDS = ("", "bash")


@pytest.fixture(autouse=True, scope="module")
def one_session():
    """Read the encoder's weights once, not once a router."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "open_session", cache(encoder.open_session))
        yield


def blocks(page: Path) -> list[tuple[bool, str, str]]:
    """Whether it is run, its language, its text."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(not skip, language, text) for skip, language, text in found]


def lines(text: str) -> list[str]:
    joined = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in joined if line.strip().startswith("moma ")]


def run(source: str, namespace: dict[str, object]) -> None:
    for node in ast.parse(source).body:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        expected = re.search(r"# (?:kind )?('[^']*')", source.splitlines()[node.end_lineno - 1])
        if isinstance(node, ast.Expr) and expected:
            shown = node.value
            if isinstance(shown, ast.Call) and ast.unparse(shown.func) == "print":
                [shown] = shown.args
            value = eval(compile(ast.Expression(shown), "<docs>", "eval"), namespace)  # noqa: S307
            assert getattr(value, "kind", value) == ast.literal_eval(expected[1]), ast.unparse(node)
            continue
        code = compile(ast.Module([node], []), "<docs>", "exec", flags=flags)
        if code.co_flags & inspect.CO_COROUTINE:
            namespace["__loop__"].run_until_complete(eval(code, namespace))  # noqa: S307
        else:
            exec(code, namespace)  # noqa: S102


def command(line: str) -> None:
    done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
    assert done.exit_code == 0, f"{line}: {done.output} {done.exception!r}"


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # LlamaIndex's own
@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_and_commands_run_in_order_in_a_fresh_folder(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop = asyncio.new_event_loop()
    namespace: dict[str, object] = {"__name__": "docs", "__loop__": loop}
    setup = ROOT / "tests" / "docs" / f"{page.stem}.py"
    try:
        if setup.exists():
            exec(compile(setup.read_text(encoding="utf-8"), str(setup), "exec"), namespace)  # noqa: S102
        for is_run, language, text in blocks(page):
            if is_run and language == "python":
                run(text, namespace)
            elif is_run and language in COMMANDS:
                for line in lines(text):
                    command(line)
    finally:
        loop.close()


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for _, language, text in blocks(page):
            if language in COMMANDS:
                yield from ((page.stem, line) for line in lines(text))


def is_group(command: object) -> bool:
    return hasattr(command, "commands")


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_printed_commands_exist(page, line):
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = typer.main.get_command(app)
    options = {name for parameter in command.params for name in parameter.opts}
    while is_group(command) and words and not words[0].startswith("-"):
        name = words.pop(0).split("|")[0]
        assert name in command.commands, f"{page}: {line}: there is no {name!r}"
        command = command.commands[name]
        options = {name for parameter in command.params for name in parameter.opts}
    unknown = {word.split("=")[0] for word in words if word.startswith("-")} - options
    assert not unknown - {"--install-completion"}, f"{page}: {line}"
