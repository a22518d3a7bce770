"""Every reader of files under hypothesis, with new seeds each round: no foreign error may come.

    python benchmarks/readers.py [SECONDS]

Repeats tests/test_readers.py, tests/test_tables.py and tests/test_states_toml.py, whose seeds are
fixed in `make test`, with free ones, for five minutes by default. Stops at the first failure and
prints it. Writes benchmarks/results/readers.json.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUT = ROOT / "benchmarks/results/readers.json"
SECONDS = 300.0
FILES = ("test_readers.py", "test_tables.py", "test_states_toml.py")
COMMAND = (
    *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=short"),
    *("--hypothesis-profile=fuzz", "--hypothesis-show-statistics"),
    *(f"tests/{name}" for name in FILES),
)
_PASSING = re.compile(r"- (\d+) passing, \d+ failing")


def main() -> None:
    seconds = float(sys.argv[1]) if sys.argv[1:] else SECONDS
    start, rounds, inputs, failures = time.monotonic(), 0, 0, 0
    while time.monotonic() - start < seconds and not failures:
        done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
        rounds, inputs = rounds + 1, inputs + sum(map(int, _PASSING.findall(done.stdout)))
        failures = int(done.returncode != 0)
        if failures:
            told = done.stdout.partition("= Hypothesis Statistics")[0]
            print(told[-5_000:], done.stderr[-1_000:])
    report = {
        "seconds": round(time.monotonic() - start, 1),
        "rounds": rounds,
        "inputs": inputs,
        "failures": failures,
        "load": os.getloadavg()[0],
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    sys.exit(failures)


if __name__ == "__main__":
    main()
