"""Each kind of fault in kinds.toml has its test."""

import re
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KINDS = tomllib.loads((HERE / "kinds.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_fault_has_its_test(kind: str) -> None:
    file, name = KINDS[kind].split("::")
    assert re.search(rf"^(async )?def {name}\(", (HERE / file).read_text("utf-8"), re.MULTILINE)
