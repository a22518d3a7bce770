"""Collaboration modes (MasRouter, sect. 4): how members talk, and how many calls that takes.

A mode is a card like an LLM's or an agent's: its description is what the router compares with a
query, so a new one needs no retraining. Knows no LLM, no role, and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from moma_core.errors import InvalidCardError, InvalidInputError, UnknownNameError
from moma_core.types.checks import check_name, is_number, is_text

__all__ = ["MODES", "ModeCard", "calls", "calls_by_member", "mode_card"]


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
    raise UnknownNameError(
        f"no mode {name!r}; there are {[card.name for card in MODES]}. Pass a ModeCard of your own."
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
