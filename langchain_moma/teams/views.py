"""What a member is given to read: its role, the conversation, its own last words, the others'.

The others' words come in one human message, since many providers refuse two of one kind in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from langchain_moma.teams.stages import Stage
from langchain_moma.teams.transcript import Turn, called
from moma_core import TeamMember

__all__ = ["messages_for"]


def messages_for(
    conversation: Sequence[BaseMessage],
    member: TeamMember,
    seat: int,
    stage: Stage,
    transcript: Sequence[Turn],
) -> list[BaseMessage]:
    r"""Return what the member on ``seat`` is given in ``stage``.

    Args:
        conversation: The user's, as it came.
        member: Whose role prompt goes to the system message, after the conversation's own.
        seat: Its place in the plan.
        stage: What it is asked to do.
        transcript: What the stages before said.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> member = TeamMember("solver", "small", "You solve equations.")
        >>> asked = [HumanMessage("x + 1 = 3")]
        >>> given = messages_for(asked, member, 0, Stage((0,), "Be brief."), [])
        >>> [(message.type, message.text) for message in given]
        [('system', 'You solve equations.'), ('human', 'x + 1 = 3\n\nBe brief.')]
    """
    spoken = called(transcript)
    own = next((turn for turn in reversed(spoken) if turn["seat"] == seat and turn["text"]), None)
    before = max((turn["stage"] for turn in spoken), default=-1)
    others = [turn for turn in spoken if turn["stage"] == before and turn is not own]
    note = "\n\n".join([*map(_quoted, sorted(others, key=lambda turn: turn["seat"])), stage.note])
    asked = _with_role(conversation, member.prompt)
    if own is not None:
        return [*asked, AIMessage(own["text"]), HumanMessage(note)]
    return _with_note(asked, note.strip())


def _quoted(turn: Turn) -> str:
    return f"[{turn['role']}]\n{turn['text']}"


def _with_role(conversation: Sequence[BaseMessage], prompt: str) -> list[BaseMessage]:
    """Join the role's prompt to the conversation's own system message, if it has one."""
    if not prompt:
        return list(conversation)
    if conversation and conversation[0].type == "system":
        joined = f"{conversation[0].text}\n\n{prompt}"
        return [SystemMessage(joined), *conversation[1:]]
    return [SystemMessage(prompt), *conversation]


def _with_note(messages: list[BaseMessage], note: str) -> list[BaseMessage]:
    """Append the note to the last human message, or as one after anybody else's."""
    if not note:
        return messages
    last = messages[-1] if messages else None
    if not isinstance(last, HumanMessage):
        return [*messages, HumanMessage(note)]
    content: Any = last.content
    if isinstance(content, str):
        content = f"{content}\n\n{note}"
    else:
        content = [*content, {"type": "text", "text": note}]
    return [*messages[:-1], last.model_copy(update={"content": content})]
