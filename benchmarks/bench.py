"""Run the benchmarks that have a peer beside them, offline, and write the page.

    MOMA_DATA=../shared/data python benchmarks/bench.py [--quick] [--again] [SCRIPT ...]

``--quick`` takes those that together need some ten minutes on two quiet cores. A script that ended
well on this code is not run again, so an interrupted run goes on; ``--again`` runs all.
A script whose peers are not installed is left out, with what to install. Figures go to the script's
own file in benchmarks/results; seconds, load and machine to bench.json; what it prints to logs/.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
QUICK: Mapping[str, tuple[str, ...]] = {
    "speed": (),
    "several_agents": (),
    "llamaindex_selectors": (),
    "prompt_cache": (),
    "agents_vs_peers": (),
}
SLOW: Mapping[str, tuple[str, ...]] = {
    "day_one": ("--count", "120", "metatool", "clinc150", "banking50"),
    "languages": (),
    "shots": (),
    "langgraph_tools": (),
    "pairs": (),
    "own_llms": (),
    "auto_rules": (),
    "llms": (),
    "decoding_peers": (),
    "readers": (),
}
PEERS = {  # module: what to install
    "agents_vs_peers": {
        "semantic_router": "semantic-router==1.1.1",
        "llama_index": "llama-index-core",
    },
    "llamaindex_selectors": {"llama_index": "llama-index-core"},
    "langgraph_tools": {"langchain": "langchain"},
    "prompt_cache": {"langchain": "langchain"},
    "decoding_peers": {name: name for name in ("torch", "xgrammar", "llguidance", "outlines_core")},
}


def machine() -> dict[str, str | int | float]:
    """Return what the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count() or 0,
        "gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def code() -> str:
    """Return git's name of the package's tree; a script need not run twice on the same one."""
    command = ["git", "rev-parse", "HEAD:moma_core"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip()


def missing(name: str) -> list[str]:
    """Return the peers of a script that are not installed."""
    return [what for peer, what in PEERS.get(name, {}).items() if find_spec(peer) is None]


def run(script: Path, arguments: Sequence[str], log: Path) -> dict[str, object]:
    """Run one script to its end; its output goes into a log."""
    log.parent.mkdir(exist_ok=True)
    start, load = time.perf_counter(), os.getloadavg()[0]
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(  # noqa: S603
            [sys.executable, script, *arguments], cwd=ROOT, stdout=out, stderr=out, check=False
        )
    return {
        "ended": done.returncode,
        "seconds": round(time.perf_counter() - start, 1),
        "load": round(load, 1),
        "day": dt.datetime.now(dt.UTC).date().isoformat(),
        "code": code(),
        "machine": machine(),
    }


def ended_well(entry: Mapping[str, object] | None) -> bool:
    """Whether a script's figures are those of this code."""
    return entry is not None and entry["ended"] == 0 and entry["code"] == code()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scripts", nargs="*", type=Path, help="files; default: all below")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bench.json")
    asked = parser.parse_args()
    table = QUICK if asked.quick else {**QUICK, **SLOW}
    scripts = asked.scripts or [HERE / f"{name}.py" for name in table]
    known = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.exists() else {}
    logs = asked.out.parent / "logs"
    try:
        for place, script in enumerate(scripts, start=1):
            before = known.get(script.stem)
            print(f"[{place}/{len(scripts)}] {script.stem}:", end=" ", flush=True)
            if ended_well(before) and not asked.again:
                print(f"was run on this code, {before['day']}")
            elif wanted := missing(script.stem):
                print(f"left out; pip install {' '.join(wanted)}")
            else:
                expected = f"some {before['seconds']:.0f} s, " if before else ""
                log = logs / f"{script.stem}.log"
                print(f"{expected}prints to {log}", flush=True)
                known[script.stem] = run(script, table.get(script.stem, ()), log)
                asked.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    except KeyboardInterrupt:
        sys.exit("stopped; what ended is kept. Type the same again to go on.")
    if not asked.scripts:
        subprocess.run([sys.executable, HERE / "page.py"], cwd=ROOT, check=True)  # noqa: S603
    failed = [script.stem for script in scripts if known.get(script.stem, {}).get("ended")]
    sys.exit(f"failed: {', '.join(failed)}; see {logs}" if failed else None)


if __name__ == "__main__":
    main()
