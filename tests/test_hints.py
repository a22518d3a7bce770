"""Tools that read and tools that destroy: unsure between them, it reads or defers."""

from dataclasses import replace

import pytest

from moma_core import AgentCard, MoMARouter
from moma_core.agents.rank import effect_of

READS = {"annotations": {"readOnlyHint": True}}
DESTROYS = {"annotations": {"readOnlyHint": False, "destructiveHint": True}}


def router(first: AgentCard, second: AgentCard) -> MoMARouter:
    weather = AgentCard("forecast", "Weather forecast for a place")
    return MoMARouter.from_cards([first, second, weather])


def test_alike_tools_read() -> None:
    wipe = AgentCard("invoice_a", "The invoices of a customer", metadata=DESTROYS)
    look = AgentCard("invoice_b", "The invoices of a customer", metadata=READS)
    for cards in ((wipe, look), (look, wipe)):
        decision = router(*cards).route("the invoices of our customer Ada")
        assert decision.target != "invoice_a"
    both_look = replace(wipe, metadata=READS), look
    assert router(*both_look).route("the invoices of our customer Ada").kind == "agent"


def test_what_is_clearly_asked_for_is_done() -> None:
    wipe = AgentCard("delete_invoice", "Deletes an invoice for good")
    look = AgentCard("get_invoice", "Shows an invoice")
    assert router(wipe, look).route("delete invoice 88 for good").target == "delete_invoice"
    assert router(wipe, look).route("show me invoice 88").target == "get_invoice"


@pytest.mark.parametrize(
    ("card", "effect"),
    [
        (AgentCard("remove-user", "x"), "destroys"),
        (AgentCard("listUsers", "x"), "reads"),
        (AgentCard("delete_view", "x", metadata=READS), "reads"),
        (AgentCard("get_rid", "x", metadata=DESTROYS), "destroys"),
        (
            AgentCard("drop_box", "x", metadata={"annotations": {"destructiveHint": False}}),
            "unknown",
        ),
        (AgentCard("drop_box", "x", metadata={"annotations": "odd"}), "destroys"),
        (AgentCard("weather", "x"), "unknown"),
    ],
)
def test_effects(card: AgentCard, effect: str) -> None:
    assert effect_of(card) == effect
