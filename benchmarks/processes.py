"""Processes that share one registry, each killed at random: nothing acknowledged may be lost.

    OMP_NUM_THREADS=1 python benchmarks/processes.py [--processes 2] [--place dir|server]
        [--seconds 600]

Each process routes through a router of its own and, every second or two, registers an agent of its
own name, disables some of these, or rewrites one that all rewrite. One more process switches an
agent on and off. Every few seconds one of them is killed (SIGKILL) and another started. At the end
everything that was acknowledged must be there, and a route that began later than the bound after an
acknowledged disable, and ended before it was enabled again, must not have gone to that agent. Each
disable counts as a trial for each process that asked for the agent after the bound. Writes
benchmarks/results/processes.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from moma_core import AgentCard, MoMAError, MoMARouter
from moma_core.errors import ConflictError
from moma_core.testing import HashEncoder

OUT = Path("benchmarks/results/processes.json")
REFRESH = 1.0  # seconds between looks for changes
BOUND = 2 * REFRESH  # what docs/registry.md promises
PERIOD = 2.7  # seconds for which the agent is off; a third of it for which it is on
SWITCHED = AgentCard("switched", "zebra okapi giraffe")
SHARED = [AgentCard(f"shared{i}", f"first words {i}") for i in range(5)]
HANGS = 90.0  # seconds without a word


def opened(place: str) -> MoMARouter:
    return MoMARouter.from_cards(
        path=place, encoder=HashEncoder(), llms=None, reranker=None, refresh_every=REFRESH
    )


def note(log: Path, *words: object) -> None:
    """Append a line in one write; what a kill cuts off is no line."""
    with log.open("ab", buffering=0) as file:
        file.write((json.dumps([time.monotonic(), *words]) + "\n").encode())


def work(place: str, log: Path, name: str, end: float) -> None:
    """Route and write until the end; whatever is acknowledged is noted afterwards."""
    rng, n = random.Random(name), 0  # noqa: S311
    router, due = opened(place), 0.0
    note(log, "up", name)
    while time.monotonic() < end:
        start = time.monotonic()
        note(log, "routed", start, router.rank("zebra okapi", k=1).names)
        time.sleep(0.1)
        if time.monotonic() < due:
            continue
        due, n = time.monotonic() + rng.uniform(1.0, 2.5), n + 1
        own = f"{name}-{n}"
        try:
            if n % 3:
                router.agents.add(AgentCard(own, f"does {own}"))
                note(log, "added", own)
            if n % 3 == 2:
                router.agents.disable(own)
                note(log, "disabled", own)
            if not n % 3:
                shared = rng.choice(SHARED).name
                router.agents.update(AgentCard(shared, f"words of {own}"))
                note(log, "updated", shared)
        except MoMAError as error:
            told = "conflict" if isinstance(error, ConflictError) else "refused"
            note(log, told, str(error)[:80])


def switch(place: str, log: Path, end: float) -> None:
    """Switch the agent on and off; a line before enabling and one after disabling."""
    router = opened(place)
    while time.monotonic() < end:
        note(log, "on")
        router.agents.enable(SWITCHED.name)
        time.sleep(PERIOD / 3)
        router.agents.disable(SWITCHED.name)
        note(log, "off")
        time.sleep(PERIOD)


def child(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603


def serving(folder: str, stack: ExitStack) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chroma = Path(sys.executable).with_name("chroma")
    command = [str(chroma), "run", "--path", folder, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    stack.callback(server.wait)
    stack.callback(server.kill)
    for _ in range(200):
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return f"http://127.0.0.1:{port}"
        time.sleep(0.1)
    raise SystemExit("the server does not start")


def lines(log: Path) -> list[list]:
    return [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1]]


def run(place: str, folder: Path, processes: int, seconds: float) -> dict[str, object]:
    """Have processes share a registry, kill them, and say what was lost."""
    with opened(place) as router:
        router.agents.add(SWITCHED, *SHARED)
    end, rng, started = time.monotonic() + seconds, random.Random(0), 0  # noqa: S311
    logs: list[Path] = []
    errors: list[str] = []
    running: dict[subprocess.Popen[str], Path] = {}
    report = {"kills": 0, "hangs": 0}
    due = time.monotonic() + 10
    while time.monotonic() < end:
        while len(running) < processes + 1:
            log = folder / f"{started}.log"
            log.touch()
            logs.append(log)
            switches = not any("switch" in str(each) for each in running.values())
            if switches:
                log = log.rename(folder / f"{started}.switch")
                logs[-1] = log
                running[child("switch", place, log, end)] = log
            else:
                running[child("work", place, log, f"p{started}", end)] = log
            started += 1
        time.sleep(0.5)
        for each, log in list(running.items()):
            if each.poll() is not None and time.monotonic() < end:
                errors.append(each.stderr.read().strip().split("\n")[-1][:300])
                del running[each]
            elif time.time() - log.stat().st_mtime > HANGS:
                report["hangs"] += 1
                each.kill()
        if time.monotonic() > due:
            victim = rng.choice(list(running))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            del running[victim]
            report["kills"] += 1
            due = time.monotonic() + rng.uniform(5.0, 15.0)
    for each in running:
        try:
            each.wait(60)
        except subprocess.TimeoutExpired:
            report["hangs"] += 1
            each.kill()
    return {**report, "errors": errors[:5], "n_errors": len(errors), **judged(place, logs)}


def judged(place: str, logs: list[Path]) -> dict[str, object]:
    """Compare what was acknowledged with what is there."""
    said = {log: lines(log) for log in logs}
    acknowledged = [line for each in said.values() for line in each]
    added = {line[2] for line in acknowledged if line[1] == "added"}
    disabled = {line[2] for line in acknowledged if line[1] == "disabled"}
    try:
        with opened(place) as router:
            there = {card.name: card for card in router.agents}
            seen = router.rank("zebra okapi", k=1).names
    except MoMAError as error:
        return {"unreadable": str(error)[:300]}
    gone = added - there.keys()
    on = [name for name in disabled - gone if there[name].enabled]
    words = [card for name, card in there.items() if name.startswith("shared")]
    return {
        "unreadable": 0,
        "agents": len(there),
        "routes_at_the_end": bool(seen),
        "added": len(added),
        "lost": sorted(gone)[:5],
        "disabled": len(disabled),
        "disables_lost": on[:5],
        "updates": sum(line[1] == "updated" for line in acknowledged),
        "conflicts_told": sum(line[1] == "conflict" for line in acknowledged),
        "refusals_told": sum(line[1] == "refused" for line in acknowledged),
        "shared_whole": len(words) == len(SHARED),
        **stale(said),
    }


def stale(said: dict[Path, list[list]]) -> dict[str, object]:
    """Return in how many trials a route went to the disabled agent later than the bound."""
    switched = sorted((line[0], line[1]) for each in said.values() for line in each
                      if line[1] in ("on", "off"))  # fmt: skip
    spans = [(at, (switched[i + 1][0] if i + 1 < len(switched) else at))
             for i, (at, what) in enumerate(switched) if what == "off"]  # fmt: skip
    trials, bad, latest, routes = 0, 0, 0.0, 0
    for each in said.values():
        routed = [(line[2], line[0], line[3]) for line in each if line[1] == "routed"]
        routes += len(routed)
        for off, on in spans:
            within = [(at - off, names) for at, end, names in routed if off <= at and end < on]
            to_it = [late for late, names in within if SWITCHED.name in names]
            latest = max([latest, *to_it])
            if any(late > BOUND for late, _ in within):
                trials += 1
                bad += any(late > BOUND for late in to_it)
    return {"routes": routes, "trials": trials, "bound_seconds": BOUND,
            "trials_after_bound": bad, "latest_seconds": round(latest, 2)}  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        what, place, log, *rest = sys.argv[2:]
        end = float(rest[-1])
        switch(place, Path(log), end) if what == "switch" else work(place, Path(log), rest[0], end)
        return
    asked = argparse.ArgumentParser()
    asked.add_argument("--processes", type=int, default=2)
    asked.add_argument("--place", choices=("dir", "server"), default="dir")
    asked.add_argument("--seconds", type=float, default=600.0)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        place = str(folder / "router") if given.place == "dir" else serving(f"{name}/server", stack)
        found = run(place, folder, given.processes, given.seconds)
    found |= {"seconds": given.seconds, "load": os.getloadavg()[0]}
    report = json.loads(OUT.read_text()) if OUT.exists() else {}
    report[f"{given.processes} on one {given.place}"] = found
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
