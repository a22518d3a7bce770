"""Agents that compute: arithmetic, percentages, statistics of numbers, prime factors."""

from __future__ import annotations

import re
import statistics
from typing import Annotated, Any, Literal

from langchain_core.tools import tool

from moma_demo.agents.agent import DemoAgent, UnclearError
from moma_demo.agents.expression import evaluate
from moma_demo.agents.extract import as_text, labelled, numbers, whole

__all__ = ["AGENTS"]

_WORDS = (
    (r"\bsquare root of\s+\(?([\d.,]+)\)?", r"sqrt(\1)"),
    (r"\b(?:add|sum of)\s+([\d.,]+)\s+and\s+([\d.,]+)", r"\1 + \2"),
    (r"\bproduct of\s+([\d.,]+)\s+and\s+([\d.,]+)", r"\1 * \2"),
    (r"\bmultiply\s+([\d.,]+)\s+(?:by|with)\s+([\d.,]+)", r"\1 * \2"),
    (r"\bdivide\s+([\d.,]+)\s+by\s+([\d.,]+)", r"\1 / \2"),
    (r"\bsubtract\s+([\d.,]+)\s+from\s+([\d.,]+)", r"\2 - \1"),
    (r"\bplus\b", "+"),
    (r"\bminus\b", "-"),
    (r"\btimes\b|\bmultiplied by\b|×|(?<=\d)\s*x\s*(?=\d)", "*"),  # noqa: RUF001
    (r"\bdivided by\b|÷", "/"),
    (r"\bto the power of\b|\^", "**"),
    (r"\bsquared\b", "**2"),
    (r"\bcubed\b", "**3"),
    (r"(?<=\d),(?=\d{3})", ""),
)


@tool
def calculator(
    expression: Annotated[str, "Arithmetic with + - * / ** ( ) and sqrt, such as (3 + 4) * 2"],
) -> str:
    """Work out an arithmetic expression: add, subtract, multiply, divide, powers, roots."""
    return f"{expression} = {as_text(evaluate(expression))}"


def _expression(text: str) -> dict[str, Any]:
    for pattern, sign in _WORDS:
        text = re.sub(pattern, sign, text, flags=re.IGNORECASE)
    found = re.findall(r"(?:sqrt|abs|[\d.()+\-*/%\s])+", text)
    parts = [part.strip().rstrip(".+-*/%") for part in found]
    parts = [part for part in parts if re.search(r"\d", part)]
    if not parts:
        raise UnclearError
    return {"expression": max(parts, key=len)}


@tool
def percentage(
    kind: Annotated[
        Literal["of", "share", "change", "off"],
        "of: first % of second; share: first as % of second; change: from first to second; "
        "off: second less first %",
    ],
    first: float,
    second: float,
) -> str:
    """Work with percentages: a percent of a number, a share, a percent change, a discount."""
    a, b = as_text(first), as_text(second)
    if kind == "of":
        return f"{a}% of {b} is {as_text(first * second / 100)}"
    if kind == "off":
        return f"{b} less {a}% is {as_text(second * (100 - first) / 100)}"
    if kind == "share":
        return f"{a} is {as_text(100 * first / second)}% of {b}"
    return f"from {a} to {b} is a change of {as_text(100 * (second - first) / first)}%"


def _percentage(text: str) -> dict[str, Any]:
    found = numbers(text)
    if len(found) < 2:
        raise UnclearError
    percent = labelled(text, "%|percent")
    if percent is None:
        kind = "change" if re.search(r"\bfrom\b|change|increase|grow|\brise", text) else "share"
        return {"kind": kind, "first": found[0], "second": found[1]}
    other = next((number for number in found if number != percent), percent)
    kind = "off" if re.search(r"\boff\b|discount|reduced|less\b", text) else "of"
    return {"kind": kind, "first": percent, "second": other}


@tool
def number_statistics(numbers: Annotated[list[float], "At least one number"]) -> str:
    """Describe a list of numbers: mean, median, standard deviation, smallest, largest, sum."""
    spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return (
        f"n = {len(numbers)}, mean {as_text(statistics.fmean(numbers))}, "
        f"median {as_text(statistics.median(numbers))}, standard deviation {spread:.4g}, "
        f"min {as_text(min(numbers))}, max {as_text(max(numbers))}, sum {as_text(sum(numbers))}"
    )


def _numbers(text: str) -> dict[str, Any]:
    # Between listed numbers a comma separates; it does not mark thousands.
    found = numbers(text.replace(",", " ").replace(";", " "))
    if len(found) < 2:
        raise UnclearError
    return {"numbers": found}


@tool
def prime_factors(number: Annotated[int, "A whole number from 2 to a million million"]) -> str:
    """Find the prime factors of a whole number, or tell that it is prime."""
    if not 2 <= number <= 10**12:
        raise ValueError("I factor whole numbers from 2 to 1,000,000,000,000.")
    factors, rest, divisor = [], number, 2
    while divisor * divisor <= rest:
        while rest % divisor == 0:
            factors.append(divisor)
            rest //= divisor
        divisor += 1
    if rest > 1:
        factors.append(rest)
    if len(factors) == 1:
        return f"{number:,} is prime"
    return f"{number:,} = " + " x ".join(map(str, factors))


def _number(text: str) -> dict[str, Any]:
    found = numbers(text)
    if not found:
        raise UnclearError
    return {"number": whole(found[0])}


AGENTS = (
    DemoAgent(
        calculator,
        "mathematics",
        _expression,
        "an expression, such as (3 + 4) * 2.",
        (
            "what is 12 * (7 + 5)?",
            "compute 2^16 - 1",
            "how much is 144 divided by 12",
            "square root of 1764",
            "add 389 and 271",
            "multiply 36 by 48",
            "3.5 times 4.2 plus 1",
            "subtract 19 from 250",
        ),
    ),
    DemoAgent(
        percentage,
        "mathematics",
        _percentage,
        "two numbers, such as 15% of 240.",
        (
            "what is 15% of 240?",
            "30 is what percent of 120",
            "by how many percent did it grow from 80 to 100?",
            "price after 25% off 60 dollars",
            "calculate 7.5 percent of 1,200",
            "percent change from 250 to 200",
            "a discount of 10% on 89",
        ),
    ),
    DemoAgent(
        number_statistics,
        "mathematics",
        _numbers,
        "at least two numbers, such as 4, 8, 15.",
        (
            "mean and median of 4, 8, 15, 16, 23, 42",
            "standard deviation of 2 4 4 4 5 5 7 9",
            "average these numbers: 10, 20, 60",
            "describe the values 3.1, 2.9, 3.4, 3.0",
            "what's the spread of 12; 15; 19; 30",
            "sum, min and max of 7, 3, 9",
        ),
    ),
    DemoAgent(
        prime_factors,
        "mathematics",
        _number,
        "one whole number, such as 360.",
        (
            "prime factors of 360",
            "is 7919 a prime number?",
            "factorise 1001",
            "what primes multiply to 2310",
            "break 84 down into primes",
            "can 221 be divided by anything but itself",
        ),
    ),
)
