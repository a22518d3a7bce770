"""How a router offers learning from use: ``learn``, ``feedback``, saving beside it. Off by default.

Knows a router's pool of LLMs only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from moma_core.errors import InvalidInputError
from moma_core.llm_routing.learning.learning import FILES, Learning
from moma_core.llm_routing.router import LLMRouter
from moma_core.types import FloatArray, Preference, RoutingDecision

__all__ = ["TakesFeedback"]

_FOLDER = "learning"


class TakesFeedback:
    """What a router inherits to learn from use; nothing changes until `learn` is called."""

    _llms: LLMRouter | None
    _learning: Learning | None = None

    @property
    def learning(self) -> Learning | None:
        """What learns from use; None while that is off."""
        return self._learning

    def learn(self, learning: Learning | None) -> None:
        """Learn from use from the next route on, or stop with None.

        Raises:
            InvalidInputError: There are no LLMs to learn about.
        """
        if learning is not None and self._llms is None:
            raise InvalidInputError("this router has no LLMs to learn about. Give it llms=....")
        self._learning = learning

    def feedback(self, decision: RoutingDecision, reward: float) -> bool:
        """Learn how good the answer of a decision's LLM was.

        Args:
            decision: From `route`, also rebuilt from its dict after a restart.
            reward: In [0, 1], 1 for the best answer.

        Returns:
            Whether it counts; a second feedback on the same decision does not.

        Raises:
            InvalidInputError: Learning is off, the decision is no LLM's or was made before, or the
                reward is out of bounds.
            ArtifactError: The log cannot be written.
        """
        if self._learning is None:
            raise InvalidInputError(
                "this router does not learn from use. Type router.learn(Learning(log="
                "'feedback.jsonl')) first, from moma_core.llm_routing.learning."
            )
        return self._learning.feedback(decision, reward)

    def _tried(
        self, decision: RoutingDecision, vector: FloatArray, preference: Preference
    ) -> RoutingDecision:
        if self._learning is None or self._llms is None:
            return decision
        return self._learning.instead(decision, vector, preference, self._llms.best_single)

    def _save_learning(self, directory: Path) -> None:
        if self._learning is not None:
            self._learning.save(directory / _FOLDER)

    def _with_learning(self, directory: Path) -> Self:
        if (directory / _FOLDER / FILES[0]).exists():
            self._learning = Learning.load(directory / _FOLDER)
        return self
