"""Structured output by the chosen LLM's own method, native where it has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableSerializable
from pydantic import ConfigDict, Field, SkipValidation

from langchain_moma.call_forms import CallForms, Handed
from langchain_moma.conversation import messages_in
from langchain_moma.delegation import Delegation, How
from langchain_moma.needs import Needs

__all__ = ["StructuredMoMA"]

Delegate = Callable[[list[BaseMessage], Needs, How, RunnableConfig], Delegation]


class StructuredMoMA(CallForms, RunnableSerializable[LanguageModelInput, Any]):
    """Gives what ``with_structured_output`` of the chosen LLM gives.

    Args:
        delegate: Chooses.
        how: Turns a chat model into a Runnable that gives the wanted form.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    delegate: SkipValidation[Delegate] = Field(exclude=True)
    how: SkipValidation[How] = Field(exclude=True)

    def _hand_on(
        self, value: LanguageModelInput, config: RunnableConfig, options: Mapping[str, Any]
    ) -> Handed:
        messages: list[BaseMessage] = [*messages_in(value)]
        needs = Needs.of(messages, options, structured=True)

        def how(llm: BaseChatModel) -> Runnable[Any, Any]:
            bound = self.how(llm)
            return bound.bind(**options) if options else bound

        return Handed(self.delegate(messages, needs, how, config), messages)
