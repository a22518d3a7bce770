"""Your own supervisor graph stays as it is; each role gets an LLM for each query, on one budget.

pip install "moma-router[langchain]" && python examples/langgraph_supervisor_llms.py
"""

from typing import Literal

from langchain_core.callbacks import UsageMetadataCallbackHandler as Counter
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

from langchain_moma.teams.roles import RoleShare, role_llms
from langchain_moma.testing import ScriptedChat
from moma_core import MoMARouter

NAMES = ("claude-3-5-sonnet-20241022", "gpt-4o-mini-2024-07-18", "gemini-1.5-flash")
WORKERS = {"researcher": "You find facts.", "coder": "You write code."}
ROLES = {"supervisor": RoleShare(weight=1, calls=3), "researcher": 1.0, "coder": 4.0}
ASK = "Find out how Luhn numbers are checked, and write a function that does so."


def scripted(messages, _tools, _choice):
    if not messages[0].text.startswith("Who is next"):
        return AIMessage(f"{messages[0].text} Here you are." * 9)
    return AIMessage(next((r for r in WORKERS if r not in {m.name for m in messages}), END))


def app(chats):
    def supervisor(state) -> Command[Literal["researcher", "coder", "__end__"]]:
        asked = [("system", f"Who is next: {', '.join(WORKERS)} or {END}?"), *state["messages"]]
        return Command(goto=chats["supervisor"].invoke(asked).text)

    def work(role, state):
        said = chats[role].invoke([("system", WORKERS[role]), *state["messages"]])
        return {"messages": AIMessage(said.text, name=role)}

    builder = StateGraph(MessagesState).add_node(supervisor).add_edge(START, "supervisor")
    for role in WORKERS:
        builder.add_node(role, lambda state, r=role: work(r, state)).add_edge(role, "supervisor")
    return builder.compile()


def main() -> None:
    router = MoMARouter.from_cards()
    cards = {card.name: card for card in router.llms.cards}
    llms = {name: ScriptedChat(name=name, reply=scripted) for name in NAMES}
    chats = role_llms(router, llms, ROLES, preference="cost:0.0015")
    print({role: llm.name for role, llm in chats.plan(ASK).items()})
    for label, used in (("one LLM", dict.fromkeys(ROLES, llms[NAMES[0]])), ("by role", chats)):
        app(used).invoke({"messages": ASK}, {"callbacks": [counter := Counter()]})
        usd = sum(
            cards[n].input_price * u["input_tokens"] + cards[n].output_price * u["output_tokens"]
            for n, u in counter.usage_metadata.items()
        )
        print(f"{label}: ${usd / 1e6:.6f}")


if __name__ == "__main__":
    main()
