"""Tables for notebooks, made of texts that nobody vouches for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from moma_core._checks import printable

__all__ = ["html_table"]


def html_table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as HTML in which every text is shown and none is acted on.

    Texts are escaped, each cell keeps its own writing direction, and controls are spelt out.

    Example:
        >>> html_table("Agents", ["agent"], [["<script>"]]).split("tbody")[1]
        '><tr><td><bdi>&lt;script&gt;</bdi></td></tr></'
    """
    names = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = "".join(
        f"<tr>{''.join(f'<td><bdi>{_text(cell)}</bdi></td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f"<table><caption>{_text(title)}</caption><thead><tr>{names}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _text(value: object) -> str:
    return escape(printable(value))
