"""MoMA as a LangChain decision model (langchain-core 1.8 or later), as ModelRouterMiddleware takes.

``MoMADecisionModel`` is made on first use, since its base class is younger than the oldest
langchain-core that this package works with.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from langchain_moma.decision import llm_names
from langchain_moma.messages import messages_in, some_query_of
from moma_core import (
    AgentCard,
    InvalidInputError,
    MissingExtraError,
    MoMARouter,
    Preference,
    Query,
)
from moma_core.types import is_text

__all__ = [
    "ranked_labels",
]


def ranked_labels(
    router: MoMARouter,
    query: Query,
    criteria: Mapping[str, Any],
    preference: str | Preference | None = None,
) -> dict[str, float]:
    """Return labels with probabilities that sum to one, the chosen label first.

    Labels that are all LLMs of the router are ranked by preference, with probabilities in
    proportion to their expected quality; any others by how well their criteria, or the agents of
    those names, fit the query.

    Args:
        router: Decides.
        query: What is to be decided.
        criteria: Labels, and what speaks for each.
        preference: As in `MoMARouter.route`.

    Example:
        >>> router = MoMARouter.from_cards(llms=None)
        >>> teams = {"billing": "Invoices and payments", "travel": "Flights and hotels"}
        >>> next(iter(ranked_labels(router, Query("book a flight to Rome"), teams)))
        'travel'
    """
    if set(criteria).issubset(llm_names(router)):
        candidates = router.choose_llm(query, list(criteria), preference).candidates
        scores = {c.name: max(c.score, 1e-9) for c in candidates}
        return {name: score / sum(scores.values()) for name, score in scores.items()}
    cards = [_card(router, label, text) for label, text in criteria.items()]
    small = MoMARouter.from_cards(cards, llms=None, encoder=router.encoder)
    scores = {c.name: max(c.score, 1e-9) for c in small.rank(query, len(cards))}
    return {name: score / sum(scores.values()) for name, score in scores.items()}


def _card(router: MoMARouter, label: str, text: Any) -> AgentCard:
    if label in router.agents:
        known = router.agents.get(label)
        return AgentCard(label, known.description, examples=known.examples)
    return AgentCard(label, text if is_text(text) else label)


def _confidence(probabilities: Mapping[str, float]) -> float:
    """Return 1 for a sure choice, 0 for an even one: one minus the normalised entropy."""
    positive = np.array([each for each in probabilities.values() if each > 0])
    if len(probabilities) < 2:
        return 1.0
    entropy = -float((positive * np.log(positive)).sum())
    return float(np.clip(1.0 - entropy / np.log(len(probabilities)), 0.0, 1.0))


@cache
def _decision_model() -> Any:
    decisions = _decisions()

    class MoMADecisionModel(decisions.BaseDecisionModel):  # type: ignore[misc,name-defined,unused-ignore]
        """Answers `Choice` questions by routing; other questions are refused.

        Args:
            router: Decides.
            preference: As in `MoMARouter.route`, for choices among LLMs.
        """

        model: str = "moma"
        router: Any
        preference: Any = None

        @property
        def _provider(self) -> str:
            return "moma"

        def _classify(self, state: Any, questions: dict[str, Any]) -> Any:
            query = some_query_of(messages_in(state))
            answers = {
                key: _answer(self.router, self.preference, query, key, asked)
                for key, asked in questions.items()
            }
            return decisions.ClassifierResponse(model=self.model, answers=answers)

    return MoMADecisionModel


def _decisions() -> Any:
    """Return langchain-core's module of decision models.

    Raises:
        MissingExtraError: This langchain-core has none.
    """
    try:
        from langchain_core import decisions  # type: ignore[attr-defined,unused-ignore]
    except ImportError as error:
        raise MissingExtraError(
            "MoMADecisionModel needs langchain-core 1.8 or later, which has decision models. "
            'Type: pip install "langchain-core>=1.8" "langchain>=1.5"'
        ) from error
    return decisions


def _answer(
    router: MoMARouter, preference: str | Preference | None, query: Query, key: str, question: Any
) -> Any:
    decisions = _decisions()
    if not isinstance(question, decisions.Choice):
        raise InvalidInputError(
            f"question {key!r} is a {type(question).__name__}; MoMA answers Choice questions. Put "
            "the alternatives into Choice(criteria={...})."
        )
    probabilities = ranked_labels(router, query, question.criteria, preference)
    return decisions.ChoiceAnswer(
        type="choice",
        choice=next(iter(probabilities)),
        probabilities=probabilities,
        confidence=_confidence(probabilities),
    )


def __getattr__(name: str) -> Any:
    if name == "MoMADecisionModel":
        return _decision_model()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
