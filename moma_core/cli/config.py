"""``moma config``: settings of one TOML file and of the environment, and where each comes from.

A flag goes before the environment, that before ``moma.toml`` (or the file that ``MOMA_CONFIG``
names), and that before the default.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from moma_core._checks import did_you_mean
from moma_core.cli.terminal import JsonOption, answer, table
from moma_core.errors import InvalidInputError

__all__ = ["app", "read", "use"]

FILE = "moma.toml"
_LARGEST = 2**20  # bytes of a settings file


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str
    kind: type
    default: object
    about: str

    @property
    def variable(self) -> str:
        return f"MOMA_{self.name.upper()}"


_SETTINGS = (
    _Setting("router", str, ".moma", "directory of the router"),
    _Setting("preference", str, "auto", "what LLMs are chosen by"),
    _Setting("workers", int, 0, "processes of moma route --batch; 0: all cores"),
    _Setting("cache", str, "", "where the local LLM's weights are kept; empty: the user's cache"),
)


def path() -> Path:
    """Return where the settings file is, whether or not there is one."""
    return Path(os.environ.get("MOMA_CONFIG") or FILE)


def read() -> dict[str, Any]:
    """Return what the settings file says; nothing where there is none.

    Raises:
        InvalidInputError: It cannot be read, or says what no setting is.
    """
    file = path()
    try:
        if not file.exists() and "MOMA_CONFIG" not in os.environ:
            return {}
        content = file.read_bytes()
        if len(content) > _LARGEST:
            raise ValueError("it is longer than 1 MiB")
        given = tomllib.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"the settings in {file} cannot be read ({error}). Write lines such as "
            "router = '.moma', or delete it."
        ) from error
    known = {setting.name: setting for setting in _SETTINGS}
    for name, value in given.items():
        if name not in known:
            raise InvalidInputError(
                f"{file} sets {name!r:.40}, which is no setting; there are {', '.join(known)}. "
                f"{did_you_mean(name, tuple(known))}"
            )
        if not isinstance(value, known[name].kind) or isinstance(value, bool):
            raise InvalidInputError(
                f"{file} sets {name} to {value!r:.40}; it is a {known[name].kind.__name__}, such "
                f"as {known[name].default!r}."
            )
    return given


def use(context: typer.Context) -> None:
    """Have the commands take what the settings file says for their defaults.

    Raises:
        InvalidInputError: The file cannot be read, or says what no setting is.
    """
    given = read()
    if given.get("cache"):
        os.environ.setdefault("MOMA_CACHE", str(given.pop("cache")))
    context.default_map = _defaults(context.command, given)


def _defaults(command: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as defaults of a command's options and of all commands below it."""
    if hasattr(command, "commands"):
        return {name: _defaults(each, given) for name, each in command.commands.items()}
    return {p.name: given[p.name] for p in command.params if p.name in given}


app = typer.Typer(no_args_is_help=True, help="Show the settings and where they come from.")


@app.callback()
def _config() -> None:
    """Keep ``show`` a command of its own while it is the only one."""


@app.command(epilog="Example: moma config show")
def show(as_json: JsonOption = False) -> None:
    """Show every setting with where it comes from: the environment, the file, or the default.

    Flags of a command go before all of them.
    """
    given = read()
    found: list[tuple[_Setting, object, str]] = []
    for setting in _SETTINGS:
        said = os.environ.get(setting.variable)
        if said and not (setting.name == "cache" and said == given.get("cache")):
            found.append((setting, said, setting.variable))
        elif setting.name in given:
            found.append((setting, given[setting.name], str(path())))
        else:
            found.append((setting, setting.default, "default"))
    plain = {s.name: {"value": value, "from": source} for s, value, source in found}
    rows = ((s.name, value, source, s.variable, s.about) for s, value, source in found)
    answer(as_json, plain, table(("setting", "value", "from", "variable", "what for"), rows))
