"""Ten ways in which providers fail, and what the user of ChatMoMA and MoMALLM sees of each."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parent.parent / "benchmarks" / "failures.py"
SPEC = importlib.util.spec_from_file_location("failures_bench", FILE)
assert SPEC is not None
assert SPEC.loader is not None
BENCH = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = BENCH
SPEC.loader.exec_module(BENCH)

NEXT = {"small": 1, "middle": 1}
ALONE = {"small": 1}
# what is seen, the error, who was asked, calls in four rounds, what is not closed, who waits
SUNNY = "sunny in Rome"
OPEN = {"small": "open"}
EXPECTED: dict[str, tuple[str, str, dict[str, int], list[int], dict[str, str], list[str]]] = {
    "429 with retry-after": (SUNNY, "", NEXT, [1, 4, 0], {}, ["small"]),
    "429 without": (SUNNY, "", NEXT, [3, 4, 0], OPEN, []),
    "400": ("", "APIStatusError", ALONE, [4, 0, 0], {}, []),
    "policy": ("", "APIStatusError", ALONE, [4, 0, 0], {}, []),
    "overflow": (SUNNY, "", NEXT, [4, 4, 0], {}, []),
    "timeout": (SUNNY, "", NEXT, [3, 4, 0], OPEN, []),
    "529 mid-stream": ("sunny ", "APIStatusError", ALONE, [3, 1, 0], OPEN, []),
    "empty stream": (SUNNY, "", NEXT, [3, 4, 0], OPEN, []),
    "slow first token": (SUNNY, "", ALONE, [4, 0, 0], {}, []),
}
FORMS = [(way, form) for way in EXPECTED for form in ("call", "stream")]
FORMS.remove(("529 mid-stream", "call"))
FORMS.remove(("empty stream", "call"))


def seen(row: dict[str, Any]) -> tuple[Any, ...]:
    four = list(row["asked in four calls"].values())
    error = row["error"].partition(":")[0]
    return row["sees"], error, row["asked"], four, row["not closed"], row["waits"]


@pytest.mark.parametrize("surface", BENCH.SURFACES)
@pytest.mark.parametrize(("way", "form"), FORMS)
def test_what_a_user_sees_of_a_failure(surface: str, way: str, form: str) -> None:
    assert seen(BENCH.trial(surface, way, form)) == EXPECTED[way]


@pytest.mark.parametrize("surface", BENCH.SURFACES)
def test_an_answer_that_does_not_parse_goes_to_the_next(surface: str) -> None:
    row = BENCH.trial(surface, "wrong JSON", "structured")
    assert row["sees"] == "town='Rome' degrees=20"
    assert row["asked"] == NEXT


@pytest.mark.parametrize("surface", BENCH.SURFACES)
def test_an_llm_that_refuses_tools_is_followed_by_one_that_takes_them(surface: str) -> None:
    row = BENCH.trial(surface, "refused tool", "tools")
    assert seen(row) == ("{'town': 'Rome', 'degrees': 20}", "", NEXT, [4, 4, 0], {}, [])


@pytest.mark.parametrize("surface", BENCH.SURFACES)
def test_an_answer_without_words_is_passed_on(surface: str) -> None:
    assert seen(BENCH.trial(surface, "empty stream", "call")) == ("", "", ALONE, [4, 0, 0], {}, [])
