"""What a selector learns from feedback, and what it tells the dispatcher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.tools import ToolMetadata

from llamaindex_moma import MoMARouteEvent, MoMASelector
from moma_core import (
    AgentCard,
    InvalidInputError,
    MoMARouter,
    NoTargetError,
    RoutingEncoder,
    UnknownNameError,
)
from moma_core.errors import DuplicateNameError, InvalidQueryError

ENCODER = RoutingEncoder()
CHOICES = [
    ToolMetadata("Rules at work", "hr"),
    ToolMetadata("Help with computers", "it"),
    ToolMetadata("Lunch menu", None),
]
ODD = "my badge stopped opening the door"


@pytest.mark.parametrize("choice", ["it", CHOICES[1]])
def test_the_next_selection_knows_it(choice: str | ToolMetadata) -> None:
    selector = MoMASelector(encoder=ENCODER, fallback="hr")
    assert selector.select(CHOICES, ODD).ind == 0
    selector.learn(ODD, choice)
    selector.learn(ODD, choice)  # twice is once
    [selection] = selector.select(CHOICES, "badge no longer opens the door").selections
    assert (selection.index, selection.fallback) == (1, False)
    # Also where the list is another one, or was not seen yet.
    assert selector.select(CHOICES[::-1], ODD).ind == 1


def test_nameless_and_doubled_choices() -> None:
    selector = MoMASelector(encoder=ENCODER, min_probability=0.0)
    selector.select(CHOICES, ODD)
    selector.learn("is there pasta today", "choice 3")
    assert selector.select(CHOICES, "is there pasta today").ind == 2
    selector.learn("soup of the day", "Lunch menu")
    assert selector.select(CHOICES, "soup of the day").ind == 2
    doubled = [ToolMetadata("Weather", "records"), ToolMetadata("Music", "records")]
    other = MoMASelector(encoder=ENCODER, min_probability=0.0)
    [selection] = other.select(doubled, "a song by Grieg").selections
    assert selection.name == "records (2)"
    with pytest.raises(DuplicateNameError, match="2 choices are called"):
        other.learn("a song by Grieg", "records")
    other.learn("storm over Bergen", "records (1)")
    assert other.select(doubled, "storm over Bergen").ind == 0


def test_slips() -> None:
    selector = MoMASelector(encoder=ENCODER, fallback=0)
    selector.select(CHOICES, ODD)
    with pytest.raises(UnknownNameError, match="no choice is called 'IT'"):
        selector.learn(ODD, "IT")
    with pytest.raises(InvalidQueryError):
        selector.learn(" ", "it")
    with pytest.raises(InvalidInputError, match="min_probability"):
        MoMASelector(min_probability=1.5)


def test_feedback_outlives_lists_that_are_forgotten() -> None:
    selector = MoMASelector(encoder=ENCODER, fallback="hr")
    selector.select(CHOICES, ODD)
    selector.learn(ODD, "it")
    for i in range(20):  # more lists than are kept
        others = [ToolMetadata(f"Number {i}", f"other {i}"), ToolMetadata("Rules", "hr")]
        selector.select(others, "number")
    assert selector.select(CHOICES, ODD).ind == 1
    # What is learnt of a choice whose name is made of its place stays with that choice.
    doubled = [ToolMetadata("Weather", "records"), ToolMetadata("Music", "records")]
    other = MoMASelector(encoder=ENCODER, min_probability=0.0)
    other.select(doubled, "storm over Bergen")
    other.learn("the wedding day at Troldhaugen", "records (2)")
    assert other.select(doubled[::-1], "the wedding day at Troldhaugen").ind == 0


def test_feedback_reaches_the_router_that_is_shared(tmp_path: Path) -> None:
    choices = CHOICES[:2]
    cards = [AgentCard(choice.name or "", choice.description) for choice in choices]
    router = MoMARouter.from_cards(cards, llms=None, encoder=ENCODER, path=tmp_path)
    MoMASelector(router=router).learn(ODD, choices[1])
    router.close()
    # Another program, later.
    again = MoMARouter.from_cards(llms=None, encoder=ENCODER, path=tmp_path)
    assert again.agents.get("it").examples == (ODD,)
    assert MoMASelector(router=again, min_probability=0.0).select(choices, ODD).ind == 1


class Recorder(BaseEventHandler):
    """Keeps what was routed."""

    seen: list[Any] = []  # noqa: RUF012 - pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, MoMARouteEvent):
            self.seen.append(event)


async def test_one_event_a_selection_inside_its_span() -> None:
    recorder, root = Recorder(), get_dispatcher()
    root.add_event_handler(recorder)
    selector = MoMASelector(encoder=ENCODER, strict=True)
    try:
        await selector.aselect(CHOICES, "help with my computer")
        with pytest.raises(NoTargetError):
            selector.select(CHOICES, "prove that there are infinitely many primes")
    finally:
        root.event_handlers.remove(recorder)
    found, nothing = recorder.seen
    assert (found.kind, found.targets, found.fallback) == ("selection", ["it"], False)
    assert set(found.scores) == {"hr", "it", "choice 3"}
    assert found.span_id
    assert found.span_id.startswith("MoMASelector._")
    assert (nothing.targets, "is right with probability" in nothing.reason) == ([], True)
    assert found.model_dump()["class_name"] == "MoMARouteEvent"


def test_the_prompts_interface_is_honoured() -> None:
    selector = MoMASelector(encoder=ENCODER)
    assert selector.get_prompts() == {}
    selector.update_prompts({})
