"""One query's way through a cascade: who was asked, what they said, whom to ask next.

Plans anew when an LLM fails, keeping the answers it has. Asks nobody itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langgraph.errors import GraphBubbleUp

from langchain_moma.conversation import some_query_of
from langchain_moma.pool import LLM_KEY
from moma_core import Accept, Ask, CascadePlan, CascadeRouter, Encoder, Health, Preference

__all__ = ["CASCADE_KEY", "Asking", "CascadeSetting", "Walk"]

CASCADE_KEY = "moma_cascade"
"""Key in an answer's ``response_metadata``: whom the cascade asked, and USD by LLM."""


@dataclass(frozen=True, slots=True)
class CascadeSetting:
    """What every query of a chat model shares.

    Args:
        router: Plans.
        llms: Chat models by name.
        read: From a reply to its final answer; None: it cannot be read.
        encoder: Encodes the query.
        max_latency: As for `CascadeRouter.plan`.
        health: Which LLMs have been failing.
    """

    router: CascadeRouter
    llms: Mapping[str, BaseChatModel]
    read: Callable[[str], str | None]
    encoder: Encoder
    max_latency: float | None
    health: Health


@dataclass(frozen=True, slots=True)
class Asking:
    """Ask this LLM now.

    Args:
        name: Of the LLM.
        llm: Its chat model.
        final: Whether its answer is accepted whatever it says.
    """

    name: str
    llm: BaseChatModel
    final: bool


@dataclass(slots=True)
class Walk:
    """What was asked and said so far for one query.

    Args:
        setting: Shared by all queries.
        messages: The conversation; its last human words are what is planned for.
        preference: As for `CascadeRouter.plan`.
        exclude: LLMs that may not be asked.
    """

    setting: CascadeSetting
    messages: Sequence[BaseMessage]
    preference: str | Preference | None = None
    exclude: frozenset[str] = frozenset()
    plan: CascadePlan | None = None
    said: dict[str, AIMessage] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    errors: list[tuple[str, Exception]] = field(default_factory=list)

    def next(self) -> Asking | AIMessage:
        """Return whom to ask, or the accepted answer with the usage of all calls.

        Raises:
            NoTargetError: No LLM may be asked, and none failed; else the first one's error.
        """
        if self.plan is None:
            self.plan = self._planned()
        read = self.setting.read
        answers = {name: read(str(said.text)) or None for name, said in self.said.items()}
        step = self.plan.next(answers, costs=self._trusted())
        if isinstance(step, Accept):
            told = self.said[step.llm]
            return told.model_copy(update=self._accounted(step.llm, told, self.said))
        return Asking(step.llm, self.setting.llms[step.llm], _is_final(step))

    def hear(self, asked: Asking, said: BaseMessage) -> None:
        """Take an answer."""
        told = said if isinstance(said, AIMessage) else AIMessage(said.content)
        self.said[asked.name] = told
        cost = self._cost(asked.name, told.usage_metadata)
        if cost is not None:
            self.costs[asked.name] = cost

    @contextmanager
    def attempt(self, asked: Asking) -> Iterator[None]:
        """Take an error of the body as the LLM's failure: the next plan is made without it."""
        try:
            with self.setting.health.attempt(asked.name, passing=(GraphBubbleUp,)):
                yield
        except GraphBubbleUp:
            raise
        except Exception as error:  # noqa: BLE001  # any provider's error
            self.errors.append((asked.name, error))
            self.plan = None

    def begun(self, asked: Asking, chunk: AIMessage) -> dict[str, Any]:
        """Return what the first chunk of the accepted answer says of the calls before it."""
        return self._accounted(asked.name, chunk, {**self.said, asked.name: chunk})

    def _accounted(
        self, name: str, told: AIMessage, said: Mapping[str, AIMessage]
    ) -> dict[str, Any]:
        usage: UsageMetadata | None = None
        for each in said.values():
            if each.usage_metadata is not None:
                usage = add_usage(usage, each.usage_metadata)
        facts = {"asked": list(said), "usd": dict(self.costs)}
        about = {**told.response_metadata, LLM_KEY: name, CASCADE_KEY: facts}
        return {"usage_metadata": usage, "response_metadata": about}

    def _planned(self) -> CascadePlan:
        known, setting = self.setting.router.base.names, self.setting
        failed = {name for name, _ in self.errors}
        out = {name for name in known if name not in setting.llms} | self.exclude | failed
        ailing = {name for name in known if setting.health.is_open(name)} - out
        if len(out | ailing) < len(known):
            out |= ailing
        if self.errors and len(out) >= len(known):
            raise self._nobody()
        text = some_query_of(self.messages).text
        vector = setting.encoder.encode([text])[0]
        return setting.router.plan(text, vector, self.preference, out, setting.max_latency)

    def _nobody(self) -> Exception:
        (first, error), *others = self.errors
        error.add_note(f"This is the error of LLM {first!r}; nobody else could answer either.")
        for name, other in others:
            error.add_note(f"  {name!r} failed with {other!r}")
        return error

    def _cost(self, name: str, usage: UsageMetadata | None) -> float | None:
        if usage is None:
            return None
        card = self.setting.router.base.card(name)
        read, wrote = usage["input_tokens"], usage["output_tokens"]
        return (card.input_price * read + card.output_price * wrote) / 1e6

    def _trusted(self) -> dict[str, float]:
        """Leave out costs at indicative prices: plans weigh USD as measured in training."""
        card = self.setting.router.base.card
        return {n: c for n, c in self.costs.items() if card(n).metadata.get("price") is None}


def _is_final(step: Ask) -> bool:
    branches = (step.new, step.unreadable, *(after for _, after in step.same))
    return all(branch == Accept(step.llm) for branch in branches)
