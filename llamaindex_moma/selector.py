"""A LlamaIndex selector that chooses by MoMA: no LLM call, and one embedding a query.

LlamaIndex runs its *last* engine when a selector answers -1, so every answer here is a position in
the list of choices, or a typed error.
"""

from __future__ import annotations

import asyncio
import difflib
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import BaseTool, ToolMetadata

from llamaindex_moma.cards import (
    add_example,
    agent_cards_from_query_engine_tools,
    check_by_name,
    examples_in,
    register_cards,
    router_of,
    tools_in,
)
from llamaindex_moma.events import MoMARouteEvent, send
from llamaindex_moma.threshold import CLOSED_LIST, check_min_probability, judged
from moma_core import (
    AgentCard,
    Encoder,
    InvalidInputError,
    MoMARouter,
    NoTargetError,
    Query,
    UnknownNameError,
)
from moma_core.decision import Ranking
from moma_core.errors import DuplicateNameError
from moma_core.health import Health
from moma_core.locks import Lock
from moma_core.types import MAX_DESCRIPTION_CHARS, is_text, is_visible, joined, nearest

__all__ = [
    "MoMASelector",
    "ScoredSelection",
]

_KEPT_LISTS = 16  # of choices, whose cards stay embedded
_SHOWN = 10  # candidates of a decision that an event shows at least


class ScoredSelection(SingleSelection):
    """A selection with the score behind it; survives into ``response.metadata``."""

    score: float
    """Probability that this is the choice to take; 0 for a fallback."""

    name: str
    """The choice's name, made unique; ``"choice 3"`` where it has none."""

    fallback: bool = False
    """Whether nothing fits surely, and this is the fallback or the nearest."""


class MoMASelector(BaseSelector):
    """Selects among query engines, retrievers or plain descriptions by learned routing.

    Cards and their embeddings are made once for each distinct list of choices; a query costs one
    embedding and no LLM call. Each answer is a valid position, best first. When no choice is
    probable enough, the fallback is selected or, without one, the nearest choice, and the selection
    says so in ``fallback``; ``strict=True`` raises `NoTargetError` instead of taking the nearest.

    Args:
        examples: Queries that a choice should take, by its name (or its description, where it has
            none); the more, the surer. Added to those in a choice's `MoMAToolMetadata`.
        fallback: Position or name of the choice that takes what fits none.
        strict: Whether a query that fits none is an error where there is no fallback.
        several: Whether a query that asks for several things may select several choices.
        max_selections: How many at most.
        min_share: A further choice needs at least this share of the best one's score.
        min_probability: Least calibrated probability to count as a fit; 0 always fits. The engines
            of one application mostly cover its questions, so the default is lower than a router's
            own threshold, which None takes.
        negatives: Queries that no choice should take; a text is one query.
        encoder: Embeds; the packaged one by default.
        router: A router that holds a card for each choice already, perhaps in a registry shared
            with other programs; its other agents are never selected. Brings its own examples,
            negatives and encoder.

    Raises:
        InvalidInputError: A number is out of bounds, ``examples`` are not by name, or ``router``
            is given beside what it brings itself.
        InvalidCardError: A choice's examples are one text, not a list.
        UnknownNameError: At a selection: a key of ``examples`` is nearly the name of a choice that
            has none, or no choice has any.

    Example:
        >>> selector = MoMASelector(examples={"papers": ["which paper proves it?"]}, fallback=1)
        >>> choices = [ToolMetadata("Papers on physics", "papers"), ToolMetadata("News", "news")]
        >>> selector.select(choices, "which paper on physics proves it?").ind
        0
    """

    def __init__(
        self,
        examples: Mapping[str, Sequence[str]] | None = None,
        *,
        fallback: int | str | None = None,
        strict: bool = False,
        several: bool = False,
        max_selections: int = 3,
        min_share: float = 0.5,
        min_probability: float | None = CLOSED_LIST,
        negatives: Sequence[str] | str = (),
        encoder: Encoder | None = None,
        router: MoMARouter | None = None,
    ) -> None:
        if max_selections < 1 or not 0.0 <= min_share <= 1.0:
            raise InvalidInputError(
                f"max_selections is 1 or more and min_share lies in [0, 1], got {max_selections!r} "
                f"and {min_share!r}."
            )
        check_min_probability(min_probability)
        check_by_name("examples", examples)
        if router is not None and (examples or negatives or encoder is not None):
            raise InvalidInputError(
                "a router brings its own examples, negatives and encoder. Give examples to the "
                "cards: register_cards(router, agent_cards_from_query_engine_tools(tools, "
                "examples)), or leave router= out."
            )
        self._examples = {key: joined("examples", key, t) for key, t in (examples or {}).items()}
        self._fallback, self._strict = fallback, strict
        self._max_selections = max_selections if several else 1
        self._min_share, self._min_probability = min_share, min_probability
        self._negatives = (negatives,) if isinstance(negatives, str) else tuple(negatives)
        self._encoder, self._router = encoder, router
        self._health = Health() if router is None else router.health
        self._learnt: list[tuple[str | Choice, str]] = []
        self._kept: OrderedDict[tuple[Choice, ...], KnownChoices] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def from_defaults(
        cls,
        tools: Iterable[BaseTool] = (),
        examples: Mapping[str, Sequence[str]] | None = None,
        *,
        router: MoMARouter | None = None,
        **options: Any,
    ) -> MoMASelector:
        """Return a selector whose cards for these tools are made now, not at the first query.

        Args:
            tools: Query engine or retriever tools, as given to LlamaIndex's router.
            examples: Queries that each tool should take, by its name.
            router: Receives a card for each tool, and keeps those it has.
            options: As for the class.

        Raises:
            InvalidInputError: ``tools`` holds something else, or an option is out of bounds.
            UnknownNameError: ``examples`` or ``fallback`` name a tool that is not there.

        Example:
            >>> selector = MoMASelector.from_defaults()
            >>> selector.select(["Cooking recipes", "Weather records"], "a recipe for soup").ind
            0
        """
        found = tools_in(tools)
        if router is not None and found:
            register_cards(router, agent_cards_from_query_engine_tools(found, examples))
            examples = None
        selector = cls(examples, router=router, **options)
        if found:
            selector._fallback_in(selector._known(_choices([tool.metadata for tool in found])))
        return selector

    @property
    def health(self) -> Health:
        """Which choices failed lately; `MoMARouterQueryEngine` tells it, and so may you."""
        return self._health

    def learn(self, query: str, choice: str | ToolMetadata) -> None:
        """Remember that ``choice`` should take queries like this one; the next selection knows it.

        Args:
            query: The user's words.
            choice: The choice's name, the ``name`` of a selection, or the choice itself.

        Raises:
            InvalidQueryError: ``query`` is blank.
            UnknownNameError: None of the choices seen so far is called so.
            DuplicateNameError: Several are.

        Example:
            >>> selector = MoMASelector()
            >>> choices = [ToolMetadata("Rules at work", "hr"), ToolMetadata("Help with IT", "it")]
            >>> selector.learn("the badge reader blinks red", "it")
            >>> selector.select(choices, "my badge reader blinks red").ind
            1
        """
        query = Query(query).text
        called = choice if isinstance(choice, str) else _choices([choice])[0]
        name = called if isinstance(called, str) else called.called
        if self._router is not None:
            add_example(self._router, name, query)
            return
        with self._lock:
            found = [(known, known.find(called)) for known in self._kept.values()]
            places = [(known, place) for known, place in found if place is not None]
            if found and not places:
                seen = [each for known, _ in found for each in known.positions]
                raise UnknownNameError(f"no choice is called {name!r}. {nearest(name, seen)}")
            for known, place in places:
                known.learn(query, place)
                called = known.choices[place]
            self._learnt.append((called, query))

    def choose(
        self,
        choices: Sequence[ToolMetadata],
        query: str | QueryBundle,
        *,
        exclude: Collection[str] | str = (),
    ) -> SelectorResult:
        """Select like ``select``, leaving some choices out this time.

        Args:
            choices: As for ``select``.
            query: The user's words.
            exclude: Names of selections that may not be chosen; a text is one name.

        Raises:
            InvalidInputError: There are no choices.
            InvalidQueryError: The query is blank.
            NoTargetError: Nothing may be selected, or nothing fits and ``strict`` is set.
            UnknownNameError: ``fallback`` or a key of ``examples`` names no choice.
        """
        if not choices:
            raise InvalidInputError(
                "there is nothing to select from, got no choices. Pass at least one query engine "
                "tool."
            )
        start = time.perf_counter()
        known = self._known(_choices(choices))
        fallback = self._fallback_in(known)
        text = query if isinstance(query, str) else query.query_str
        left_out = {exclude} if isinstance(exclude, str) else set(exclude)
        ranking = self._rank(known, text, left_out)
        if fallback is not None and known.names[fallback] in left_out:
            fallback = None
        selections = self._selections(known, ranking, fallback)
        _announce(text, ranking, selections, start)
        if not selections:
            raise NoTargetError(
                f"none of the {len(choices)} choices fits this query: {ranking.reason}. Set "
                "MoMASelector(fallback=...) to a choice that takes such queries, give examples of "
                "what each choice should take, or lower min_probability; 0 always selects."
            )
        return SelectorResult(selections=list(selections))

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """Nothing to update: there is no prompt."""

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return self.choose(choices, query)

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return await asyncio.to_thread(self.choose, choices, query)

    def _known(self, key: tuple[Choice, ...]) -> KnownChoices:
        # Under one lock: many queries may arrive at once, and the cards should be embedded once.
        with self._lock:
            if self._router is not None:
                return KnownChoices(self._router, key, _positions_in(self._router, key))
            if key not in self._kept:
                self._kept[key] = self._make(key)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT_LISTS:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _make(self, key: tuple[Choice, ...]) -> KnownChoices:
        cards = _cards_of(key, self._examples)
        router = router_of(cards, self._encoder, self._negatives)
        known = KnownChoices(router, key, {card.name: i for i, card in enumerate(cards)})
        for called, query in self._learnt:
            if (place := known.find(called)) is not None:
                known.learn(query, place)
        return known

    def _rank(self, known: KnownChoices, text: str, exclude: Collection[str]) -> Ranking:
        """Rank the choices that work; when all of them failed lately, all are given a try."""
        count, among = max(_SHOWN, self._max_selections), known.names
        failing = self._health.unhealthy()
        ranking = known.router.rank(text, count, among, exclude={*exclude, *failing})
        if not ranking and failing:
            ranking = known.router.rank(text, count, among, exclude=exclude)
        several = self._max_selections > 1
        return judged(ranking, self._min_probability, several=several)

    def _selections(
        self, known: KnownChoices, ranking: Ranking, fallback: int | None
    ) -> list[ScoredSelection]:
        if ranking.fits and ranking:
            floor = self._min_share * ranking[0].score
            wanted = [c.name for i, c in enumerate(ranking) if i == 0 or c.score >= floor]
            return [
                _selection(known, name, ranking, _reason(name, ranking))
                for name in wanted[: self._max_selections]
            ]
        none_fits = f"none of the {len(known.choices)} choices fits"
        if fallback is not None:
            name = known.names[fallback]
            reason = f"{none_fits}; {name!r} is the fallback"
            return [
                ScoredSelection(index=fallback, reason=reason, score=0.0, name=name, fallback=True)
            ]
        if self._strict or not ranking:
            return []
        return [
            _selection(known, ranking[0].name, ranking, f"{none_fits} surely: {ranking.reason}")
        ]

    def _fallback_in(self, known: KnownChoices) -> int | None:
        """Check the fallback before it is needed, so that a wrong one shows at the first query."""
        fallback, count = self._fallback, len(known.choices)
        if fallback is None:
            return None
        if isinstance(fallback, str):
            if (place := known.find(fallback)) is not None:
                return place
        elif 0 <= fallback < count:
            return fallback
        raise UnknownNameError(
            f"the fallback {fallback!r} is none of the {count} choices. Give a position from 0 to "
            f"{count - 1}, or one of {known.names!r:.500}."
        )


def _announce(
    text: str, ranking: Ranking, selections: Sequence[ScoredSelection], start: float
) -> None:
    send(
        MoMARouteEvent.of_ranking(
            "selection",
            text,
            ranking,
            [selection.name for selection in selections],
            reason=selections[0].reason if selections else ranking.reason,
            fallback=any(selection.fallback for selection in selections),
            ms=(time.perf_counter() - start) * 1e3,
        )
    )


def _selection(known: KnownChoices, name: str, ranking: Ranking, reason: str) -> ScoredSelection:
    score = next(each.score for each in ranking if each.name == name)
    return ScoredSelection(
        index=known.positions[name],
        reason=reason,
        score=score,
        name=name,
        fallback=not ranking.fits,
    )


def _reason(name: str, ranking: Ranking) -> str:
    score = next(each.score for each in ranking if each.name == name)
    words = f"{name!r} fits with probability {score:.2f}"
    rival = next((each for each in ranking if each.name != name), None)
    if rival is not None:
        words += f"; next to it is {rival.name!r} with {rival.score:.2f}"
    return f"{words}; the first choice is right with probability {ranking.best_probability:.2f}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What the card of a choice depends on.

    Args:
        name: As given; may be missing.
        description: As given.
        examples: What the choice's own metadata brings along.
    """

    name: str | None
    description: str
    examples: tuple[str, ...] = ()

    @property
    def called(self) -> str:
        """Name by which users speak of it: its name, else its description."""
        return self.name or self.description


@dataclass(frozen=True)
class KnownChoices:
    """A list of choices and the router that tells them apart.

    Args:
        router: Holds a card for each choice.
        choices: As given, in order.
        positions: Position of each card's choice, by card name, in order.
    """

    router: MoMARouter
    choices: tuple[Choice, ...]
    positions: Mapping[str, int]

    @property
    def names(self) -> list[str]:
        """Card names, in order."""
        return list(self.positions)

    def find(self, called: str | Choice) -> int | None:
        """Return the position that a name or description speaks of; None when nothing does.

        Raises:
            DuplicateNameError: Several choices are called so.
        """
        if isinstance(called, Choice):
            return self.choices.index(called) if called in self.choices else None
        if called in self.positions:
            return self.positions[called]
        found = [i for i, choice in enumerate(self.choices) if choice.called == called]
        _check_single(len(found), called)
        return found[0] if found else None

    def learn(self, query: str, position: int) -> None:
        """Add an example to the choice at ``position``; the next route knows it."""
        add_example(self.router, self.names[position], query)


def _choices(metadata: Iterable[ToolMetadata]) -> tuple[Choice, ...]:
    return tuple(Choice(item.name, item.description or "", examples_in(item)) for item in metadata)


_MAX_NAME = 100  # leaves room for what makes a name unique
_SLIP = 0.8  # likeness from which an unknown key is taken for a slip: one wrong letter in five


def _cards_of(
    choices: Sequence[Choice], examples: Mapping[str, Sequence[str]]
) -> tuple[AgentCard, ...]:
    """Return one card a choice, in order, all with different names."""
    called = [choice.called for choice in choices]
    _check_keys(examples, called)
    counts = Counter(_printable(choice.name) for choice in choices)
    cards: dict[str, AgentCard] = {}
    for position, choice in enumerate(choices, start=1):
        name = _free_name(_printable(choice.name), position, {*counts, *cards}, counts)
        said = choice.description.strip()[:MAX_DESCRIPTION_CHARS]
        texts = dict.fromkeys((*choice.examples, *examples.get(choice.called, ())))
        cards[name] = AgentCard(name, said if is_text(said) else name, examples=tuple(texts))
    return tuple(cards.values())


def _check_keys(examples: Collection[str], called: Sequence[str]) -> None:
    """Refuse slips of the pen; a key may well be for a choice of another list."""
    if examples and called and not set(called).intersection(examples):
        raise UnknownNameError(
            f"there are examples for {list(examples)!r:.300}, but the choices are "
            f"{called!r:.300}. Use the choices' names as keys."
        )
    without = [name for name in called if name not in examples]
    for key in examples:
        _check_single(called.count(key), key)
        close = [] if key in called else difflib.get_close_matches(key, without, n=1, cutoff=_SLIP)
        # Names that differ in a number, as sales_2023 and sales_2024, are two on purpose.
        if close and re.findall(r"\d+", key) == re.findall(r"\d+", close[0]):
            raise UnknownNameError(
                f"there are examples for {key!r}, which is no choice, and none for "
                f"{close[0]!r:.100}. Did you mean that? Use the choices' names as keys."
            )


def _positions_in(router: MoMARouter, choices: Sequence[Choice]) -> dict[str, int]:
    """Return the position of each choice whose card a shared router holds already."""
    positions: dict[str, int] = {}
    for position, choice in enumerate(choices):
        if choice.name is None or choice.name not in router.agents:
            raise UnknownNameError(
                f"the router knows no agent {choice.name!r}. Register the choices first: "
                "register_cards(router, agent_cards_from_query_engine_tools(tools))."
            )
        _check_single(1 + (choice.name in positions), choice.name)
        positions[choice.name] = position
    return positions


def _check_single(count: int, called: str) -> None:
    if count > 1:
        raise DuplicateNameError(
            f"{count} choices are called {called!r}, so it is not clear which one is meant. "
            "Give them different names."
        )


def _free_name(name: str, position: int, taken: Collection[str], counts: Mapping[str, int]) -> str:
    """Return a name that only one choice gave as it is, or make one of the position."""
    if name and counts[name] == 1:
        return name
    name = f"{name} ({position})" if name else f"choice {position}"
    while name in taken:
        name += "'"
    return name


def _printable(name: str | None) -> str:
    letters = "".join(c if c.isprintable() and is_visible(c) else " " for c in name or "")
    return letters[:_MAX_NAME].strip()
