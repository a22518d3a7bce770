"""The right agent first, and hand-offs to agents that exist."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import MockEmbedding
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.objects import ObjectIndex
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context

from llamaindex_moma import (
    MoMARouteEvent,
    MoMAToolRetriever,
    MoMAWorkflowRouter,
    agent_cards_from_workflow,
)
from moma_core import InvalidInputError, NoTargetError, RoutingEncoder, UnknownNameError
from moma_core.errors import InvalidQueryError

pytestmark = [  # LlamaIndex looks at deprecated attributes of its own agents
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211"),
    # and says at each turn of a conversation that its memory is not written to JSON
    pytest.mark.filterwarnings("ignore:Skipping serialization of known unserializable key"),
]

ENCODER = RoutingEncoder()
ABOUT = {
    "host": "Greets guests and does small talk",
    "cook": "Cooking recipes, soups and baking",
    "clerk": "Train tickets, timetables and seats",
}


class Seen(BaseEventHandler):
    """Keeps the agents that were picked."""

    picked: list[Any] = []  # noqa: RUF012 - pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, MoMARouteEvent):
            self.picked.append((event.kind, event.targets, event.fallback))


def passes_on(needed: str) -> Any:
    """Return an LLM that passes on whenever it may, else answers."""

    def reply(messages: Any, **kwargs: Any) -> ChatMessage:
        CALLS.append([tool.metadata.name for tool in kwargs.get("tools") or ()])
        told = [m.content or "" for m in messages if m.role == "tool"]
        if "pass_on" in CALLS[-1] and not any("yourself" in words for words in told):
            asked = {"needed": needed}
            call = ToolCallBlock(tool_call_id="1", tool_name="pass_on", tool_kwargs=asked)
            return ChatMessage(role="assistant", blocks=[call])
        return ChatMessage(role="assistant", content="done")

    return reply


CALLS: list[list[str]] = []


def workflow(reply: Any, **hands: Any) -> AgentWorkflow:
    CALLS.clear()
    llm = MockFunctionCallingLLM(response_generator=reply)
    agents = [
        FunctionAgent(
            name=name, description=text, llm=llm, streaming=False, can_handoff_to=hands.get(name)
        )
        for name, text in ABOUT.items()
    ]
    return AgentWorkflow(agents, root_agent="host")


def answers(messages: Any, **kwargs: Any) -> ChatMessage:
    CALLS.append([])
    return ChatMessage(role="assistant", content="done")


async def test_the_right_agent_answers_after_one_llm_call() -> None:
    router = MoMAWorkflowRouter(workflow(answers), encoder=ENCODER)
    seen, root = Seen(), get_dispatcher()
    root.add_event_handler(seen)
    result = await (await router.start("a recipe for soup"))
    root.event_handlers.remove(seen)
    assert (result.current_agent_name, str(result)) == ("cook", "done")
    assert len(CALLS) == 1
    assert seen.picked == [("agent", ["cook"], False)]


async def test_a_conversation_stays_or_moves() -> None:
    router = MoMAWorkflowRouter(workflow(answers), encoder=ENCODER)
    context = Context(router.workflow)
    speakers = []
    for said in ("recipes for baking", "prove Fermat's last theorem", "train tickets", " "):
        message = ChatMessage(said) if said.strip() else "?"
        result = await (await router.start(message, ctx=context))
        speakers.append(result.current_agent_name)
    assert speakers == ["cook", "cook", "clerk", "clerk"]


async def test_a_handoff_says_what_and_the_router_says_who() -> None:
    router = MoMAWorkflowRouter(workflow(passes_on("train tickets")), encoder=ENCODER)
    router.route_handoffs()
    handler = await router.start("prove Fermat's last theorem")  # nobody's: the host begins
    result = await handler
    assert result.current_agent_name == "clerk"
    # host passes on, clerk cannot pass back and is told to answer, and does.
    assert len(CALLS) == 3
    assert all("handoff" not in tools for tools in CALLS)


async def test_nobody_to_pass_on_to() -> None:
    router = MoMAWorkflowRouter(workflow(passes_on("the theorem of Fermat")), encoder=ENCODER)
    router.route_handoffs()
    result = await (await router.start("a recipe for soup"))
    assert (result.current_agent_name, len(CALLS)) == ("cook", 2)


async def test_who_may_hand_off_to_whom_stays() -> None:
    allowed = {"host": ["cook"], "cook": [], "clerk": None}
    made = workflow(passes_on("train tickets"), **allowed)
    router = MoMAWorkflowRouter(made, encoder=ENCODER)
    router.route_handoffs()
    tools = {n: [t.metadata.name for t in a.tools or ()] for n, a in made.agents.items()}
    assert tools == {"host": ["pass_on"], "cook": [], "clerk": ["pass_on"]}
    result = await (await router.start("hello and good morning, dear guests"))
    assert result.current_agent_name == "host"  # the clerk fits, but may not be asked
    with pytest.raises(InvalidInputError, match="already"):
        router.route_handoffs()


def test_pick_learn_and_slips() -> None:
    made = workflow(answers)
    router = MoMAWorkflowRouter(made, encoder=ENCODER)
    assert router.pick("train tickets") == "clerk"
    assert router.pick("prove Fermat's last theorem") == "host"
    with pytest.raises(NoTargetError, match="default 'host' is not among them"):
        router.pick("prove Fermat's last theorem", among=["cook", "clerk"])
    with pytest.raises(InvalidQueryError):
        router.pick(" ")
    router.learn("the 8:15 from platform two", "clerk")
    assert router.pick("the 8:15 from platform two") == "clerk"
    router.router.agents.disable("clerk")
    assert router.pick("train tickets") == "host"
    with pytest.raises(UnknownNameError, match="cook"):
        MoMAWorkflowRouter(made, default="cooke")
    with pytest.raises(InvalidInputError, match="min_probability"):
        MoMAWorkflowRouter(made, min_probability=2.0)
    assert [card.name for card in agent_cards_from_workflow(made)] == list(ABOUT)


ROOMS = ("garage", "kitchen", "garden", "cellar", "attic", "office", "bathroom", "hall", "barn")
WAYS = {
    "house": ("Sees to things", "Switch the {} lamp on or off.", "Open the blinds in the {}."),
    "money": ("Sees to things", "Pay the bill for the {} lease.", "Show the budget of the {}."),
    "doctor": ("Sees to things", "Book a vaccination for {} staff.", "List allergies of {} staff."),
}


def with_tools(behind: str) -> AgentWorkflow:
    llm = MockFunctionCallingLLM(response_generator=answers)
    agents = []
    for name, (about, *ways) in WAYS.items():
        tools = [
            FunctionTool.from_defaults(lambda: "done", f"{name}_{i}_{room}", way.format(room))
            for room in ROOMS
            for i, way in enumerate(ways)
        ]
        given: dict[str, Any] = {"tools": tools}
        if behind == "MoMA":
            given = {"tool_retriever": MoMAToolRetriever(tools, encoder=ENCODER)}
        if behind == "LlamaIndex":
            index = ObjectIndex.from_objects(tools, embed_model=MockEmbedding(embed_dim=4))
            given = {"tool_retriever": index.as_retriever(similarity_top_k=2)}
        agents.append(
            FunctionAgent(name=name, description=about, llm=llm, streaming=False, **given)
        )
    return AgentWorkflow(agents, root_agent="house")


@pytest.mark.parametrize("behind", ["a list", "MoMA", "LlamaIndex"])
def test_tools_behind_a_retriever_count_like_those_in_a_list(behind: str) -> None:
    router = MoMAWorkflowRouter(with_tools(behind), encoder=ENCODER)
    asked = [
        (name, way.format(room)) for name, (_, *ways) in WAYS.items() for way in ways
        for room in ("garage", "barn")
    ]  # fmt: skip
    assert [router.pick(query) for _, query in asked] == [name for name, _ in asked]


def test_among_and_exclude_are_names_and_a_text_is_one() -> None:
    router = MoMAWorkflowRouter(workflow(answers), encoder=ENCODER)
    assert router.pick("train tickets", among="clerk") == "clerk"
    assert router.pick("train tickets", exclude="clerk") == "host"
    assert router.pick("train tickets", exclude="clerk of the station") == "clerk"
    assert router.pick("train tickets", exclude=["host", "cook"]) == "clerk"


def test_what_is_no_workflow_or_not_by_name_is_a_typed_error() -> None:
    made = workflow(answers)
    with pytest.raises(InvalidInputError, match="AgentWorkflow is expected, got list"):
        MoMAWorkflowRouter(list(made.agents.values()))  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="examples are lists by name, got list"):
        MoMAWorkflowRouter(made, examples=["train tickets"])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="a workflow's agents are expected, got 'host'"):
        agent_cards_from_workflow(made.agents)  # type: ignore[arg-type]
