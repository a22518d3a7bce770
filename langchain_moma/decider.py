"""The final decision by any chat model: a shortlist in, a valid name out (sect. 4.2, eq. 26).

The schema is the same for every query (ids ``a1``, ``a2``, ... are places on the shortlist), so a
provider compiles it once, however often agents come and go. What comes back is checked against the
shortlist; a wrong answer is repaired once, then the ranker decides. An agent that is not on the
list cannot be named, whatever the chat model writes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable

from langchain_moma.final_answers import Asked, FinalChoice, final_schema
from moma_core import AgentCard, InvalidInputError, Query

__all__ = ["ChatDecider", "FinalChoice"]

_MOST_AGENTS = 250  # strict enumerations beyond it are bounded in characters, too


@dataclass(frozen=True)
class ChatDecider:
    """Lets a chat model choose among a ranker's shortlist.

    Args:
        llm: Any LangChain chat model.
        shortlist: Most agents it is shown, best of the ranker first; 1 to 250.
        method: ``"schema"`` asks through ``with_structured_output`` and, where the chat model has
            none, in words; ``"choice"`` is vLLM's ``structured_outputs``; ``"words"`` asks for
            JSON in the prompt.
        timeout: Seconds for one call; None leaves it to the chat model.
        trust: Probability that `decide` gives what the LLM chose; the rest is the ranker's.
        options: For ``with_structured_output``, e.g. ``{"method": "json_schema"}``.
        alive: Whether an agent may still be chosen once the answer is there; by default all may.

    Raises:
        InvalidInputError: A value is out of bounds.

    Example:
        >>> from langchain_moma.testing import ScriptedChat
        >>> from langchain_core.messages import AIMessage
        >>> llm = ScriptedChat(reply=lambda messages, tools, choice: AIMessage("a2"))
        >>> cards = [AgentCard("weather", "Forecasts"), AgentCard("radar", "Rain right now")]
        >>> ChatDecider(llm).choose("is it raining?", cards, [-0.5, -0.9]).names
        ('radar',)
    """

    llm: BaseChatModel
    shortlist: int = 16
    method: Literal["schema", "choice", "words"] = "schema"
    timeout: float | None = None
    trust: float = 0.8
    options: Mapping[str, Any] = field(default_factory=dict)
    alive: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.llm, Runnable):
            raise InvalidInputError(
                f"llm must be a chat model, got {type(self.llm).__name__}. Give the chat model "
                "itself: ChatDecider(ChatOpenAI(...))."
            )
        if self.timeout is not None and not self.timeout > 0:
            raise InvalidInputError(f"timeout is more than 0 seconds, got {self.timeout!r}.")
        if not 1 <= self.shortlist <= _MOST_AGENTS:
            raise InvalidInputError(
                f"shortlist must lie in [1, {_MOST_AGENTS}], got {self.shortlist!r}: providers "
                "bound strict enumerations. 16 agents are right nearly as often as all."
            )
        if not 0.0 <= self.trust <= 1.0:
            raise InvalidInputError(f"trust is a probability in [0, 1], got {self.trust!r}.")
        if self.method not in ("schema", "choice", "words"):
            raise InvalidInputError(
                f"method is 'schema', 'choice' or 'words', got {self.method!r}."
            )

    def choose(
        self,
        query: str | Query,
        cards: Sequence[AgentCard],
        log_prior: npt.ArrayLike,
        *,
        count: int = 1,
    ) -> FinalChoice:
        """Return the chosen names; the ranker's where the chat model gives none that is valid.

        Args:
            query: The user's words, or a query with its history.
            cards: k eligible agents, at least one.
            log_prior: The ranker's log probabilities, up to a constant, shape (k,).
            count: Most names to return, in order.

        Raises:
            InvalidInputError: There is no agent, not one log probability for each, or ``count`` is
                less than 1.
        """
        step = self._first(query, cards, log_prior, count)
        while isinstance(step, Asked):
            step = step.judged(self._answer(step))
        return step

    async def achoose(
        self,
        query: str | Query,
        cards: Sequence[AgentCard],
        log_prior: npt.ArrayLike,
        *,
        count: int = 1,
    ) -> FinalChoice:
        """Do as `choose`, through the chat model's own asynchronous calls."""
        step = self._first(query, cards, log_prior, count)
        while isinstance(step, Asked):
            try:
                call = self._runnable(step).ainvoke(list(step.messages))
                answer = await asyncio.wait_for(call, self.timeout)
            except Exception as error:  # noqa: BLE001  # any provider's error
                answer = error
            step = step.judged(answer)
        return step

    def decide(
        self, query: str | Query, cards: Sequence[AgentCard], log_prior: npt.ArrayLike
    ) -> npt.NDArray[np.float64]:
        """Return the probability of each agent, summing to one, shape (k,).

        A chat model names agents without saying how sure it is: the first one named gets ``trust``,
        the others share the rest as the ranker has it. Where the ranker decided, its own shares.

        Raises:
            InvalidInputError: As in `choose`.
        """
        choice = self.choose(query, cards, log_prior)
        prior = np.asarray(log_prior, dtype=np.float64)
        shares: npt.NDArray[np.float64] = np.exp(prior - np.logaddexp.reduce(prior))
        if choice.by == "ranker":
            return shares
        chosen = np.array([card.name == choice.names[0] for card in cards], dtype=np.float64)
        mixed: npt.NDArray[np.float64] = self.trust * chosen + (1.0 - self.trust) * shares
        return mixed

    def _first(
        self, query: str | Query, cards: Sequence[AgentCard], log_prior: npt.ArrayLike, count: int
    ) -> Asked | FinalChoice:
        asked = Asked.about(
            query,
            cards,
            log_prior,
            shortlist=self.shortlist,
            count=count,
            as_json=self.method != "choice",
        )
        if len(asked.cards) == 1:
            return asked.by_ranker("there is one agent only")
        return replace(asked, alive=self.alive)

    def _answer(self, asked: Asked) -> Any:
        try:
            return _within(self.timeout, lambda: self._runnable(asked).invoke(list(asked.messages)))
        except Exception as error:  # noqa: BLE001  # any provider's error
            return error

    def _runnable(self, asked: Asked) -> Runnable[Any, Any]:
        """Return what to invoke; made for each call, as binding a chat model costs nothing."""
        if self.method == "choice":
            return self.llm.bind(extra_body={"structured_outputs": {"choice": asked.ids}})
        if self.method == "words":
            return self.llm
        try:
            return self.llm.with_structured_output(
                final_schema(self.shortlist), include_raw=True, **self.options
            )
        except NotImplementedError:
            return self.llm


def _within(seconds: float | None, call: Callable[[], Any]) -> Any:
    """Return what a call gives, or stop waiting for it; its thread ends when the call does."""
    if seconds is None:
        return call()
    result: list[Any] = []
    failure: list[Exception] = []

    def work() -> None:
        try:
            result.append(call())
        except Exception as error:  # noqa: BLE001  # handed over to the waiting thread
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True, name="moma-final-decision")
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not result:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return result[0]
