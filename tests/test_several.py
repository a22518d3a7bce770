"""Several agents in one query: split, joined in order, never twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import AgentCard, MoMARouter, NoTargetError
from moma_core.agents.compound import join, split
from moma_core.types import Deferred, Handled


@given(st.text(max_size=200))
def test_a_split_loses_no_word(text: str) -> None:
    connectives = {"and", "then", "also", "afterwards", "after", "that", "finally", "lastly"}
    kept = " ".join(split(text)).replace(",", " ").split()
    for word in text.replace(",", " ").split():
        assert word in kept or word.lower() in connectives


def test_small_talk_is_not_split() -> None:
    for text in ("salt and pepper", "who wrote War and Peace?", "Hi. What time is it?"):
        assert len(split(text)) == 1


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=6))
def test_agents_are_listed_once_in_order(names: list[str]) -> None:
    whole = Deferred("none")
    outcome = join(whole, [Handled((name,), 0.9) for name in names])
    if len(set(names)) < 2:
        assert outcome is whole
    else:
        assert isinstance(outcome, Handled)
        assert outcome.agents == tuple(dict.fromkeys(names))


def test_a_query_for_two_agents_names_both_in_order() -> None:
    router = MoMARouter.from_cards(
        [
            AgentCard(
                "unit_converter",
                "Converts lengths, weights and volumes between units",
                examples=("convert 5 miles to km", "how many grams in a pound", "3 feet in metres"),
            ),
            AgentCard(
                "world_clock",
                "Tells the time of day in any city",
                examples=(
                    "what time is it in Lisbon",
                    "tell me the time in Tokyo",
                    "clock in Rome",
                ),
            ),
            AgentCard(
                "notebook",
                "Keeps notes for later",
                examples=("note that the door is open", "write this down: eggs", "show my notes"),
            ),
        ],
        llms=None,
    )
    text = "Tell me the time in Paris and then convert 12 miles to km"
    decision = router.route(text, several=True)
    assert decision.targets == ("world_clock", "unit_converter")
    assert "several" in [step.name for step in decision.trace]
    assert len(router.route(text).targets) == 1
    router.agents.disable("world_clock")
    with pytest.raises(NoTargetError, match=r"'world_clock'.*is disabled"):
        router.route(text, several=True)
    router.agent_router.substitutes = True
    assert router.route(text, several=True).targets == ("unit_converter",)
