"""What README and docs print works: Python blocks run, commands and their options exist.

A page's blocks run in order in one namespace, after ``tests/docs/<page>.py`` if there is one: the
user's own things that the page takes for granted. ``# 'text'`` behind an expression is its
value, ``# kind 'text'`` a decision's kind. A
block after ``<!-- not run: reason -->`` is left out.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from moma_core.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- not run: [^>]+-->\n)?```(\w*)\n(.*?)^```$", re.S | re.M)


def blocks(page: Path, language: str) -> list[str]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for skip, kind, text in found if kind == language and not skip]


def run(source: str, namespace: dict[str, object]) -> None:
    for node in ast.parse(source).body:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        expected = re.search(r"# (?:kind )?('[^']*')", source.splitlines()[node.end_lineno - 1])
        if isinstance(node, ast.Expr) and expected:
            value = eval(compile(ast.Expression(node.value), "<docs>", "eval"), namespace)  # noqa: S307
            assert getattr(value, "kind", value) == ast.literal_eval(expected[1]), ast.unparse(node)
            continue
        code = compile(ast.Module([node], []), "<docs>", "exec", flags=flags)
        if code.co_flags & inspect.CO_COROUTINE:
            namespace["__loop__"].run_until_complete(eval(code, namespace))  # noqa: S307
        else:
            exec(code, namespace)  # noqa: S102


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # LlamaIndex's own
@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem
)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop = asyncio.new_event_loop()
    namespace: dict[str, object] = {"__name__": "docs", "__loop__": loop}
    setup = ROOT / "tests" / "docs" / f"{page.stem}.py"
    try:
        if setup.exists():
            exec(compile(setup.read_text(encoding="utf-8"), str(setup), "exec"), namespace)  # noqa: S102
        for source in blocks(page, "python"):
            run(source, namespace)
    finally:
        loop.close()


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for source in blocks(page, ""):
            for line in source.replace("\\\n", " ").splitlines():
                if line.strip().startswith("moma "):
                    yield page.stem, line.strip()


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
