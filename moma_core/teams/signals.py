"""What a finished team tells about its own answer: whether another mode should try.

Knows no plan and no LLM.
"""

from __future__ import annotations

from dataclasses import dataclass

from moma_core.errors import InvalidInputError
from moma_core.types.checks import is_number

__all__ = ["DOUBT", "LEAST_AGREEMENT", "LEAST_CONFIDENCE", "Signal"]

DOUBT = 0.25
"""What a failed check or a low confidence does to the odds that an answer is right (assumed: a
check that finds 6 of 10 mistakes and errs once in 10 right answers would make it 1/6)."""

LEAST_AGREEMENT = 0.75
LEAST_CONFIDENCE = 0.6


@dataclass(frozen=True, slots=True)
class Signal:
    """How sure a team may be of its answer; None is not known.

    Args:
        agreement: Share of the members that agree with the answer, in [0, 1].
        confidence: The answer's own confidence, in [0, 1].
        passed: Whether a check (tests, a schema, a reviewer) passed.

    Raises:
        InvalidInputError: A share is out of [0, 1].

    Example:
        >>> Signal(agreement=0.5).trouble
        'only 50 % of the members agree'
        >>> Signal(passed=True).trouble
        ''
    """

    agreement: float | None = None
    confidence: float | None = None
    passed: bool | None = None

    def __post_init__(self) -> None:
        for name in ("agreement", "confidence"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0.0 <= value <= 1.0):
                raise InvalidInputError(
                    f"{name} lies in [0, 1], or is None when not known, got {value!r}. Write "
                    f"Signal({name}=0.8)."
                )

    @property
    def trouble(self) -> str:
        """What speaks against the answer, in words; empty when nothing does."""
        if self.passed is False:
            return "a check failed"
        if self.agreement is not None and self.agreement < LEAST_AGREEMENT:
            return f"only {self.agreement:.0%} of the members agree".replace("%", " %")
        if self.confidence is not None and self.confidence < LEAST_CONFIDENCE:
            return f"the answer's confidence is {self.confidence:.2f}"
        return ""

    @property
    def doubt(self) -> float:
        """What the trouble does to the odds that the answer is right; 1 is nothing.

        Disagreement alone leaves them: members disagree most where another mode fails too.
        """
        checked = self.passed is not False
        sure = self.confidence is None or self.confidence >= LEAST_CONFIDENCE
        return 1.0 if checked and sure else DOUBT
