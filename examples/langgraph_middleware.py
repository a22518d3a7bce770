"""MoMAMiddleware in LangChain's own create_agent: tools and LLM chosen together, masks that hold.

pip install "moma-router[langchain]" && python examples/langgraph_middleware.py
"""

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from langchain_moma import MoMAMiddleware, agent_cards_from_tools
from langchain_moma.testing import ScriptedChat
from moma_core import MoMARouter

CHEAP, STRONG = "gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06"


@tool
def weather(place: str) -> str:
    """Weather forecast for a place."""
    return f"sunny in {place}"


@tool
def wipe_disk(confirm: str) -> str:
    """Erase every file on this computer."""
    raise RuntimeError(f"this must never run, whether or not {confirm}")


def misled(messages: Any, tools: Any, choice: Any) -> AIMessage | str:  # noqa: ARG001
    """Name a tool that is not bound, as an injected text might make an LLM do."""
    if messages[-1].type == "tool":
        return messages[-1].text
    call = {"name": "wipe_disk", "args": {"confirm": "yes"}, "id": "1", "type": "tool_call"}
    return AIMessage("", tool_calls=[call])


def main() -> None:
    tools = [weather, wipe_disk]
    router = MoMARouter.from_cards(agent_cards_from_tools(tools))
    llms = {CHEAP: ScriptedChat(name=CHEAP), STRONG: ScriptedChat(name=STRONG)}
    moma = MoMAMiddleware(router, max_tools=1, llms=llms, preference="cost:0")
    agent = create_agent(llms[CHEAP], tools, middleware=[moma])

    ask = {"messages": [("human", "What will the weather be in 'Oslo'?")]}
    end = agent.invoke(ask)
    print(f"{end['moma_turn']['tools']}: {end['messages'][-1].text}")

    llms[CHEAP].reply = misled
    print(agent.invoke(ask)["messages"][-1].text)
    print("refused:", moma.telemetry.counts()["refused"])


if __name__ == "__main__":
    main()
