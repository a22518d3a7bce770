"""Cards from LangChain tools."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import pytest
from langchain_core.tools import InjectedToolArg, StructuredTool, tool

import langchain_moma
from langchain_moma import agent_cards_from_tools
from moma_core import UnknownNameError
from moma_core.errors import DuplicateNameError, InvalidCardError


@tool
def shout(text: str, user: Annotated[str, InjectedToolArg]) -> str:
    """Put text in capitals."""
    return text.upper()


def whisper(text: str, times: int = 1) -> str:
    """Put text in small letters."""
    return text.lower() * times


def test_cards_say_what_tools_say() -> None:
    loud, soft = agent_cards_from_tools(
        [shout, whisper],
        {"shout": ["louder: hello", "make it LOUD"]},
        categories={"whisper": ["text"]},
    )
    assert (loud.name, loud.description) == ("shout", "Put text in capitals.")
    assert list(loud.input_schema["properties"]) == ["text"]
    assert loud.examples == ("louder: hello", "make it LOUD")
    assert soft.input_schema["properties"]["times"]["type"] == "integer"
    assert soft.categories == ("text",)
    assert soft.examples == ()


def test_examples_and_categories_from_the_tool_itself() -> None:
    own = StructuredTool.from_function(
        whisper, metadata={"examples": ["be quiet: A"], "categories": ["text"]}
    )
    [card] = agent_cards_from_tools([own], {"whisper": ["be quiet: A", "softly: B"]})
    assert card.examples == ("be quiet: A", "softly: B")
    assert card.categories == ("text",)


def test_a_schema_that_is_a_dict() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    remote = StructuredTool(name="remote", description="From afar", args_schema=schema, func=len)
    [card] = agent_cards_from_tools([remote])
    assert card.input_schema["required"] == ["a"]


def test_what_cannot_be_a_card_says_why() -> None:
    def silent(text: str) -> str:
        return text

    with pytest.raises(InvalidCardError, match="docstring"):
        agent_cards_from_tools([silent])
    with pytest.raises(DuplicateNameError, match="shout"):
        agent_cards_from_tools([shout, shout])
    with pytest.raises(UnknownNameError, match="shuot"):
        agent_cards_from_tools([shout], {"shuot": ["hi"]})
    with pytest.raises(InvalidCardError, match="list of texts"):
        agent_cards_from_tools([shout], {"shout": "hi"})


def test_exported_names() -> None:
    assert langchain_moma.__all__ == sorted(langchain_moma.__all__)
    assert all(hasattr(langchain_moma, name) for name in langchain_moma.__all__)


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['langgraph'] = None; import langchain_moma"
    done = subprocess.run(  # noqa: S603  # our own words
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "MissingExtraError" in done.stderr
    assert 'pip install "moma-router[langchain]"' in done.stderr
