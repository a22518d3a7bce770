"""A LangGraph whose first node routes, without an LLM call. Runs offline.

pip install "moma-router[langchain]" && python examples/langgraph_router.py
"""

from datetime import UTC, datetime
from typing import Any

from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from langchain_moma import MoMAState, agent_cards_from_tools, as_node, decision_in
from moma_core import MoMARouter


@tool
def clock() -> str:
    """Tell the time and the date now."""
    return f"It is {datetime.now(UTC):%H:%M} UTC."


@tool
def word_count(text: str) -> str:
    """Count the words of a text."""
    return f"{len(text.split())} words"


EXAMPLES = {
    "clock": ["what time is it?", "tell me today's date", "how late is it now", "the hour please"],
    "word_count": ["count the words in: to be", "how many words has 'a b c'", "length of my text"],
}


def llm(state: MoMAState) -> dict[str, Any]:
    chosen = decision_in(state["moma"]).target
    return {"messages": [("ai", f"(call {chosen} here, for example with init_chat_model)")]}


def main() -> None:
    router = MoMARouter.from_cards(agent_cards_from_tools([clock, word_count], EXAMPLES))
    builder = StateGraph(MoMAState)
    builder.add_node("router", as_node(router, ["clock", "word_count"], llm="llm"))
    builder.add_node("clock", lambda _: {"messages": clock.invoke({})})
    builder.add_node(
        "word_count", lambda state: {"messages": word_count.invoke(state["messages"][-1].text)}
    )
    builder.add_node("llm", llm)
    graph = builder.add_edge(START, "router").compile(InMemorySaver())

    thread = {"configurable": {"thread_id": "1", "moma_preference": "cost"}}
    for text in ("what's the time?", "count the words: one two three", "why do cats purr?"):
        end = graph.invoke({"messages": [("human", text)]}, thread)
        print(f"{text} -> {decision_in(end['moma']).target}: {end['messages'][-1].text}")
    print(f"turns kept by the checkpointer: {len(end['messages']) // 2}")


if __name__ == "__main__":
    main()
