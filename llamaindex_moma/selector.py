"""A LlamaIndex selector that chooses by MoMA: no LLM call, and one embedding a query.

LlamaIndex runs its *last* engine when a selector answers -1, so every answer here is a position in
the list of choices, or a typed error. Knows nothing of query engines.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import ToolMetadata

from llamaindex_moma.cards import (
    Choice,
    KnownChoices,
    add_example,
    cards_of,
    examples_by_name,
    fingerprint,
    nearest,
    positions_in,
)
from llamaindex_moma.events import MoMARouteEvent, scores_of, tell
from llamaindex_moma.ranking import CLOSED_LIST, Judged, check_least, judge, packaged_encoder
from moma_core import Encoder, InvalidInputError, MoMARouter, NoTargetError, UnknownNameError
from moma_core.errors import InvalidQueryError
from moma_core.types import is_text

__all__ = [
    "MoMASelector",
    "ScoredSelection",
]

_KEPT_LISTS = 16


class ScoredSelection(SingleSelection):
    """A selection with the score behind it; survives into ``response.metadata``."""

    score: float
    """Share of the probability among the choices; 0 for a fallback."""

    name: str
    """The choice's name, made unique; ``"choice 3"`` where it has none."""

    fallback: bool = False
    """Whether nothing fitted and this is the fallback."""


class MoMASelector(BaseSelector):
    """Selects among query engines, retrievers or plain descriptions by learned routing.

    Cards and their embeddings are made once for each distinct list of choices; a query costs one
    embedding and no LLM call. Each answer is a valid position, best first.

    Args:
        examples: Queries that a choice should take, by its name (or its description, where it has
            none); the more, the surer. Added to those in a choice's `MoMAToolMetadata`.
        fallback: Position or name of the choice that takes what fits none; None raises
            `NoTargetError` instead.
        max_selections: How many choices may be selected for one query.
        min_probability: Least calibrated probability to select anything; 0 always selects. The
            engines of one application mostly cover its questions, so the default is lower than a
            router's own threshold, which None takes.
        min_share: With several selections: a further choice needs at least this share of the best
            one's score.
        negatives: Queries that no choice should take.
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
        max_selections: int = 1,
        min_probability: float | None = CLOSED_LIST,
        min_share: float = 0.5,
        negatives: Sequence[str] = (),
        encoder: Encoder | None = None,
        router: MoMARouter | None = None,
    ) -> None:
        if max_selections < 1 or not 0.0 <= min_share <= 1.0:
            raise InvalidInputError(
                f"max_selections is 1 or more and min_share lies in [0, 1], got {max_selections!r} "
                f"and {min_share!r}."
            )
        check_least(min_probability)
        if router is not None and (examples or negatives or encoder is not None):
            raise InvalidInputError(
                "a router brings its own examples, negatives and encoder. Give examples to the "
                "cards: register_cards(router, agent_cards_from_query_engine_tools(tools, "
                "examples)), or leave router= out."
            )
        self._examples = examples_by_name(examples)
        self._fallback = fallback
        self._max_selections = max_selections
        self._min_probability = min_probability
        self._min_share = min_share
        self._negatives = tuple(negatives)
        self._encoder = encoder
        self._router = router
        self._learnt: list[tuple[str | Choice, str]] = []
        self._kept: OrderedDict[tuple[Choice, ...], KnownChoices] = OrderedDict()
        self._lock = threading.Lock()

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
        if not is_text(query):
            raise InvalidQueryError("an example needs at least one visible character.")
        called = choice if isinstance(choice, str) else fingerprint([choice])[0]
        if self._router is not None:
            name = called if isinstance(called, str) else called.called
            add_example(self._router, name, query)
            return
        with self._lock:
            found = [(known, known.find(called)) for known in self._kept.values()]
            places = [(known, place) for known, place in found if place is not None]
            if found and not places:
                name = called if isinstance(called, str) else called.called
                seen = [name for known, _ in found for name in known.names]
                raise UnknownNameError(f"no choice is called {name!r}. {nearest(name, seen)}")
            for known, place in places:
                known.learn(query, place)
            if places:
                known, place = places[-1]
                called = known.choices[place]
            self._learnt.append((called, query))

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """Nothing to update: there is no prompt."""

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        if not choices:
            raise InvalidInputError(
                "there is nothing to select from, got no choices. Pass at least one query engine "
                "tool."
            )
        known = self._known(fingerprint(choices))
        fallback = self._fallback_position(known)
        count, text = self._max_selections, query.query_str
        least, names = self._min_probability, known.positions
        judged = judge(known.router, text, names, count, least=least, several=count > 1)
        if judged.fits:
            selections = self._selections(known, judged)
        else:
            selections = [_fallen_back(known, fallback)] if fallback is not None else []
        _announce(text, judged, selections)
        if not selections:
            raise NoTargetError(
                f"none of the {len(choices)} choices fits this query: {judged.reason}. Set "
                "MoMASelector(fallback=...) to a choice that takes such queries, give examples of "
                "what each choice should take, or lower min_probability; 0 always selects."
            )
        return SelectorResult(selections=list(selections))

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return await asyncio.to_thread(self._select, choices, query)

    def _known(self, key: tuple[Choice, ...]) -> KnownChoices:
        # Under one lock: many queries may arrive at once, and the cards should be embedded once.
        with self._lock:
            if self._router is not None:
                return KnownChoices(self._router, key, positions_in(self._router, key))
            if key not in self._kept:
                self._kept[key] = self._make(key)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT_LISTS:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _make(self, key: tuple[Choice, ...]) -> KnownChoices:
        cards = cards_of(key, self._examples)
        router = MoMARouter.from_cards(
            cards, llms=None, encoder=self._encoder or packaged_encoder(), negatives=self._negatives
        )
        known = KnownChoices(router, key, {card.name: i for i, card in enumerate(cards)})
        for called, query in self._learnt:
            if (place := known.find(called)) is not None:
                known.learn(query, place)
        return known

    def _selections(self, known: KnownChoices, judged: Judged) -> list[ScoredSelection]:
        candidates = judged.candidates
        floor = self._min_share * candidates[0].score
        wanted = [c for i, c in enumerate(candidates) if i == 0 or c.score >= floor]
        return [
            ScoredSelection(
                index=known.positions[candidate.name],
                reason=_reason(candidate.name, candidate.score, judged),
                score=candidate.score,
                name=candidate.name,
            )
            for candidate in wanted[: self._max_selections]
        ]

    def _fallback_position(self, known: KnownChoices) -> int | None:
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


def _announce(text: str, judged: Judged, selections: Sequence[ScoredSelection]) -> None:
    tell(
        MoMARouteEvent(
            kind="selection",
            query=text,
            targets=[selection.name for selection in selections],
            reason=selections[0].reason if selections else judged.reason,
            scores=scores_of(judged.candidates),
            probability=judged.probability,
            fallback=any(selection.fallback for selection in selections),
            ms=judged.ms,
        )
    )


def _fallen_back(known: KnownChoices, position: int) -> ScoredSelection:
    name = known.names[position]
    return ScoredSelection(
        index=position,
        reason=f"none of the {len(known.choices)} choices fits; {name!r} is the fallback",
        score=0.0,
        name=name,
        fallback=True,
    )


def _reason(name: str, score: float, judged: Judged) -> str:
    chance = judged.probability
    words = f"{name!r} fits with a share of {score:.2f}"
    rivals = [candidate for candidate in judged.candidates if candidate.name != name]
    if rivals:
        rival = max(rivals, key=lambda candidate: candidate.score)
        words += f"; next to it is {rival.name!r} with {rival.score:.2f}"
    return f"{words}; the first choice is right with probability {chance:.2f}"
