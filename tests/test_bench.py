"""`make bench` runs scripts one after the other, and goes on where it was."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "benchmarks" / "bench.py"


def test_what_ended_well_is_not_run_again(tmp_path: Path) -> None:
    count, switch, out = tmp_path / "count", tmp_path / "works", tmp_path / "bench.json"
    first, second = tmp_path / "first_script.py", tmp_path / "second_script.py"
    first.write_text(f"open({str(count)!r}, 'a').write('x')")
    second.write_text(f"import os; raise SystemExit(not os.path.exists({str(switch)!r}))")

    def bench(*more: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, BENCH, first, second, "--out", out, *more]
        return subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603

    done = bench()
    assert done.returncode == 1
    assert "failed: second_script" in done.stderr
    switch.touch()
    done = bench()
    assert done.returncode == 0
    assert "first_script: was run on this code" in done.stdout
    assert count.read_text() == "x"
    kept = json.loads(out.read_text())
    assert [entry["ended"] for entry in kept.values()] == [0, 0]
    assert kept["first_script"]["machine"]["cores"] > 0
    assert bench("--again").returncode == 0
    assert count.read_text() == "xx"


def test_benchmarks_import_what_there_is() -> None:
    root, own = BENCH.parent.parent, ("moma_core", "langchain_moma", "llamaindex_moma")
    missing = []
    for script in sorted(BENCH.parent.rglob("*.py")):
        nodes = ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        for node in [n for n in nodes if isinstance(n, ast.ImportFrom)]:
            if not (node.module or "").startswith(own):
                continue
            place = root.joinpath(*str(node.module).split("."))
            source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            words = set(re.findall(r"\w+", source.read_text(encoding="utf-8")))
            words |= {path.stem for path in place.glob("*.py")}
            names = {alias.name for alias in node.names}
            missing += [f"{script.name}: {node.module}.{name}" for name in names - words]
    assert not missing
