"""One chat model that asks a cheap LLM or a strong one, call by call. Runs offline.

pip install "moma-router[langchain]" && python examples/langgraph_chat.py
"""

from langchain_core.tools import tool

from langchain_moma import ChatMoMA
from langchain_moma.testing import ScriptedChat
from moma_core import MoMARouter

CHEAP, STRONG = "gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06"


@tool
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


def main() -> None:
    llms = {CHEAP: ScriptedChat(name=CHEAP), STRONG: ScriptedChat(name=STRONG)}
    chat = ChatMoMA(router=MoMARouter.from_cards(), llms=llms, preference="auto")

    for wanted in ("cost:0", "performance"):
        for_one_call = {"configurable": {"moma_preference": wanted}}
        answer = chat.invoke("Prove that there are infinitely many primes.", for_one_call)
        print(f"{wanted}: {answer.response_metadata['moma_llm']}")

    # Tools and structured output are the chosen LLM's own.
    call = chat.bind_tools([add]).invoke("add 2 and 3")
    print(f"tool call: {call.tool_calls[0]['name']}")

    # The strong LLM is down: the next best answers.
    llms[STRONG].failures = 1
    answer = chat.invoke("hello", {"configurable": {"moma_preference": "performance"}})
    print(f"while {STRONG} is down: {answer.response_metadata['moma_llm']}")

    print("streamed:", "|".join(chunk.text for chunk in chat.stream("one two three")))
    print("counters:", chat.telemetry.counts()["by_target"])


if __name__ == "__main__":
    main()
