"""What went wrong while one call was handed from LLM to LLM."""

from __future__ import annotations

from typing import Any

from langchain_moma.telemetry import Telemetry

__all__ = ["Failures"]


class Failures:
    """Errors of one call, in the order in which LLMs were asked, and what to raise in the end.

    Args:
        telemetry: Counts them.

    Example:
        >>> failures = Failures(Telemetry())
        >>> failures.add("small", TimeoutError("slow"))
        {'llm': 'small', 'error': "TimeoutError('slow')"}
        >>> failures.final().__notes__
        ["This is the error of LLM 'small'; nobody else could answer either."]
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._errors: list[tuple[str, Exception]] = []

    def add(self, name: str, error: Exception) -> dict[str, Any]:
        """Keep an error; return it as plain data for an event."""
        self._errors.append((name, error))
        self._telemetry.failed(name, error)
        return self.plain[-1]

    @property
    def plain(self) -> list[dict[str, Any]]:
        """All of them as plain data."""
        return [{"llm": name, "error": repr(error)} for name, error in self._errors]

    def final(self) -> Exception:
        """Return the first error, with notes on the others."""
        (first, error), *others = self._errors
        error.add_note(f"This is the error of LLM {first!r}; nobody else could answer either.")
        for name, other in others:
            error.add_note(f"  {name!r}, asked in its place, failed with {other!r}")
        return error
