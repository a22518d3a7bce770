"""Modes, roles and task domains (MasRouter, sect. 4): what a team can be made of."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path

import numpy as np

from moma_core._checks import check_name, is_number, is_text
from moma_core.errors import (
    DuplicateNameError,
    InvalidCardError,
    InvalidInputError,
    MoMAError,
    NoTargetError,
    UnknownNameError,
)
from moma_core.protocols import Encoder
from moma_core.types import FloatArray, did_you_mean

__all__ = [
    "DUTIES",
    "MODES",
    "ModeCard",
    "RoleCard",
    "TeamOptions",
    "calls",
    "calls_by_member",
    "check_unique",
    "mode_card",
    "packaged_roles",
    "read_roles",
]


@dataclass(frozen=True, slots=True)
class ModeCard:
    """One way to work together.

    The calls of a team of n members and r rounds are ``opening + each * n + each_round * n * r +
    closing``: the opening ones are the first member's, the closing ones the last member's.

    Args:
        name: Unique; what a `TeamPlan` carries and whoever runs it looks up.
        description: How the members work and which queries it is good for.
        min_members: Fewest members; at least 1.
        max_members: Most members.
        max_rounds: Most rounds; 1 for modes without rounds.
        opening: Calls of the first member before the rounds.
        each: Calls of every member before the rounds.
        each_round: Calls of every member in each round.
        closing: Calls of the last member after the rounds.
        length: Cost of one call beside that of answering alone step by step, which is what LLMs'
            measured costs refer to: a bare answer is shorter, reading the others costs more.

    Raises:
        InvalidCardError: The mode has no name, no description, no members or no calls.

    Example:
        >>> pair = ModeCard("pair", "Two programmers in turn", 2, 2, each_round=1, max_rounds=4)
        >>> calls(pair, 2, 3)
        6
    """

    name: str
    description: str
    min_members: int = 1
    max_members: int = 1
    max_rounds: int = 1
    opening: int = 0
    each: int = 0
    each_round: int = 0
    closing: int = 0
    length: float = 1.0

    def __post_init__(self) -> None:
        check_name(self.name, "mode")
        if not is_text(self.description):
            raise InvalidCardError(
                f"mode {self.name!r} needs a description, got {self.description!r:.40}. Say how "
                "its members work together and what for."
            )
        if not 1 <= self.min_members <= self.max_members or self.max_rounds < 1:
            raise InvalidCardError(
                f"mode {self.name!r} needs a member and a round, got {self.min_members} to "
                f"{self.max_members} members and {self.max_rounds} rounds. Give min_members=1."
            )
        shares = (self.opening, self.each, self.each_round, self.closing)
        if min(shares) < 0 or sum(shares) < 1:
            raise InvalidCardError(
                f"mode {self.name!r} makes no call, got opening, each, each_round, closing = "
                f"{shares}. Give each=1 when every member speaks once."
            )
        if not is_number(self.length) or not 0 < self.length < float("inf"):
            raise InvalidCardError(
                f"length of mode {self.name!r} is the cost of a call beside a step-by-step answer, "
                f"more than zero, got {self.length!r}. Write 1.0 for as much."
            )


MODES: tuple[ModeCard, ...] = (
    ModeCard(
        "io",
        "One member answers directly, without working shown: facts, definitions, easy questions.",
        each=1,
        length=0.4,
    ),
    ModeCard(
        "cot",
        "One member reasons step by step before answering: arithmetic, logic, short problems.",
        each=1,
    ),
    ModeCard(
        "chain",
        "Members work one after the other, each on the previous one's output, the last answers: "
        "tasks with stages such as plan, then solve, then check, or design, then code, then test.",
        min_members=2,
        max_members=4,
        each=1,
        length=1.2,
    ),
    ModeCard(
        "full",
        "Every member sees everyone's messages in each round and the last one writes the answer: "
        "open problems that need many kinds of knowledge at once.",
        min_members=2,
        max_members=4,
        max_rounds=2,
        each_round=1,
        closing=1,
        length=1.3,
    ),
    ModeCard(
        "debate",
        "Members answer on their own, then see the others' answers and revise, then one judges: "
        "hard questions with one right answer on which a single answer is often wrong.",
        min_members=2,
        max_members=5,
        max_rounds=2,
        each=1,
        each_round=1,
        closing=1,
        length=1.25,
    ),
    ModeCard(
        "reflection",
        "An author drafts, a critic finds mistakes, the author revises: code, proofs and texts "
        "whose mistakes are easier to see than to avoid.",
        min_members=2,
        max_members=2,
        max_rounds=2,
        opening=1,
        each_round=1,
        length=1.2,
    ),
)
"""The six modes of MasRouter, cheapest kinds first."""


def mode_card(name: str) -> ModeCard:
    """Return the card of one of `MODES`.

    Raises:
        UnknownNameError: There is none of this name.
    """
    for card in MODES:
        if card.name == name:
            return card
    known = [card.name for card in MODES]
    raise UnknownNameError(
        f"no mode {name!r}; there are {known}. {did_you_mean(name, known)}Pass a ModeCard of your "
        "own."
    )


def calls(mode: str | ModeCard, members: int, rounds: int = 1) -> int:
    """Return how many LLM calls a team makes when nothing stops it early.

    Args:
        mode: A mode's name or card.
        members: Number of members n.
        rounds: Number of rounds r; modes without rounds ignore it.

    Raises:
        InvalidInputError: The mode does not take so many members or rounds.
        UnknownNameError: No such mode.

    Example:
        >>> [calls(name, n, 2) for name, n in (("chain", 3), ("full", 3), ("debate", 3))]
        [3, 7, 10]
        >>> calls("io", 1), calls("cot", 1), calls("reflection", 2, 2)
        (1, 1, 5)
    """
    return sum(calls_by_member(mode, members, rounds))


def calls_by_member(mode: str | ModeCard, members: int, rounds: int = 1) -> tuple[int, ...]:
    """Return how many of the `calls` each member makes, in speaking order, length n.

    Raises:
        InvalidInputError: The mode does not take so many members or rounds.
        UnknownNameError: No such mode.

    Example:
        >>> calls_by_member("debate", 3, 1), calls_by_member("reflection", 2, 2)
        ((2, 2, 3), (3, 2))
    """
    card = mode_card(mode) if isinstance(mode, str) else mode
    if not card.min_members <= members <= card.max_members or rounds < 1:
        raise InvalidInputError(
            f"mode {card.name!r} takes {card.min_members} to {card.max_members} members and one "
            f"round or more, got {members} members and {rounds} rounds."
        )
    shares = [card.each + card.each_round * rounds] * members
    shares[0] += card.opening
    shares[-1] += card.closing
    return tuple(shares)


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
    source = resources.files("moma_core") / "packaged" / "roles.toml"
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
    except MoMAError:
        raise
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{where} holds no roles ({error}). Write [[role]] tables with name, description, "
            "prompt and domain."
        ) from error


@dataclass(frozen=True, eq=False)
class TeamOptions:
    """The modes and roles to choose from, beside their vectors.

    Args:
        modes: Ways to work together.
        roles: The role pool; each domain of it is a task domain.
        mode_vectors: Shape (M, d).
        role_vectors: Shape (R, d).
        fingerprint: The encoder's.

    Raises:
        NoTargetError: There is no mode or no role.
        DuplicateNameError: Two modes or two roles share a name.
    """

    modes: tuple[ModeCard, ...]
    roles: tuple[RoleCard, ...]
    mode_vectors: FloatArray
    role_vectors: FloatArray
    fingerprint: str

    def __post_init__(self) -> None:
        if not self.modes or not self.roles:
            raise NoTargetError(
                f"a team needs a mode and a role, got {len(self.modes)} modes and "
                f"{len(self.roles)} roles. Start from TeamOptions.embed(encoder)."
            )
        check_unique(self.roles)
        names = [mode.name for mode in self.modes]
        if len(set(names)) < len(names):
            raise DuplicateNameError(f"two modes share a name among {names}. Rename one.")

    @classmethod
    def embed(
        cls,
        encoder: Encoder,
        modes: Iterable[ModeCard] = MODES,
        roles: Iterable[RoleCard] | None = None,
    ) -> TeamOptions:
        """Embed the cards; by default the six modes and the packaged roles.

        Raises:
            NoTargetError: There is no mode or no role.
            DuplicateNameError: Two modes or two roles share a name.
        """
        modes = tuple(modes)
        roles = packaged_roles() if roles is None else tuple(roles)
        return cls(
            modes, roles, _vectors(encoder, modes), _vectors(encoder, roles), encoder.fingerprint
        )

    def adding(self, encoder: Encoder, *cards: ModeCard | RoleCard) -> TeamOptions:
        """Return the options with these modes and roles beside what is there.

        Raises:
            DuplicateNameError: A name is taken.
        """
        modes = tuple(card for card in cards if isinstance(card, ModeCard))
        roles = tuple(card for card in cards if isinstance(card, RoleCard))
        return replace(
            self,
            modes=self.modes + modes,
            roles=self.roles + roles,
            mode_vectors=np.concatenate([self.mode_vectors, _vectors(encoder, modes)]),
            role_vectors=np.concatenate([self.role_vectors, _vectors(encoder, roles)]),
        )

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The task domains, in the order in which roles name them."""
        return tuple(dict.fromkeys(role.domain for role in self.roles))

    @cached_property
    def role_domains(self) -> np.ndarray:
        """Position in `domains` of each role's, shape (R,)."""
        return np.array([self.domains.index(role.domain) for role in self.roles])

    @cached_property
    def domain_vectors(self) -> FloatArray:
        """Mean vector of each domain's roles, unit length, shape (D, d)."""
        sums = np.stack(
            [
                self.role_vectors[self.role_domains == k].sum(axis=0)
                for k in range(len(self.domains))
            ]
        )
        unit: FloatArray = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return unit

    @cached_property
    def most_members(self) -> int:
        """The largest team that any mode takes."""
        return max(mode.max_members for mode in self.modes)

    @cached_property
    def most_rounds(self) -> int:
        """The most rounds that any mode takes."""
        return max(mode.max_rounds for mode in self.modes)


def _vectors(encoder: Encoder, cards: Iterable[ModeCard | RoleCard]) -> FloatArray:
    return encoder.encode([f"{card.name.replace('_', ' ')}: {card.description}" for card in cards])
