"""Asks the LLM of a seat, and the fallbacks when it fails; counts tokens and USD.

Knows neither stages nor graphs: it gets messages and gives a turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.errors import GraphBubbleUp

from langchain_moma.decisions import FALLBACK_EVENT, adispatch, dispatch
from langchain_moma.delegation import marked
from langchain_moma.failures import Failures
from langchain_moma.pool import LLM_KEY
from langchain_moma.portable import portable_messages, portable_options
from langchain_moma.teams.transcript import Turn, message_of
from langchain_moma.telemetry import Telemetry
from moma_core import Health, LLMCard

__all__ = ["Members", "Seat", "UnansweredError", "silent", "with_options"]

_OPTIONS = "moma_options"
"""Key under ``config["configurable"]`` with options for each LLM's call."""


class Seat(NamedTuple):
    """Who is to speak, and where that goes in the transcript."""

    stage: int
    seat: int
    role: str
    llm: str
    kind: str


class UnansweredError(Exception):
    """None of the LLMs that a seat may ask answered.

    Args:
        failures: What each of them raised.
    """

    def __init__(self, failures: Failures) -> None:
        super().__init__("no LLM answered")
        self.failures = failures


@dataclass(frozen=True)
class Members:
    """The LLMs of a team.

    Args:
        llms: Chat models by the names in the plan.
        fallbacks: Names to ask, in order, when a seat's own LLM fails.
        cards: Prices by the LLMs' names.
        health: Circuit breakers; LLMs that have been failing are asked last.
        telemetry: Counts failures.
    """

    llms: Mapping[str, BaseChatModel]
    fallbacks: tuple[str, ...] = ()
    cards: Mapping[str, LLMCard] = field(default_factory=dict)
    health: Health = field(default_factory=Health)
    telemetry: Telemetry = field(default_factory=Telemetry)

    def ask(self, seat: Seat, messages: Sequence[BaseMessage], config: RunnableConfig) -> Turn:
        """Return what the first LLM says that answers.

        Raises:
            UnansweredError: None did.
        """
        failures = Failures(self.telemetry)
        for name in self._order(seat.llm):
            llm, own = self.llms[name], _naming(name, config)
            try:
                with self.health.attempt(name, passing=(GraphBubbleUp,)):
                    answer = llm.invoke(
                        portable_messages(messages, llm), own, **_options_in(config, llm)
                    )
                return self._spoken(seat, name, messages, answer, failures)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # any provider's error
                dispatch({"role": seat.role, **failures.add(name, error)}, config, FALLBACK_EVENT)
        raise UnansweredError(failures)

    async def aask(
        self, seat: Seat, messages: Sequence[BaseMessage], config: RunnableConfig
    ) -> Turn:
        """Await what the first LLM says that answers.

        Raises:
            UnansweredError: None did.
        """
        failures = Failures(self.telemetry)
        for name in self._order(seat.llm):
            llm, own = self.llms[name], _naming(name, config)
            try:
                with self.health.attempt(name, passing=(GraphBubbleUp,)):
                    answer = await llm.ainvoke(
                        portable_messages(messages, llm), own, **_options_in(config, llm)
                    )
                return self._spoken(seat, name, messages, answer, failures)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # any provider's error
                await adispatch(
                    {"role": seat.role, **failures.add(name, error)}, config, FALLBACK_EVENT
                )
        raise UnansweredError(failures)

    def _order(self, own: str) -> Iterator[str]:
        names = dict.fromkeys((own, *self.fallbacks))
        return iter(sorted(names, key=self.health.is_open))  # stable: failing ones last

    def _spoken(
        self,
        seat: Seat,
        name: str,
        asked: Sequence[BaseMessage],
        answer: AIMessage,
        failures: Failures,
    ) -> Turn:
        read, wrote, estimated = _tokens(asked, answer)
        card = self.cards.get(name)
        cost = None if card is None else card.usd(read, wrote)
        return {
            **silent(seat, failures),
            "llm": name,
            "text": str(answer.text),
            "message": message_of(marked(answer, name)),
            "input_tokens": read,
            "output_tokens": wrote,
            "estimated": estimated,
            "cost": cost,
        }


def silent(seat: Seat, failures: Failures) -> Turn:
    """Return the turn of a seat of which nobody could speak."""
    return {
        "stage": seat.stage,
        "seat": seat.seat,
        "role": seat.role,
        "llm": "",
        "kind": seat.kind,
        "text": "",
        "message": {},
        "input_tokens": 0,
        "output_tokens": 0,
        "estimated": False,
        "cost": None,
        "failures": failures.plain,
    }


def with_options(config: RunnableConfig, options: Mapping[str, Any]) -> RunnableConfig:
    """Return the config that hands the options of one call to each LLM of a team."""
    if not options:
        return config
    return merge_configs(config, {"configurable": {_OPTIONS: dict(options)}})


def _options_in(config: RunnableConfig, llm: BaseChatModel) -> dict[str, Any]:
    return portable_options((config.get("configurable") or {}).get(_OPTIONS) or {}, llm)


def _naming(name: str, config: RunnableConfig) -> RunnableConfig:
    return merge_configs(config, {"metadata": {LLM_KEY: name}})


def _tokens(asked: Sequence[BaseMessage], answer: AIMessage) -> tuple[int, int, bool]:
    """Return input and output tokens, and whether they are guessed from characters."""
    usage = answer.usage_metadata
    if usage is not None:
        return usage["input_tokens"], usage["output_tokens"], False
    read = sum(len(str(message.text)) for message in asked) // 4
    return read, len(str(answer.text)) // 4 + 1, True
