"""Several things in one query: cut into parts, each to its own taker, no word lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import AgentCard, MoMARouter, RoutingDecision
from moma_core.agents.compound import pieces

DESK = {
    "weather": "Weather forecast for a place and day",
    "music": "Plays songs, albums and playlists",
    "bank": "Shows account balances and makes transfers",
    "lights": "Switches lamps at home on and off and dims them",
    "recipes": "Suggests recipes and cooking steps",
}


@pytest.fixture(scope="module")
def desk() -> MoMARouter:
    return MoMARouter.from_cards([AgentCard(name, text) for name, text in DESK.items()])


@given(st.text(max_size=200))
def test_pieces_lose_no_letter_but_conjunctions(text: str) -> None:
    left = "".join(pieces(text))
    position = 0
    for letter in left:  # in the order of the text
        if letter != " " and letter != ",":
            position = text.index(letter, position) + 1


def test_what_is_quoted_or_a_number_is_one_piece() -> None:
    assert pieces("translate 'salt, pepper and lime' into French") == (
        "translate 'salt, pepper and lime' into French",
    )
    assert len(pieces("a salary between $70,000 or $90,000")) == 1


def test_parts_go_to_agents_of_their_own(desk: MoMARouter) -> None:
    decision = desk.route(
        "will it rain in Bergen tomorrow, and transfer 200 euros to my landlord", several=True
    )
    assert decision.targets == ("weather", "bank")
    assert [part.target for part in decision.parts] == ["weather", "bank"]
    assert "rain" in decision.parts[0].text
    assert RoutingDecision.from_dict(decision.to_dict()) == decision
    assert decision.kind_of("bank") == "agent"


@pytest.mark.parametrize(
    "query",
    [
        "play rock and roll",
        "switch off the lamps in the kitchen, the hall and the bedroom",
        "salt and pepper chicken recipe",
        "transfer 200 euros to Anna and 300 to Ben",
    ],
)
def test_a_query_for_one_thing_stays_whole(desk: MoMARouter, query: str) -> None:
    decision = desk.route(query, several=True)
    assert not decision.parts
    assert decision.targets == desk.route(query).targets


def test_a_part_that_no_agent_takes_goes_to_an_llm(desk: MoMARouter) -> None:
    decision = desk.route(
        "will it rain in Oslo tomorrow? Also, explain why the square root of two is irrational.",
        several=True,
    )
    kinds = [part.kind for part in decision.parts]
    assert kinds == ["agent", "llm"]
    llm = decision.parts[1].target
    assert decision.targets == ("weather", llm)
    assert decision.kind_of(llm) == "llm"
    assert "irrational" in decision.explain()


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
    assert "world_clock" not in router.route(text, several=True).targets
    router.agent_router.substitutes = True
    assert router.route(text, several=True).targets == ("unit_converter",)
