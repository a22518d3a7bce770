"""Sub-agents as targets: the hand-off costs one route, not a supervisor's LLM call.

pip install "moma-router[langchain]" && python examples/langgraph_team.py
"""

from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from langchain_moma import ChatMoMA, MoMAState, agent_cards_from_graphs, as_node, decision_in
from langchain_moma.testing import ScriptedChat
from moma_core import MoMARouter


@tool
def find_flight(text: str) -> str:
    """Find a flight."""
    return f"a flight at 9:40 for: {text}"


@tool
def read_invoice(text: str) -> str:
    """Read an invoice."""
    return f"{text}: 12.50 EUR, due on Friday"


ABOUT = {"travel": "Books flights, trains and hotels", "billing": "Reads and pays invoices"}
EXAMPLES = {
    "travel": ["book a flight to Rome", "a hotel near the station", "trains to Bern tomorrow"],
    "billing": ["pay this invoice", "how much do I owe?", "when is the bill due?"],
}
NAME = "gpt-4o-mini-2024-07-18"


def main() -> None:
    team = [
        create_agent(ScriptedChat(name="travel"), [find_flight], name="travel"),
        create_agent(ScriptedChat(name="billing"), [read_invoice], name="billing"),
    ]
    router = MoMARouter.from_cards(agent_cards_from_graphs(team, ABOUT, EXAMPLES))
    chat = ChatMoMA(router=router, llms={NAME: ScriptedChat(name=NAME)})
    builder = StateGraph(MoMAState)
    builder.add_node(as_node(router, ["travel", "billing"], llm="chat"))
    for agent in team:
        builder.add_node(agent.name, agent)
    builder.add_node("chat", lambda state: {"messages": chat.invoke(state["messages"])})
    graph = builder.add_edge(START, "router").compile(InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    for text in ("I need a flight to Lisbon", "when do I have to pay the invoice?", "why is it?"):
        end = graph.invoke({"messages": [("human", text)]}, thread)
        print(f"{text} -> {decision_in(end['moma']).target}: {end['messages'][-1].text}")


if __name__ == "__main__":
    main()
