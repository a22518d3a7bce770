"""Agents for everyday money: tips, loans, savings."""

from __future__ import annotations

import re
from typing import Annotated, Any

from langchain_core.tools import tool

from moma_demo.agents.agent import DemoAgent, UnclearError
from moma_demo.agents.extract import labelled, numbers, whole

__all__ = ["AGENTS"]

_YEARS = r"years?|yrs?|y\b"


@tool
def tip_splitter(
    bill: Annotated[float, "The bill before the tip"],
    tip_percent: Annotated[float, "Tip in percent"] = 15.0,
    people: Annotated[int, "How many share it"] = 1,
) -> str:
    """Add a tip to a restaurant bill and split it between people."""
    if people < 1:
        raise ValueError("somebody has to pay: name at least one person.")
    total = bill * (1 + tip_percent / 100)
    return (
        f"total {total:,.2f} with {tip_percent:g}% tip, {total / people:,.2f} for each of {people}"
    )


def _tip(text: str) -> dict[str, Any]:
    percent = labelled(text, "%|percent")
    people = labelled(text, r"people|persons?|friends|of us|ways?|guests|diners")
    if people is None and (found := re.search(r"(?:between|among|for)\s+(\d+)\b(?!\s*%)", text)):
        people = float(found.group(1))
    amounts = [number for number in numbers(text) if number not in (percent, people)]
    if not amounts:
        raise UnclearError
    given: dict[str, Any] = {"bill": max(amounts)}
    if percent is not None:
        given["tip_percent"] = percent
    if people is not None:
        given["people"] = whole(people)
    return given


@tool
def loan_payment(
    principal: Annotated[float, "Amount borrowed"],
    annual_rate: Annotated[float, "Interest in percent a year"],
    years: float,
) -> str:
    """Compute the monthly payment and the whole interest of a loan or mortgage."""
    months, rate = round(years * 12), annual_rate / 1200
    if months < 1 or principal <= 0 or rate < 0:
        raise ValueError("a loan has an amount, a rate of 0 or more, and at least one month.")
    monthly = principal / months if rate == 0 else principal * rate / (1 - (1 + rate) ** -months)
    return (
        f"{monthly:,.2f} a month for {months} months, {monthly * months - principal:,.2f} interest"
    )


@tool
def savings_growth(
    amount: Annotated[float, "Amount put in at the start"],
    annual_rate: Annotated[float, "Interest in percent a year"],
    years: float,
) -> str:
    """Compute what savings or an investment grow to with compound interest."""
    end = amount * (1 + annual_rate / 100) ** years
    return f"{amount:,.2f} grows to {end:,.2f} in {years:g} years at {annual_rate:g}%"


def _terms(text: str) -> tuple[float, float, float]:
    rate = labelled(text, "%|percent")
    years = labelled(text, _YEARS)
    if years is None and (months := labelled(text, "months?")) is not None:
        years = months / 12
    others = [number for number in numbers(text) if number not in (rate, years)]
    if rate is None or years is None or not others:
        raise UnclearError
    return max(others), rate, years


def _loan(text: str) -> dict[str, Any]:
    principal, rate, years = _terms(text)
    return {"principal": principal, "annual_rate": rate, "years": years}


def _savings(text: str) -> dict[str, Any]:
    amount, rate, years = _terms(text)
    return {"amount": amount, "annual_rate": rate, "years": years}


AGENTS = (
    DemoAgent(
        tip_splitter,
        "money",
        _tip,
        "a bill, such as 84 euros with a 15% tip for 3 people.",
        (
            "split a 120 dollar bill with 18% tip between 4 people",
            "how much tip on 56.40?",
            "dinner was 92, add 20 percent and divide it among 3",
            "what do we each pay for a bill of 75 with 10% gratuity, 5 of us",
            "restaurant bill of 48.50 plus 15% service for 2 guests",
        ),
    ),
    DemoAgent(
        loan_payment,
        "money",
        _loan,
        "an amount, a rate and a time, such as 200,000 at 4% over 30 years.",
        (
            "monthly payment for a 250,000 loan at 3.5% over 30 years",
            "what would a mortgage of 180k cost me at 4 percent for 20 years?",
            "I borrow 10,000 for 36 months at 7%, what is the instalment",
            "car loan: 22,000, 5 years, 6.9%",
            "how much interest do I pay the bank on 15,000 over 4 years at 5%",
        ),
    ),
    DemoAgent(
        savings_growth,
        "money",
        _savings,
        "an amount, a rate and a time, such as 1,000 at 5% for 10 years.",
        (
            "what does 1,000 grow to at 5% in 10 years",
            "compound interest on 2,500 at 3 percent for 8 years",
            "if I invest 5,000 at 7% what will I have after 20 years?",
            "future value of 12,000 saved for 15 years at 2.5%",
            "I put 800 aside at 4% a year, how much is it in 6 years",
        ),
    ),
)
