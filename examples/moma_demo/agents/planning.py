"""Agents for the day: a sample calendar, a to-do list, notes. What they keep lives in memory."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from langchain_core.tools import BaseTool, tool

from moma_demo.agents.agent import DemoAgent, UnclearError
from moma_demo.agents.extract import after, labelled, payload, today, whole

__all__ = ["planning_agents"]

Day = Literal["monday", "tuesday", "wednesday", "thursday", "friday"]

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday")
_OPENING, _CLOSING = "09:00", "17:00"
_ADD = r"\b(?:add|put|remind me to|remember to|new task|i (?:need|have) to)\b"
_DONE = r"\b(?:tick off|check off|cross off|mark|finished|done with|complete)\b"
_LIST = (
    r"(?:\s+(?:to|on|off|from|in)\s+(?:my|the)\s+(?:to-?do\s+|task\s+)?list"
    r"|\s+as (?:done|finished))"
)
_SAVE = r"\b(?:note that|(?:note down|write down|save a note|jot down)(?: that)?)\b"
_FIND = (
    r"\b(?:notes? (?:about|on|for|mention(?:ing)?)|did i (?:note|write)(?: down)? (?:about|on)?)"
)


@cache
def _calendar() -> dict[str, list[tuple[str, str, str]]]:
    path = files("moma_demo") / "data" / "calendar.json"
    return {
        day: [(start, end, title) for start, end, title in entries]
        for day, entries in json.loads(path.read_text(encoding="utf-8")).items()
    }


@tool
def free_slot_finder(day: Day, minutes: Annotated[int, "Length of the meeting"] = 30) -> str:
    """Find free time in the calendar for a meeting of some minutes on a weekday."""
    start, slots = _OPENING, []
    for busy_from, busy_to, _ in [*_calendar()[day], (_CLOSING, _CLOSING, "")]:
        if _minutes(busy_from) - _minutes(start) >= minutes:
            slots.append(f"{start}-{busy_from}")
        start = max(start, busy_to)
    found = ", ".join(slots) or "nothing"
    return f"free on {day.capitalize()} for {minutes} minutes: {found}"


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def _slot(text: str) -> dict[str, Any]:
    minutes = labelled(text, "min")
    hours = labelled(text, "hours?|h\\b")
    if re.search(r"\bhalf an hour\b", text):
        minutes = 30
    elif re.search(r"\b(?:an|one) hour\b|\bhour-long\b", text):
        hours = 1
    length = minutes if minutes is not None else hours * 60 if hours is not None else 30
    return {"day": _day(text), "minutes": whole(length)}


@tool
def agenda_reader(day: Day) -> str:
    """List the appointments in the calendar on a weekday."""
    entries = "; ".join(f"{start}-{end} {title}" for start, end, title in _calendar()[day])
    return f"{day.capitalize()}: {entries or 'nothing'}"


def _agenda(text: str) -> dict[str, Any]:
    return {"day": _day(text)}


def _day(text: str) -> str:
    lower = text.lower()
    named = next((day for day in _DAYS if day in lower), None)
    if named is None and (word := re.search(r"\b(today|tomorrow)\b", lower)):
        moment = today() + timedelta(days=1 if word.group() == "tomorrow" else 0)
        # The sample calendar has no weekend: what falls on it is asked of Monday.
        named = _DAYS[moment.weekday()] if moment.weekday() < len(_DAYS) else _DAYS[0]
    if named is None:
        raise UnclearError
    return named


def _todo_tool() -> BaseTool:
    tasks: list[str] = []

    @tool
    def todo_list(
        action: Literal["add", "done", "show"], item: Annotated[str, "The task"] = ""
    ) -> str:
        """Keep a to-do list: add a task, tick one off, show what is open."""
        if action == "add":
            tasks.append(item)
        elif action == "done":
            match = next((task for task in tasks if item.lower() in task.lower()), None)
            if match is None:
                raise ValueError(f"{item!r} is not on the list.")
            tasks.remove(match)
        return "open: " + ("; ".join(tasks) or "nothing")

    return todo_list


def _task(text: str) -> dict[str, Any]:
    for action, lead in (("done", _DONE), ("add", _ADD)):
        if re.search(lead, text, re.I):
            item = re.sub(_LIST, "", payload(text, lead), flags=re.I)
            return {"action": action, "item": item.strip(" :'\"")}
    return {"action": "show"}


def _note_tool() -> BaseTool:
    notes: list[str] = []

    @tool
    def notebook(action: Literal["save", "find"], text: Annotated[str, "Note, or word"]) -> str:
        """Keep notes: write one down, or find the notes that mention something."""
        if action == "save":
            notes.append(text)
            return f"noted ({len(notes)} in the book): {text}"
        words = [word for word in re.findall(r"\w+", text.lower()) if len(word) > 2]
        found = [note for note in notes if any(word in note.lower() for word in words)]
        return "; ".join(found) or f"no note mentions {text!r}"

    return notebook


def _note(text: str) -> dict[str, Any]:
    if re.search(_FIND, text, re.I):
        return {"action": "find", "text": after(text, _FIND)}
    return {"action": "save", "text": payload(text, _SAVE)}


_SLOT_EXAMPLES = (
    "find a free 45 minute slot on Tuesday",
    "when am I free on Thursday for an hour?",
    "is there room for a 30 min call on Friday",
    "book me half an hour on Monday, when is it possible",
    "earliest open gap of 2 hours on wednesday",
)
_AGENDA_EXAMPLES = (
    "what's on my calendar on Monday?",
    "list my appointments for Friday",
    "do I have any meetings tomorrow",
    "show Wednesday's agenda",
    "what am I doing on thursday",
)
_TODO_EXAMPLES = (
    "add buy milk to my to-do list",
    "what's on my task list?",
    "tick off buy milk",
    "remind me to water the plants",
    "show my open tasks",
    "mark 'call the bank' as done",
)
_NOTE_EXAMPLES = (
    "note that the wifi code is 4711",
    "write down: Noor is allergic to nuts",
    "find my notes about wifi",
    "save a note: the spare key is under the pot",
    "what did I write down about Noor?",
    "jot down that the printer needs paper",
)


def planning_agents() -> tuple[DemoAgent, ...]:
    """Return fresh agents, with an empty list and an empty notebook."""
    return (
        DemoAgent(
            free_slot_finder,
            "planning",
            _slot,
            "a weekday, such as 45 minutes on Tuesday.",
            _SLOT_EXAMPLES,
        ),
        DemoAgent(
            agenda_reader, "planning", _agenda, "a weekday, such as Friday.", _AGENDA_EXAMPLES
        ),
        DemoAgent(_todo_tool(), "planning", _task, "a task, such as add buy milk.", _TODO_EXAMPLES),
        DemoAgent(
            _note_tool(),
            "planning",
            _note,
            "a note, such as note that the shop is shut.",
            _NOTE_EXAMPLES,
        ),
    )
