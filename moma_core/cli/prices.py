"""Prices of LLMs from a JSON file: USD per million tokens, one number or input and output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moma_core.errors import InvalidDataError

__all__ = ["PricesOption", "read_prices"]

PricesOption = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        help="JSON of USD per million tokens: {LLM: \\[input, output]}.",
        exists=True,
        dir_okay=False,
    ),
]


def read_prices(path: Path | None) -> dict[str, Any] | None:
    """Return the table in a JSON file; None for no file.

    Raises:
        InvalidDataError: It is no JSON object.
    """
    if path is None:
        return None
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"{path} is not JSON ({error}).") from error
    if not isinstance(table, dict):
        raise InvalidDataError(f"{path} must hold an object, {{LLM: [input, output]}}.")
    return table
