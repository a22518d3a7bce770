"""Route a query to an agent or, when none fits, to the LLM worth its price. Runs offline.

python examples/quickstart.py
"""

from moma_core import AgentCard, MoMARouter

AGENTS = [
    AgentCard(
        "weather",
        "Weather forecast for a place",
        examples=(
            "will it rain tomorrow?",
            "weather in Paris",
            "how hot will it be on Sunday",
            "is there snow in Oslo this week",
        ),
    ),
    AgentCard(
        "calendar",
        "Reads and books appointments",
        examples=(
            "am I free on Friday?",
            "book a meeting with Ada",
            "what is on my agenda tomorrow",
            "move my dentist appointment to Monday",
        ),
    ),
]


def main() -> None:
    router = MoMARouter.from_cards(AGENTS)

    decision = router.route("is it going to rain in Lisbon tomorrow?")
    print(f"{decision.kind} {decision.target}: {decision.reason}")

    for preference in ("performance", "auto", "cost"):
        decision = router.route("prove that there are infinitely many primes", preference)
        print(f"{preference}: {decision.target}, expected cost ${decision.cost:.5f}")

    router.agents.disable("weather")
    decision = router.route("is it going to rain in Lisbon tomorrow?")
    print(f"after disabling it: {decision.kind} {decision.target}")


if __name__ == "__main__":
    main()
