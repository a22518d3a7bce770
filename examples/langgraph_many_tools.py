"""An agent with a hundred tools that binds three a turn, without an LLM call to pick them.

pip install "moma-router[langchain]" && python examples/langgraph_many_tools.py
"""

from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver

from langchain_moma import create_moma_agent
from langchain_moma.testing import ScriptedChat

THINGS = ("invoice", "order", "customer", "shipment", "contract", "ticket", "meeting", "report",
          "budget", "employee")  # fmt: skip
DOINGS = ("create", "delete", "find", "archive", "approve", "export", "translate", "summarise",
          "share", "rename")  # fmt: skip


def office_tool(doing: str, thing: str) -> BaseTool:
    def run(text: str) -> str:
        return f"{doing}d: {text}"

    name = f"{doing}_{thing}"
    about = f"{doing.capitalize()} {'an' if thing[0] in 'aeiou' else 'a'} {thing}"
    return StructuredTool.from_function(run, name=name, description=about)


def main() -> None:
    tools = [office_tool(doing, thing) for doing in DOINGS for thing in THINGS]
    llm = ScriptedChat(name="llm")
    agent = create_moma_agent(
        llm,
        tools,
        max_tools=3,
        examples={"find_shipment": ["where is my parcel?", "when will it arrive?"]},
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "1"}}
    for text in ("please approve the budget for May", "where is my parcel?"):
        end = agent.invoke({"messages": [("human", text)]}, thread)
        print(f"{text} -> {end['moma_turn']['tools']} in {end['moma_turn']['ms']:.0f} ms")
    print(f"tools: {len(tools)}, bound in a call: {[len(call.tools) for call in llm.calls]}")


if __name__ == "__main__":
    main()
