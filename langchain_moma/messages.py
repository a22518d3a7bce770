"""Messages: the query to route in what LangChain passes around, and how long it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    ChatMessage,
    convert_to_messages,
)
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.prompt_values import PromptValue

from moma_core import Query
from moma_core.errors import InvalidQueryError
from moma_core.types import is_text, is_visible

__all__ = [
    "LLM_KEY",
    "TEXT_KEYS",
    "RouterInput",
    "count_tokens",
    "count_tokens_in",
    "goes_on",
    "is_wordless",
    "last_turn",
    "marked",
    "messages_in",
    "query_of",
    "some_query_of",
]

_T = TypeVar("_T")
RouterInput = str | PromptValue | Sequence[Any] | Mapping[str, Any]

LLM_KEY = "moma_llm"
"""Key in an answer's ``response_metadata`` with the name of the LLM that gave it."""

TEXT_KEYS = ("input", "query")
"""Keys of a dict under which text to route by is looked for, after ``"messages"``."""

_HUMAN_ROLES = ("human", "user")
_WORDLESS = "What is this?"


def query_of(value: RouterInput) -> Query:
    """Return the last human text, with the earlier human turns as its history.

    Args:
        value: Text, a prompt value, messages in any form LangChain takes, or a dict that has
            ``"messages"``, ``"input"`` or ``"query"``.

    Raises:
        InvalidQueryError: There is no human text in it.

    Example:
        >>> query = query_of([("human", "hi"), ("ai", "hello"), ("human", "will it rain?")])
        >>> query.text, query.history
        ('will it rain?', ('hi',))
        >>> query_of({"input": "will it rain?"}).text
        'will it rain?'
    """
    if isinstance(value, str):
        return Query(value)
    messages = messages_in(value)
    said = [message for message in messages if _is_users(message)]
    texts = [str(message.text) for message in said or filter(_is_summary, messages)]
    if not texts:
        raise InvalidQueryError(
            "there is no human message to route by, got only "
            f"{sorted({message.type for message in messages})!r}. Add the user's turn, "
            "for example ('human', 'will it rain tomorrow?')."
        )
    return Query(texts[-1], history=tuple(text for text in texts[:-1] if is_text(text)))


def some_query_of(messages: Sequence[BaseMessage]) -> Query:
    """Return what to route by even where nobody said a word, as beside a lone image.

    Example:
        >>> from langchain_core.messages import SystemMessage
        >>> some_query_of([SystemMessage("Write a poem about rain.")]).text
        'Write a poem about rain.'
    """
    try:
        return query_of(messages)
    except InvalidQueryError:
        texts = (str(message.text) for message in reversed(messages))
        return Query(next((text for text in texts if is_text(text)), _WORDLESS))


def is_wordless(value: RouterInput) -> bool:
    """Say whether the user's last message has no words in it, as a lone image has none.

    Example:
        >>> image = {"type": "image", "url": "https://example.org/cat.png"}
        >>> is_wordless([("human", [image])]), is_wordless([("human", "hi")]), is_wordless("")
        (True, False, False)
    """
    said = [] if isinstance(value, str) else list(filter(_is_users, messages_in(value)))
    return bool(said) and not any(map(is_visible, str(said[-1].text)))


def last_turn(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """Return the messages from the last human one on; all of them when there is none.

    Example:
        >>> turn = last_turn(messages_in([("human", "hi"), ("ai", "yes?"), ("human", "rain?")]))
        >>> [message.text for message in turn]
        ['rain?']
    """
    for i in range(len(messages) - 1, -1, -1):
        if _is_users(messages[i]):
            return messages[i:]
    return messages


def goes_on(messages: Sequence[BaseMessage]) -> bool:
    """Say whether a summary stands where the user's words were, amid their turn.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> said = HumanMessage("They talked.", additional_kwargs={"lc_source": "summarization"})
        >>> goes_on([said]), goes_on([said, HumanMessage("hi")])
        (True, False)
    """
    return any(map(_is_summary, messages)) and not any(map(_is_users, messages))


def messages_in(value: RouterInput) -> list[AnyMessage]:
    """Return the messages of any input that `query_of` takes; text becomes one human message.

    Raises:
        InvalidQueryError: The input has another form.

    Example:
        >>> [message.type for message in messages_in({"query": "will it rain?"})]
        ['human']
    """
    if isinstance(value, PromptValue):
        return _converted(value.to_messages())
    if isinstance(value, str):
        return _converted([("human", value)])
    if isinstance(value, Mapping):
        return _messages_in_dict(value)
    if isinstance(value, BaseMessage):
        return _converted([value])
    if isinstance(value, Sequence):
        return _converted(value)
    raise InvalidQueryError(
        f"expected text, messages, or a dict with 'messages' or 'input', got "
        f"{type(value).__name__}. Pass for example {{'input': 'will it rain tomorrow?'}}."
    )


def _messages_in_dict(value: Mapping[str, Any]) -> list[AnyMessage]:
    if value.get("messages"):
        return messages_in(value["messages"])
    for key in TEXT_KEYS:
        if value.get(key):
            return messages_in(value[key])
    if empty := [key for key in ("messages", *TEXT_KEYS) if key in value]:
        raise InvalidQueryError(
            f"there is nothing to route by: {' and '.join(map(repr, empty))} in the input holds "
            "nothing. Add the user's turn, for example ('human', 'will it rain tomorrow?')."
        )
    raise InvalidQueryError(
        f"expected a dict with 'messages', 'input' or 'query' in it, got the keys "
        f"{sorted(map(str, value))!r}. Pass for example {{'input': 'will it rain tomorrow?'}}."
    )


def _converted(messages: Sequence[Any]) -> list[AnyMessage]:
    try:
        return convert_to_messages(messages)  # type: ignore[return-value]
    except (NotImplementedError, ValueError, TypeError) as error:
        raise InvalidQueryError(
            f"these are not messages: {error}. Pass messages, ('human', text) pairs or "
            "{'role': 'user', 'content': text} dicts."
        ) from error


def _is_users(message: BaseMessage) -> bool:
    return _is_human(message) and not _is_summary(message)


def _is_summary(message: BaseMessage) -> bool:
    """Say whether LangChain's SummarizationMiddleware wrote it, in the user's place."""
    return _is_human(message) and message.additional_kwargs.get("lc_source") == "summarization"


def _is_human(message: BaseMessage) -> bool:
    if isinstance(message, ChatMessage):
        return message.role in _HUMAN_ROLES
    return message.type == "human"


def marked(answer: _T, facts: Mapping[str, Any]) -> _T:
    """Return an AI message with ``facts`` in its metadata; anything else as it is.

    Example:
        >>> marked(AIMessage("hi"), {"moma_llm": "small"}).response_metadata
        {'moma_llm': 'small'}
    """
    if not isinstance(answer, AIMessage):
        return answer
    metadata = {**answer.response_metadata, **facts}
    return answer.model_copy(update={"response_metadata": metadata})


def count_tokens(messages: Sequence[BaseMessage]) -> int:
    """Return about how many tokens messages take, whatever their script.

    LangChain counts four characters a token, which holds for Latin letters alone: a Chinese
    character is a token or more, two letters of most other scripts are one.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> count_tokens([HumanMessage("rain" * 50)]), count_tokens([HumanMessage("\u96e8" * 200)])
        (54, 204)
    """
    more = sum(_foreign(str(message.text)) for message in messages)
    return count_tokens_approximately(messages) + round(more)


def count_tokens_in(text: str) -> int:
    """Return about how many tokens a text takes, whatever its script.

    Example:
        >>> count_tokens_in("rain" * 50), count_tokens_in("\u96e8" * 200), count_tokens_in("")
        (50, 200, 0)
    """
    return round(len(text) / 4 + _foreign(text) + 0.49)


def _foreign(text: str) -> float:
    """Return the tokens that a text takes beyond one for four characters."""
    if text.isascii():
        return 0.0
    foreign = [c for c in text if c >= _GREEK]
    wide = sum(c >= _WIDE for c in foreign)
    return 0.75 * wide + 0.25 * (len(foreign) - wide)


_GREEK, _WIDE = "\u0370", "\u2e80"  # the first letters that are half a token, and a whole one
