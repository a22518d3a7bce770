"""What a notebook or a prompt shows: short reprs, safe tables, and what to type instead."""

import re
from html import escape, unescape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import (
    AgentCard,
    Candidate,
    InvalidInputError,
    LLMRouter,
    MoMARouter,
    RoutingDecision,
    ScoreTable,
    TeamPlan,
    UnknownNameError,
)
from moma_core.decision import Part, TeamMember, TraceStep
from moma_core.testing import HashEncoder

NASTY = "<img src=x onerror=alert(1)> & 'x' \u202etxt.exe\x1b[2J"


@pytest.fixture
def router(cards):
    return MoMARouter.from_cards(cards, encoder=HashEncoder(), llms=None)


def test_reprs_are_short_and_say_what_it_is(router):
    assert repr(router) == "<MoMARouter of 3 agents and 0 LLMs>"
    assert repr(router.agents).startswith("<AgentCatalog of 3 agents: 'weather'")
    decision = RoutingDecision("llm", ("small",), 0.5, cost=0.001, trace=(TraceStep("gate", 1.0),))
    assert repr(decision) == "<RoutingDecision llm small (0.50, about $0.001000)>"
    plan = TeamPlan("debate", (TeamMember("solver", "a"), TeamMember("critic", "b")), 2, cost=0.1)
    assert repr(plan) == "<TeamPlan debate x 2, solver: a, critic: b, $0.100000>"
    table = ScoreTable(("a", "b", "c", "d"), np.array([0.1, 0.9, 0.5, 0.2]), np.full(4, 1e-6))
    assert repr(table).startswith("<ScoreTable b 0.900 at $0.000001, c")
    assert repr(table).endswith("...>")


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_no_text_acts_on_the_page(text):
    member = TeamMember(text, "a")
    shown = [
        TeamPlan("io", (member,))._repr_html_(),
        ScoreTable((text,), np.array([0.1]), np.array([0.1]))._repr_html_(),
        RoutingDecision(
            "agent",
            (text,),
            0.5,
            (Candidate(text, 0.5),),
            reason=text,
            parts=(Part(text, "llm", "x"),),
        )._repr_html_(),
    ]
    for page in shown:
        assert set(re.findall(r"<(\w+)", page)) <= {
            "table", "caption", "thead", "tbody", "tr", "th", "td", "bdi",
        }  # fmt: skip
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)


def test_a_nasty_card_is_shown_whole():
    cards = [AgentCard("nasty", NASTY), AgentCard("many", "plain")]
    router = MoMARouter.from_cards(cards, encoder=HashEncoder(), llms="packaged")
    page = router._repr_html_()
    assert escape("<img src=x onerror=alert(1)> & 'x' ") in page
    assert "\\u202etxt.exe\\x1b[2J" in unescape(page)
    assert all(name in page for name in router.llms.names)


def test_a_catalog_is_a_mapping_to_the_eye(router):
    assert router.agents["weather"].name == "weather"
    assert ("weather" in router.agents, "nobody" in router.agents) == (True, False)
    assert len(router.agents) == len(list(router.agents)) == 3
    with pytest.raises(UnknownNameError, match="Did you mean 'weather'"):
        router.agents["Wether"]
    for change in (router.agents.remove, router.agents.enable, router.agents.disable):
        with pytest.raises(UnknownNameError, match="Did you mean 'weather'"):
            change("wether")


def test_a_slip_in_exclude_is_told_once(router, recwarn):
    with pytest.warns(UserWarning, match="exclude names 'wether'.*Did you mean 'weather'"):
        router.rank("is it going to rain?", exclude="wether")
    router.rank("is it going to rain?", exclude=["wether", "somebody_elses_tool", "weather"])
    with pytest.warns(UserWarning, match="among names 'calculater'"):
        router.rank("is it going to rain?", among=["weather", "calculater"])
    assert not recwarn.list


def test_names_of_llms_heads_and_preferences_are_suggested():
    pool = LLMRouter.packaged()
    name = pool.names[0]
    for change in (pool.remove, pool.card, lambda slip: pool.reprice(slip, 1.0, 1.0)):
        with pytest.raises(UnknownNameError, match=f"Did you mean '{re.escape(name)}'"):
            change(name[:-1])
    with pytest.raises(InvalidInputError, match="Did you mean 'performance'"):
        MoMARouter.from_cards().route("why?", "performence")


def test_an_empty_router_says_what_to_type(cards):
    for wrong in ((), (cards,), (HashEncoder(), cards)):
        with pytest.raises(InvalidInputError, match=r"MoMARouter\.from_cards"):
            MoMARouter(*wrong)
