"""The question in a prompt: the words to route by, whatever text was retrieved around them.

In order: the variable of the template that LlamaIndex is filling, the question in one of
LlamaIndex's own templates that was filled before, the last that the user wrote, the last at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from llama_index.core.agent.react.types import ObservationReasoningStep
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import (
    BasePromptTemplate,
    ChatPromptTemplate,
    PromptTemplate,
    RichPromptTemplate,
    chat_prompts,
    default_prompts,
)

from moma_core.types import is_text

__all__ = [
    "asking",
    "question_in",
    "question_in_messages",
]

# The names that LlamaIndex's templates give to what the user asked.
_VARIABLES = ("query_str", "question", "query")

_asked: ContextVar[str | None] = ContextVar("moma_question", default=None)


@contextmanager
def asking(template: BasePromptTemplate, variables: Mapping[str, Any]) -> Iterator[None]:
    """Take the question from a template's variables for the LLM calls within.

    Example:
        >>> template = PromptTemplate("{context_str} {query_str}")
        >>> with asking(template, {"query_str": "will it rain?"}):
        ...     question_in("long text, will it rain?")
        'will it rain?'
    """
    values = {**template.kwargs, **variables}
    found = (values.get(name) for name in _VARIABLES)
    token = _asked.set(next((text for text in found if is_text(text)), _asked.get()))
    try:
        yield
    finally:
        _asked.reset(token)


def question_in(prompt: str) -> str:
    r"""Return the question in a completion prompt; all of it where it is no known template.

    Example:
        >>> question_in("Context information is below.\n"
        ...     "---------------------\nIt rains in Oslo.\n---------------------\n"
        ...     "Given the context information and not prior knowledge, answer the query.\n"
        ...     "Query: will it rain?\nAnswer: ")
        'will it rain?'
        >>> question_in("will it rain?")
        'will it rain?'
    """
    return _asked.get() or _unwrapped(prompt)


def question_in_messages(
    messages: Sequence[ChatMessage] | None, user_msg: str | ChatMessage | None = None
) -> str:
    """Return the question in chat messages; what a ReAct agent observed is none.

    Example:
        >>> question_in_messages([ChatMessage("hello"), ChatMessage("hi", role="assistant")])
        'hello'
    """
    if (asked := _asked.get()) is not None:
        return asked
    if user_msg is not None:
        return _unwrapped(user_msg if isinstance(user_msg, str) else user_msg.content or "")
    texts = [(message.role, message.content or "") for message in messages or ()]
    observed = ObservationReasoningStep(observation="").get_content()
    for role, text in reversed(texts):
        if role == MessageRole.USER and is_text(text) and not text.startswith(observed):
            return _unwrapped(text)
    return next((text for _, text in reversed(texts) if is_text(text)), "")


_LOOKED_AT = 8_000  # characters at either end: a template's own words are there


def _unwrapped(text: str) -> str:
    ends = text if len(text) <= 2 * _LOOKED_AT else text[:_LOOKED_AT] + text[-_LOOKED_AT:]
    for pattern in _patterns():
        match = pattern.fullmatch(ends)
        if match and is_text(match["question"]):
            return match["question"]
    return text


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """Return what recognises LlamaIndex's own templates that hold more than a question."""
    templates = [
        value
        for module in (default_prompts, chat_prompts)
        for value in vars(module).values()
        if isinstance(value, BasePromptTemplate)
    ]
    texts = dict.fromkeys(text for template in templates for text in _texts(template))
    return tuple(pattern for text in texts if (pattern := _pattern(text)) is not None)


def _texts(template: BasePromptTemplate) -> list[str]:
    match template:
        case PromptTemplate(template=text):
            return [text]
        case ChatPromptTemplate(message_templates=messages):
            return [message.content or "" for message in messages]
        case RichPromptTemplate(template_str=text):
            return re.findall(r'{% chat role="user" %}(.*?){% endchat %}', text, re.DOTALL)
    return []


_PLACE = re.compile(r"{%\s*for\b.*{%\s*endfor\s*%}|{{\s*(\w+)\s*}}|{(\w+)}", re.DOTALL)


def _pattern(template: str) -> re.Pattern[str] | None:
    """Return a template as a pattern with the group ``question``; None where it has no other part.

    Its first and last words count, and those around the question. What lies between matches
    greedily, so that such words in retrieved text mislead nobody.
    """
    places = list(_PLACE.finditer(template))
    found = [i for i, place in enumerate(places) if {place[1], place[2]}.intersection(_VARIABLES)]
    starts, ends = [0, *(p.end() for p in places)], [*(p.start() for p in places), len(template)]
    words = [
        r"\s+".join(map(re.escape, template[a:b].split()))
        for a, b in zip(starts, ends, strict=True)
    ]
    if len(found) != 1 or len(places) == 1 or not words[0]:
        return None
    [question] = found
    head = [words[0], words[question]] if question else [words[0]]
    tail = [words[question + 1], words[-1]] if question + 1 < len(places) else [words[-1]]
    asked = r"\s*(?P<question>.*?)\s*"
    pattern = r"\s*" + ".*".join(head) + asked + ".*".join(tail) + r"\s*"
    return re.compile(pattern, re.DOTALL)
