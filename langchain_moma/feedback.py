"""Scores as LangSmith keeps them become a router's feedback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_moma.decisions import decision_in
from moma_core import InvalidInputError, MoMARouter, RoutingDecision

__all__ = ["feedback_from_scores", "reward_of_scores"]


def feedback_from_scores(
    router: MoMARouter,
    decision: RoutingDecision | Mapping[str, Any],
    scores: Iterable[Any],
    *,
    key: str | None = None,
    low: float = 0.0,
    high: float = 1.0,
    answered_by: str | None = None,
) -> bool:
    """Teach a router how good the answer was, by the feedback of a run.

    Args:
        router: Whose decision it was; learning must be on: ``router.learn(Learning(...))``.
        decision: The decision, its dict, or what a routing node left in the graph's state.
        scores: Feedback as in LangSmith: ``{"key": "correctness", "score": 0.8}``, or objects with
            these attributes, as its client's ``list_feedback`` yields.
        key: Only scores of this key count; None: all do.
        low: Score of the worst answer.
        high: Score of the best one.
        answered_by: The LLM that really answered, ``message.response_metadata["moma_llm"]`` of
            `ChatMoMA`; where the chosen one failed and another stood in, nothing is learnt.

    Returns:
        Whether it was learnt: False without a score, without a decision for an LLM, where another
        LLM stood in, and for a decision that had feedback before.

    Raises:
        InvalidInputError: A score is out of bounds, the decision was made before learning was on,
            or learning is off.

    Example:
        >>> from moma_core import RoutingDecision
        >>> agent = RoutingDecision("agent", ("weather",), 0.97)
        >>> router = MoMARouter.from_cards()
        >>> feedback_from_scores(router, agent, [{"key": "helpful", "score": True}])
        False
    """
    made = _decision(decision)
    reward = reward_of_scores(scores, key=key, low=low, high=high)
    if made is None or made.kind != "llm" or reward is None:
        return False
    if answered_by not in (None, made.target):
        return False
    return router.feedback(made, reward)


def reward_of_scores(
    scores: Iterable[Any], *, key: str | None = None, low: float = 0.0, high: float = 1.0
) -> float | None:
    """Return the mean of scores, brought to [0, 1]; None where there is none.

    Args:
        scores: Dicts or objects with ``key`` and ``score``; a score of None is left out.
        key: Only scores of this key count; None: all do.
        low: Score of the worst answer.
        high: Score of the best one.

    Raises:
        InvalidInputError: A score is no number between ``low`` and ``high``.

    Example:
        >>> reward_of_scores([{"key": "stars", "score": 4}], low=1, high=5)
        0.75
    """
    if not low < high:
        raise InvalidInputError(f"low must be below high, got {low!r} and {high!r}.")
    rewards = []
    for each in scores:
        named, score = _field(each, "key"), _field(each, "score")
        if score is None or (key is not None and named != key):
            continue
        if not isinstance(score, int | float) or not low <= score <= high:
            raise InvalidInputError(
                f"the score of {named!r} is {score!r:.40}, expected {low:g} to {high:g}. Say what "
                "the worst and the best one are: low=1, high=5."
            )
        rewards.append((float(score) - low) / (high - low))
    return sum(rewards) / len(rewards) if rewards else None


def _field(feedback: Any, name: str) -> Any:
    if isinstance(feedback, Mapping):
        return feedback.get(name)
    return getattr(feedback, name, None)


def _decision(given: RoutingDecision | Mapping[str, Any]) -> RoutingDecision | None:
    if isinstance(given, RoutingDecision):
        return given
    return RoutingDecision.from_dict(given) if "targets" in given else decision_in(given)
