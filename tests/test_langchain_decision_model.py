"""MoMADecisionModel where langchain-core has decision models, a clear error where it has not."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from langchain_moma.testing import ScriptedChat
from moma_core import AgentCard, InvalidInputError, MissingExtraError, MoMARouter

SMALL, LARGE = "gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06"
young = pytest.mark.skipif(not find_spec("langchain_core.decisions"), reason="needs core 1.8")


@pytest.mark.skipif(bool(find_spec("langchain_core.decisions")), reason="for core before 1.8")
def test_before_core_1_8_it_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"langchain-core>=1\.8"):
        from langchain_moma.decision_model import MoMADecisionModel  # noqa: F401


@young
@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_answers_choices() -> None:
    from langchain_core.decisions import Choice, Noul

    from langchain_moma.decision_model import MoMADecisionModel

    card = AgentCard("travel", "Flights and hotels", examples=("book a flight", "a cheap hotel"))
    moma = MoMADecisionModel(router=MoMARouter.from_cards([card]), preference="cost:0")
    teams = Choice(instructions="Who?", criteria={"billing": "Invoices", "travel": None})
    llms = Choice(instructions="Which?", criteria={SMALL: "cheap", LARGE: "strong"})
    asked = {"state": "book me a flight", "questions": {"team": teams, "llm": llms}}
    for answer in (moma.invoke(asked), await moma.ainvoke(asked)):
        assert answer.choices["team"].choice == "travel"
        assert answer.choices["llm"].choice == SMALL
        assert sum(answer.choices["team"].probabilities.values()) == pytest.approx(1)
        assert 0 <= answer.choices["llm"].confidence <= 1
    with pytest.raises(InvalidInputError, match="Noul"):
        moma.invoke({"state": "hi", "questions": {"urgent": Noul(instructions="Urgent?")}})


@young
@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_drops_into_the_model_router_middleware() -> None:
    from langchain.agents import create_agent
    from langchain.agents.middleware import ModelChoice, ModelRouterMiddleware

    from langchain_moma.decision_model import MoMADecisionModel

    choices = {
        name: ModelChoice(model=ScriptedChat(name=name), criteria=name) for name in (SMALL, LARGE)
    }
    moma = MoMADecisionModel(router=MoMARouter.from_cards(), preference="cost:0")
    middleware = ModelRouterMiddleware(choices=choices, instructions="Pick.", classifier=moma)
    agent = create_agent(ScriptedChat(name="none"), middleware=[middleware])
    end = agent.invoke({"messages": [("human", "Prove that there are infinitely many primes.")]})
    assert end["messages"][-1].text.startswith(SMALL)
