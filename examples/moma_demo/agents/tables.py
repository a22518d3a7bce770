"""Agents over a sample table: figures of one column, and SQL over all of it."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
import statistics
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from langchain_core.tools import tool

from moma_demo.agents.agent import DemoAgent, UnclearError
from moma_demo.agents.extract import as_text, numbers, whole

__all__ = ["AGENTS"]

_MAX_ROWS = 8
_MAX_STEPS = 1_000_000
_READS = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
_COLUMNS = {
    "quantity": r"quantit|pieces|units? (?:sold|per)|how many",
    "unit_price": r"price|expens|cheap|cost",
}
_GROUPS = {
    "city": r"\bcit(?:y|ies)\b",
    "product": r"\bproducts?\b|\barticles?\b|\bitems?\b",
    "category": r"\bcategor(?:y|ies)\b",
    "day": r"\bdays?\b|\bdates?\b",
}
_MEASURES = (
    ("sum(quantity * unit_price)", "revenue", r"revenue|turnover|income|earn|money|sales"),
    ("sum(quantity)", "pieces", r"quantit|pieces|units|sold|sell"),
    ("count(*)", "orders", r"orders?|rows"),
)


@cache
def _rows() -> tuple[dict[str, str], ...]:
    text = (files("moma_demo") / "data" / "orders.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(io.StringIO(text)))


@tool
def table_statistics(
    column: Annotated[Literal["quantity", "unit_price"], "Column of the sample orders"],
) -> str:
    """Summarise a numeric column of the CSV file of orders: mean, median, smallest, largest."""
    values = [float(row[column]) for row in _rows()]
    return (
        f"{column} of {len(values)} orders: mean {as_text(round(statistics.fmean(values), 2))}, "
        f"median {as_text(statistics.median(values))}, min {as_text(min(values))}, "
        f"max {as_text(max(values))}"
    )


def _column(text: str) -> dict[str, Any]:
    for column, words in _COLUMNS.items():
        if re.search(words, text, re.I):
            return {"column": column}
    raise UnclearError


@tool
def table_query(
    sql: Annotated[
        str,
        "One SELECT over orders(order_id, day, city, product, category, quantity, unit_price)",
    ],
) -> str:
    """Answer questions on the orders table with SQL: filter, group, count, rank by revenue."""
    # Closed, not committed: the authorizer below would refuse the commit.
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as base:
        base.execute(
            "create table orders (order_id integer, day text, city text, product text, "
            "category text, quantity integer, unit_price real)"
        )
        base.executemany(
            "insert into orders values (:order_id, :day, :city, :product, :category, :quantity, "
            ":unit_price)",
            _rows(),
        )
        return _selected(base, sql)


def _selected(base: sqlite3.Connection, sql: str) -> str:
    """Run reading SQL only, and not for ever: the words of a user reach this line."""
    base.set_authorizer(
        lambda action, *_: sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY
    )
    base.set_progress_handler(lambda: 1, _MAX_STEPS)
    try:
        cursor = base.execute(sql)
        rows = cursor.fetchmany(_MAX_ROWS)
    except sqlite3.Error as error:
        raise ValueError(f"that SQL does not work: {error}.") from None
    names = [column[0] for column in cursor.description]
    return f"{' | '.join(names)}: " + "; ".join(map(_line, rows)) if rows else "no rows"


def _line(row: Sequence[Any]) -> str:
    return " | ".join(map(_cell, row))


def _cell(cell: object) -> str:
    return as_text(round(cell, 2)) if isinstance(cell, float) else str(cell)


def _sql(text: str) -> dict[str, Any]:
    written = re.search(r"\bselect\b.+", text, re.I | re.DOTALL)
    if written:
        return {"sql": written.group().strip("`'\" ;?")}
    measure, name, _ = next((m for m in _MEASURES if re.search(m[2], text, re.I)), _MEASURES[-1])
    where = _where(text)
    group = next((g for g, words in _GROUPS.items() if re.search(words, text, re.I)), None)
    if group is None and not where:
        raise UnclearError
    if group is None:
        return {"sql": f"select {measure} as {name} from orders{where}"}  # noqa: S608  # our words
    limit = _limit(text)
    return {
        "sql": f"select {group}, {measure} as {name} from orders{where} group by {group} "  # noqa: S608
        f"order by 2 desc limit {limit}"
    }


def _where(text: str) -> str:
    """Filter by a city, product or category of the table that the text names."""
    lower = text.lower()
    found: list[str] = []
    for column in ("city", "product", "category"):
        values = sorted({row[column] for row in _rows()}, key=len, reverse=True)
        named = (value for value in values if re.search(rf"\b{value.lower()}s?\b", lower))
        value = next(named, None)
        if value is not None and not any(value in earlier for earlier in found):
            found.append(f"{column} = '{value}'")
    return f" where {' and '.join(found)}" if found else ""


def _limit(text: str) -> int:
    if re.search(r"\b(?:which|what|the) (?:city|product|category|day)\b", text, re.I):
        return 1
    top = re.search(r"\b(?:top|best|first)\s+(\d+|three|five)\b", text, re.I)
    words = {"three": 3, "five": 5}
    if top and top.group(1).lower() in words:
        return words[top.group(1).lower()]
    return whole(numbers(top.group())[0]) if top else _MAX_ROWS


AGENTS = (
    DemoAgent(
        table_statistics,
        "data",
        _column,
        "a column of the orders: quantity or unit price.",
        (
            "summary statistics of the unit_price column in the csv",
            "what is the average price in orders.csv?",
            "median quantity per order in the file",
            "largest and smallest price in the CSV file",
            "describe the quantity column of the spreadsheet",
            "mean of the price column",
        ),
    ),
    DemoAgent(
        table_query,
        "data",
        _sql,
        "a question on the orders, such as revenue by city, or a SELECT.",
        (
            "select city, count(*) from orders group by city",
            "top 3 products by revenue",
            "how many orders came from Lisbon?",
            "total revenue by category in the orders table",
            "which city ordered the most teapots",
            "list turnover for each product sold in Vienna",
            "run this SQL: SELECT product FROM orders WHERE quantity > 5",
        ),
    ),
)
