"""Reads a router's cards as a stranger would: what `moma agents lint` finds, and what to do.

Everything is asked through `rank` and the encoder; nothing is fitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moma_core._checks import readable
from moma_core.agents.rank import effect_of, effect_said
from moma_core.decision import Ranking
from moma_core.protocols import Progress
from moma_core.router import MoMARouter
from moma_core.training.evaluate_agents import ranked
from moma_core.types import AgentCard

__all__ = ["Finding", "lint"]

_DUPLICATE = 0.9  # cosine of descriptions; MetaTool has none as near, Seal-Tools 1 in 10 (LOG.md)
_FEWEST_WORDS = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about an agent's card that makes routing worse.

    Args:
        kind: ``"duplicate"``, ``"overlap"``, ``"stolen example"``, ``"shared example"``,
            ``"says nothing"``, ``"verb"`` or ``"language"``.
        agent: Whose card it is.
        other: The other agent, where there is one.
        detail: What was seen.
        remedy: What to do.

    Example:
        >>> Finding("language", "wetter", "", "no word is read", "write it in English").agent
        'wetter'
    """

    kind: str
    agent: str
    other: str
    detail: str
    remedy: str


def lint(router: MoMARouter, progress: Progress | None = None) -> list[Finding]:
    """Return what is wrong with the cards of a router's enabled agents, the worst kinds first.

    Args:
        router: Knows the agents.
        progress: Called with a label, texts done, texts in all.

    Example:
        >>> from moma_core import AgentCard
        >>> from moma_core.testing import HashEncoder
        >>> cards = [AgentCard("rain", "rain"), AgentCard("sun", "how much the sun shines")]
        >>> router = MoMARouter.from_cards(cards, llms=None, encoder=HashEncoder())
        >>> [(each.kind, each.agent) for each in lint(router)]
        [('says nothing', 'rain')]
    """
    cards = [card for card in router.agents if card.enabled]
    if not cards:
        return []
    tell = progress or (lambda *_: None)
    texts = [card.description for card in cards]
    owned = [(card, text) for card in cards for text in card.examples]
    told = ranked(
        router, [*texts, *(text for _, text in owned)], tell, "asking in the cards' words"
    )
    found = [
        *_duplicates(router, cards),
        *_overlaps(router, cards, tell),
        *_stolen(owned, told[len(cards) :]),
        *_shared(owned),
        *_empty(cards, told[: len(cards)]),
        *_unread(router, cards),
    ]
    twins = {frozenset((f.agent, f.other)) for f in found if f.kind == "duplicate"}
    found = [f for f in found if f.kind != "overlap" or frozenset((f.agent, f.other)) not in twins]
    return [*found, *_contradictions(cards), *_verbless(cards, found)]


def _duplicates(router: MoMARouter, cards: Sequence[AgentCard]) -> Iterator[Finding]:
    vectors = router.encoder.encode([card.description for card in cards])
    for row, card in enumerate(cards):
        cosines = vectors[row + 1 :] @ vectors[row]
        for later in np.flatnonzero(cosines >= _DUPLICATE).tolist():
            yield Finding(
                "duplicate",
                card.name,
                cards[row + 1 + later].name,
                f"their descriptions have the cosine {cosines[later]:.2f}",
                "Keep one of them, or say what each does that the other does not.",
            )


def _overlaps(router: MoMARouter, cards: Sequence[AgentCard], tell: Progress) -> Iterator[Finding]:
    """Ask each description of all the others: where one would take it, the two overlap."""
    seen: set[frozenset[str]] = set()
    for done, card in enumerate(cards, 1):
        ranking = router.rank(card.description, 1, exclude=card.name)
        tell("asking the others", done, len(cards))
        pair = frozenset((card.name, *ranking.names))
        if ranking.fits and ranking and pair not in seen:
            seen.add(pair)
            yield Finding(
                "overlap",
                card.name,
                ranking.names[0],
                "asked in the first one's words with that left out, the other would take it "
                f"({ranking.best_probability:.2f})",
                "Say in both descriptions what tells them apart, or give each three examples.",
            )


def _stolen(owned: Sequence[tuple[AgentCard, str]], told: Sequence[Ranking]) -> Iterator[Finding]:
    for (card, text), ranking in zip(owned, told, strict=True):
        if ranking and ranking[0].name != card.name:
            yield Finding(
                "stolen example",
                card.name,
                ranking[0].name,
                f"its own example {text[:60]!r} goes to the other",
                "Give the example to the agent that should take it, or more like it to this one.",
            )


def _shared(owned: Sequence[tuple[AgentCard, str]]) -> Iterator[Finding]:
    counts = Counter(text.casefold().strip() for _, text in owned)
    first: dict[str, str] = {}
    for card, text in owned:
        key = text.casefold().strip()
        other = first.setdefault(key, card.name)
        if counts[key] > 1 and other != card.name:
            yield Finding(
                "shared example",
                card.name,
                other,
                f"both have the example {text[:60]!r}",
                "Leave it with the agent that should take it.",
            )


def _empty(cards: Sequence[AgentCard], told: Sequence[Ranking]) -> Iterator[Finding]:
    for card, ranking in zip(cards, told, strict=True):
        words = card.description.split()
        name_only = card.description in (card.name, readable(card.name))
        if name_only or (len(words) < _FEWEST_WORDS and len(card.description) < 4 * _FEWEST_WORDS):
            what, other = f"its description is {card.description[:60]!r}", ""
        elif ranking and ranking[0].name != card.name:
            other = ranking[0].name
            what = "asked in its own description, the other comes first"
        else:
            continue
        yield Finding(
            "says nothing",
            card.name,
            other,
            what,
            "Say in a sentence what it does, for what, and what it does not do.",
        )


def _said(card: AgentCard) -> dict[str, str]:
    """Return what the hints, the name and the description's first word say that a tool does."""
    told = {
        "its server's hint": effect_of(card) if card.metadata.get("annotations") else "unknown",
        "its name": effect_said(readable(card.name)),
        "its description": effect_said(card.description),
    }
    return {where: effect for where, effect in told.items() if effect != "unknown"}


def _contradictions(cards: Sequence[AgentCard]) -> Iterator[Finding]:
    for card in cards:
        said = _said(card)
        if len(set(said.values())) > 1:
            yield Finding(
                "verb",
                card.name,
                "",
                " but ".join(f"{where} says that it {effect}" for where, effect in said.items()),
                "Correct the wrong one: unsure, the router takes a tool that reads.",
            )


def _verbless(cards: Sequence[AgentCard], found: Sequence[Finding]) -> Iterator[Finding]:
    """Of two that are alike, one that does not say what it does while the other destroys."""
    said = {card.name: _said(card) for card in cards}
    for pair in [(f.agent, f.other) for f in found if f.kind in ("duplicate", "overlap")]:
        silent = [name for name in pair if not said[name]]
        if len(silent) != 1:
            continue
        other = pair[pair[0] == silent[0]]
        if "destroys" in said[other].values():
            yield Finding(
                "verb",
                silent[0],
                other,
                "the other, which is near it, destroys; what this one does is not said",
                "Begin its description with what it does: reads, changes or deletes.",
            )


def _unread(router: MoMARouter, cards: Sequence[AgentCard]) -> Iterator[Finding]:
    reads = getattr(router.encoder, "reads", lambda _: True)
    for card in cards:
        unread = [text for text in (card.description, *card.examples) if not reads(text)]
        if unread:
            yield Finding(
                "language",
                card.name,
                "",
                f"the encoder reads no word of {unread[0][:60]!r}",
                "Write it in English, or take encoder='multilingual' (docs/encoders.md).",
            )
