"""A team of LLMs as a graph: debate until they agree, within a limit, with a check at the end.

pip install "moma-router[langchain]" && python examples/langgraph_debate.py
"""

from langchain_core.messages import AIMessage

from langchain_moma import teams
from langchain_moma.testing import ScriptedChat
from moma_core import LLMCard, TeamPlan
from moma_core.decision import TeamMember

QUESTION = "A bat and a ball cost 1.10 together. The bat costs 1.00 more. How much is the ball?"
CARDS = [LLMCard("small", 0.15, 0.6), LLMCard("middle", 0.25, 1.25), LLMCard("large", 2.5, 10.0)]
PLAN = TeamPlan(
    "debate",
    (
        TeamMember("solver", "small", "You solve word problems."),
        TeamMember("sceptic", "middle", "You look for the mistake everybody makes."),
        TeamMember("judge", "large", "You are a careful mathematician."),
    ),
    rounds=2,
)


def scripted(name: str, first: str, later: str) -> ScriptedChat:
    def reply(messages, _tools, _choice):
        seen = any(message.type == "ai" for message in messages)
        return AIMessage(f"Answer: {later if seen else first}")

    return ScriptedChat(name=name, reply=reply)


def main() -> None:
    llms = {
        "small": scripted("small", "0.10", "0.05"),
        "middle": scripted("middle", "0.05", "0.05"),
        "large": scripted("large", "5 cents", "0.05"),
    }
    team = teams.build(
        PLAN,
        llms,
        cards=CARDS,
        limits=teams.Limits(usd=0.05),
        check=lambda _question, answer: "0.05" in answer,
        fallbacks=["middle"],
    )
    print(team.get_graph().draw_mermaid())
    end = team.invoke({"messages": [("human", QUESTION)]})
    record = end["team"]
    for turn in record["transcript"]:
        print(f"{turn['stage']} {turn['role']} ({turn['llm']}): {turn['text']}")
    calls, usd = record["total"]["calls"], record["total"]["cost"]
    print(f"{end['messages'][-1].text}: {record['stopped']} after {calls} calls, ${usd:.6f}")


if __name__ == "__main__":
    main()
