"""A conversation: follow-ups, an upload, an agent that fails. Runs offline.

pip install moma-router && python examples/conversation.py
"""

from moma_core import AgentCard, MoMARouter, Query

CARDS = [
    AgentCard(
        "weather",
        "Weather forecast for a place",
        examples=("will it rain in Oslo?", "how warm is it outside", "forecast for Sunday"),
    ),
    AgentCard(
        "booker",
        "Finds restaurants and books tables",
        examples=("book a table for four", "a vegan restaurant nearby", "reserve dinner at eight"),
    ),
    AgentCard(
        "reader",
        "Reads uploaded documents",
        examples=("summarise the contract", "who signed the document", "what is on page two"),
    ),
]
STATES = """
[[states]]
name = "FILE_UPLOADED"
events = ["file_uploaded"]
agents = ["reader"]
sticky = 1
"""
TURNS = [
    ("book a table at an Indian place", ()),
    ("and for two people?", ()),
    ("never mind, will it rain in Rome?", ()),
    ("what about Sunday?", ()),
    ("summarise the document", ("file_uploaded:pdf",)),
    ("and the second page?", ()),
    ("write a poem about old trains", ()),
]


def main() -> None:
    router = MoMARouter.from_cards(CARDS, states=STATES)
    state = None
    for text, events in TURNS:
        decision = router.route(Query(text, events=events), state=state)
        router.health.report_success(decision.target)
        state = decision.state
        print(f"{text:36} -> {decision.kind} {decision.target:20} {' + '.join(state.active)}")

    for _ in range(3):
        router.health.report_failure("weather")
    decision = router.route("will it rain in Oslo?")
    print(f"{'weather fails three times':36} -> {decision.kind} {decision.target}")
    print(next(step.detail for step in decision.trace if step.name == "eligible"))


if __name__ == "__main__":
    main()
