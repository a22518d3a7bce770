"""LangChain's own suites over ChatMoMA, with scripted chat models as the LLMs, and RouteTool."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ChatModelIntegrationTests, ToolsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, ToolsUnitTests

from langchain_moma import ChatMoMA, RouteTool
from langchain_moma.testing import ScriptedChat
from moma_core import MoMARouter

ROUTER = MoMARouter.from_cards()
NAMES = ("gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06")


class Suite:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMoMA

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"router": ROUTER, "llms": {name: ScriptedChat(name=name) for name in NAMES}}


class TestChatMoMAUnit(Suite, ChatModelUnitTests):
    pass


class TestChatMoMAIntegration(Suite, ChatModelIntegrationTests):
    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return NAMES[1]


class ToolSuite:
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return RouteTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"router": ROUTER}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"query": "why is the sky blue?"}


class TestRouteToolUnit(ToolSuite, ToolsUnitTests):
    pass


class TestRouteToolIntegration(ToolSuite, ToolsIntegrationTests):
    pass
