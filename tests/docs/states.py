"""The reader's own router and agents."""

from moma_core import AgentCard, MoMARouter

text = "book a table in Rome"
agents = {"restaurant": str, "weather": str}
router = MoMARouter.from_cards(
    [
        AgentCard(
            "restaurant",
            "Books tables in restaurants",
            examples=("book a table", "reserve a table for dinner", "a table for four tonight"),
        ),
        AgentCard("weather", "Forecast for a place", examples=("will it rain?", "how warm is it?")),
    ]
)
