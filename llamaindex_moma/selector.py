"""A LlamaIndex selector that chooses by MoMA: no LLM call, and one embedding a query.

LlamaIndex runs its *last* engine when a selector answers -1, so every answer here is a position in
the list of choices, or a typed error. Knows nothing of query engines.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import ToolMetadata

from llamaindex_moma.choices import Fingerprint, cards_of, fingerprint
from moma_core import (
    Candidate,
    Encoder,
    InvalidInputError,
    MoMARouter,
    NoTargetError,
    RoutingDecision,
    UnknownNameError,
)

__all__ = ["MoMASelector", "ScoredSelection"]

_KEPT_LISTS = 16


class ScoredSelection(SingleSelection):
    """A selection with the score behind it; survives into ``response.metadata``."""

    score: float
    """Probability among the choices; 0 for a fallback."""

    name: str
    """The choice's name, made unique; ``"choice 3"`` where it has none."""

    fallback: bool = False
    """Whether nothing fitted and this is the fallback."""


@dataclass(frozen=True)
class _Choices:
    router: MoMARouter
    positions: Mapping[str, int]


class MoMASelector(BaseSelector):
    """Selects among query engines, retrievers or plain descriptions by learned routing.

    Cards and their embeddings are made once for each distinct list of choices; a query costs one
    embedding and no LLM call. Each answer is a valid position, best first.

    Args:
        examples: Queries that a choice should take, by its name; the more, the surer.
        fallback: Position or name of the choice that takes what fits none; None raises
            `NoTargetError` instead.
        max_selections: How many choices may be selected for one query.
        min_share: With several selections: a further choice needs at least this share of the best
            one's score.
        negatives: Queries that no choice should take.
        encoder: Embeds; the packaged one by default.

    Raises:
        InvalidInputError: ``max_selections`` or ``min_share`` is out of bounds.

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
        min_share: float = 0.5,
        negatives: Sequence[str] = (),
        encoder: Encoder | None = None,
    ) -> None:
        if max_selections < 1 or not 0.0 <= min_share <= 1.0:
            raise InvalidInputError(
                f"max_selections is 1 or more and min_share lies in [0, 1], got {max_selections!r} "
                f"and {min_share!r}."
            )
        self._examples = dict(examples or {})
        self._fallback = fallback
        self._max_selections = max_selections
        self._min_share = min_share
        self._negatives = tuple(negatives)
        self._encoder = encoder
        self._kept: OrderedDict[Fingerprint, _Choices] = OrderedDict()
        self._lock = threading.Lock()

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
        known = self._choices(fingerprint(choices))
        fallback = self._fallback_position(known)
        try:
            decision = known.router.route(query.query_str)
        except NoTargetError as error:
            return SelectorResult(selections=[self._fall_back(known, fallback, error)])
        return SelectorResult(selections=list(self._selections(known, decision)))

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return await asyncio.to_thread(self._select, choices, query)

    def _choices(self, key: Fingerprint) -> _Choices:
        # Under one lock: many queries may arrive at once, and the cards should be embedded once.
        with self._lock:
            if key not in self._kept:
                cards = cards_of(key, self._examples)
                router = MoMARouter.from_cards(
                    cards, llms=None, encoder=self._encoder, negatives=self._negatives
                )
                names = (card.name for card in cards)
                self._kept[key] = _Choices(router, {name: i for i, name in enumerate(names)})
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT_LISTS:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _selections(self, known: _Choices, decision: RoutingDecision) -> list[ScoredSelection]:
        scores = {candidate.name: candidate.score for candidate in decision.candidates}
        best = scores.get(decision.target, decision.probability)
        chosen = {name: scores.get(name, decision.probability) for name in decision.targets}
        for candidate in decision.candidates:
            if candidate.score >= self._min_share * best:
                chosen.setdefault(candidate.name, candidate.score)
        return [
            ScoredSelection(
                index=known.positions[name],
                reason=_reason(name, score, decision.candidates),
                score=score,
                name=name,
            )
            for name, score in list(chosen.items())[: self._max_selections]
        ]

    def _fallback_position(self, known: _Choices) -> int | None:
        """Check the fallback before it is needed, so that a wrong one shows at the first query."""
        fallback, count = self._fallback, len(known.positions)
        if fallback is None:
            return None
        if isinstance(fallback, str):
            if fallback in known.positions:
                return known.positions[fallback]
        elif 0 <= fallback < count:
            return fallback
        raise UnknownNameError(
            f"the fallback {fallback!r} is none of the {count} choices. Give a position from 0 to "
            f"{count - 1}, or one of {list(known.positions)!r:.500}."
        )

    def _fall_back(
        self, known: _Choices, position: int | None, error: NoTargetError
    ) -> ScoredSelection:
        if position is None:
            raise NoTargetError(
                f"none of the {len(known.positions)} choices fits this query ({error}). Set "
                "MoMASelector(fallback=...) to a choice that takes such queries, or give examples "
                "of what each choice should take."
            ) from error
        name = next(name for name, index in known.positions.items() if index == position)
        return ScoredSelection(
            index=position,
            reason=f"none of the {len(known.positions)} choices fits; {name!r} is the fallback",
            score=0.0,
            name=name,
            fallback=True,
        )


def _reason(name: str, score: float, candidates: Sequence[Candidate]) -> str:
    others = [candidate for candidate in candidates if candidate.name != name]
    if not others:
        return f"{name!r} fits with probability {score:.2f}"
    rival = max(others, key=lambda candidate: candidate.score)
    return (
        f"{name!r} fits with probability {score:.2f}; next to it is {rival.name!r} with "
        f"{rival.score:.2f}"
    )
