"""When members say the same: final answers compared by a callable."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from moma_core import normalise_answer

__all__ = ["Equal", "agreeing", "comparable", "final_answer", "same_answer"]

Equal = Callable[[str, str], bool]
"""Says whether two answers mean the same."""

_MARKED = re.compile(r"(?:^|\n)[\s*_#>]*answer[*_]*\s*:[*_]*\s*(.+?)\s*(?=\n|$)", re.IGNORECASE)
_FENCE = "*_` "
_SHORT = 80


def final_answer(text: str) -> str:
    r"""Return what stands after the last ``Answer:`` at the start of a line, else the whole text.

    Example:
        >>> final_answer("17 * 23 = 391, so\n**Answer:** 391")
        '391'
        >>> final_answer("It is Paris.")
        'It is Paris.'
    """
    found = _MARKED.findall(text)
    return str(found[-1]).strip(_FENCE) if found else text.strip()


def same_answer(left: str, right: str) -> bool:
    r"""Say whether two final answers are equal once capitals, spaces and number formats are gone.

    Example:
        >>> same_answer("I add them.\nAnswer: $1,200.00", "answer: 1200")
        True
        >>> same_answer("Answer: 12", "Answer: 13")
        False
    """
    return normalise_answer(final_answer(left)) == normalise_answer(final_answer(right))


def agreeing(texts: Sequence[str], equal: Equal) -> list[list[int]]:
    """Return the places of texts that say the same, the largest group first, then the latest.

    Args:
        texts: One answer a member.
        equal: Compared with the first text of each group.

    Example:
        >>> agreeing(["4", "5", "4.0"], same_answer)
        [[0, 2], [1]]
    """
    groups: list[list[int]] = []
    for i, text in enumerate(texts):
        home = next((group for group in groups if equal(texts[group[0]], text)), None)
        if home is None:
            groups.append([i])
        else:
            home.append(i)
    return sorted(groups, key=lambda group: (len(group), group[-1]), reverse=True)


def comparable(text: str) -> bool:
    """Say whether a text has a short final answer, so that two of them can be compared as texts.

    Example:
        >>> comparable("Answer: 42"), comparable("It depends on what you mean. " * 9)
        (True, False)
    """
    return len(final_answer(text)) <= _SHORT
