"""README and docs say what the result files say."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def page():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("page", ROOT / "benchmarks" / "page.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_figures_and_pictures_are_those_of_the_result_files(page):
    assert page.parted() == [], "type: python benchmarks/page.py"


def test_a_figure_that_parts_is_noticed(page):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = page.BLOCK.search(text)[0]
    digit = re.search(r"\.\d\d\d", block)[0]
    changed = text.replace(block, block.replace(digit, ".001"))
    assert page.filled(changed) == text != changed


def test_readme_has_no_figure_outside_the_marks(page):
    text = page.BLOCK.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.S)
    versions = re.sub(r"Python 3\.11\+|Apache-2\.0", "", prose)
    assert re.findall(r"\d*\.\d+|\d+ ?%|\d+(?: ms| times)", versions) == []
