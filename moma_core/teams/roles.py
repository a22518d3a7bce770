"""Roles: what a member of a team is told to be, in pools by task domain (MasRouter, sect. 4).

Cards are compared with a query by their descriptions, so a new role needs no retraining. The
packaged pool is `roles.toml`, written for this project.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from moma_core.errors import DuplicateNameError, InvalidCardError, InvalidInputError
from moma_core.types.checks import check_name, is_text

__all__ = ["DUTIES", "RoleCard", "check_unique", "packaged_roles", "read_roles"]

DUTIES = ("plan", "solve", "check", "judge")
"""What a role can do for a team."""


@dataclass(frozen=True, slots=True)
class RoleCard:
    """One role that a member can play.

    Args:
        name: Unique within the pool, such as ``"code_reviewer"``.
        description: What it is good for, in a sentence; what a query is compared with.
        prompt: Its system prompt.
        domain: Task domain, such as ``"code"``.
        duty: What it does for a team, one of `DUTIES`; empty when that is not known.

    Raises:
        InvalidCardError: A field is empty or no text, or the duty is none.

    Example:
        >>> RoleCard("poet", "Writes verse", "You write verse.", "writing").domain
        'writing'
    """

    name: str
    description: str
    prompt: str
    domain: str
    duty: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "role")
        check_name(self.domain, f"domain of role {self.name!r}:")
        for label in ("description", "prompt"):
            if not is_text(getattr(self, label)):
                raise InvalidCardError(
                    f"role {self.name!r} needs a {label}, got {getattr(self, label)!r:.40}. Write "
                    f"{label}='You check proofs line by line.'"
                )
        if self.duty and self.duty not in DUTIES:
            raise InvalidCardError(
                f"duty of role {self.name!r} is one of {DUTIES}, or empty, got {self.duty!r:.40}."
            )


def read_roles(path: str | Path) -> tuple[RoleCard, ...]:
    """Read role cards from a TOML file of ``[[role]]`` tables with the fields of `RoleCard`.

    Raises:
        DuplicateNameError: Two roles share a name.
        InvalidCardError: A role is unfit.
        InvalidInputError: The file cannot be read, or is no such TOML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read roles from {str(path)!r} ({error}).") from error
    return _parse(text, str(path))


@cache
def packaged_roles() -> tuple[RoleCard, ...]:
    """Return the roles that ship here: maths, code, commonsense and business.

    Example:
        >>> sorted({role.domain for role in packaged_roles()})
        ['business', 'code', 'commonsense', 'maths']
    """
    source = resources.files("moma_core.teams") / "roles.toml"
    return _parse(source.read_text(encoding="utf-8"), "roles.toml")


def check_unique(roles: Iterable[RoleCard]) -> tuple[RoleCard, ...]:
    """Return the roles as a tuple.

    Raises:
        DuplicateNameError: Two share a name.
    """
    seen: dict[str, RoleCard] = {}
    for role in roles:
        if role.name in seen:
            raise DuplicateNameError(f"two roles are called {role.name!r}. Rename one.")
        seen[role.name] = role
    return tuple(seen.values())


def _parse(text: str, where: str) -> tuple[RoleCard, ...]:
    try:
        tables = tomllib.loads(text)["role"]
        return check_unique(RoleCard(**table) for table in tables)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{where} holds no roles ({error}). Write [[role]] tables with name, description, "
            "prompt and domain."
        ) from error
