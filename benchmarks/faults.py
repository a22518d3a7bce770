"""Faults, each really provoked: what happens, what the user is told, what is lost.

    OMP_NUM_THREADS=1 python benchmarks/faults.py [--kills N] [WORD ...]

A fault is a function; its return value is what was seen. A directory that was harmed is brought
back as the error says, then opened: ``lost`` is what it then lacks of agents, switches and targets.
With words, only faults that hold one of them. ``--kills`` is the rounds of kill -9 (default 20).
Writes benchmarks/results/faults.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource  # noqa: F401 - of the child processes
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from moma_core import AgentCard, LLMCard, MoMAError, MoMARouter
from moma_core.registry.location import ChromaServer
from moma_core.testing import HashEncoder

OUT = Path("benchmarks/results/faults.json")
ENCODER = HashEncoder()
CARDS = (
    AgentCard("weather", "rain snow wind", examples=("will it rain", "snow and wind")),
    AgentCard("bank", "balance account money", examples=("my balance", "money on my account")),
    AgentCard("closed", "opera singing"),
)
LLMS = (LLMCard("small", 0.1, 0.4), LLMCard("large", 2.0, 8.0))
STATES = '[[states]]\nname = "OUTSIDE"\nkeywords = ["outside"]\nagents = ["weather"]\n'
ASKED = "rain snow wind"
FAULTS: list[tuple[str, str, Callable[[Path], str]]] = []
KILLS = 20


def fault(what: str, when: str) -> Callable[[Callable[[Path], str]], Callable[[Path], str]]:
    def register(run: Callable[[Path], str]) -> Callable[[Path], str]:
        FAULTS.append((what, when, run))
        return run

    return register


def made(path: Path | ChromaServer | str | None = None, **given: object) -> MoMARouter:
    settings = {"llms": LLMS, "encoder": ENCODER, "reranker": None, "states": STATES, **given}
    return MoMARouter.from_cards(CARDS, path=path, **settings)


def saved(folder: Path, *, chroma: bool = False) -> Path:
    with made(folder if chroma else None) as router:
        router.agents.disable("closed")
        router.save(folder)
    return folder


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def told(call: Callable[[], object]) -> str:
    """Return the typed error that a call raises; any other one is a finding of its own."""
    try:
        found = call()
    except MoMAError as error:
        return said(error)
    return f"no error: {found!r:.80}"


def lost(folder: Path) -> str:
    """Return what a directory's router lacks of what was saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            router = MoMARouter.load(folder, encoder=ENCODER)
        except MoMAError as error:
            return f"everything ({said(error):.80})"
    with router:
        missing = [card.name for card in CARDS if card.name not in router.agents]
        if missing:
            return f"agents {missing}"
        if router.agents.get("closed").enabled:
            return "a disable"
        target = router.route(ASKED).target
        return "nothing" if target == "weather" else f"the target: {target}"


def harmed(folder: Path, harm: Callable[[Path], None], mend: Callable[[Path], None]) -> str:
    """Return what loading says after harm and, after mending as it says, what is lost."""
    backup = folder.with_name("backup")
    shutil.copytree(folder, backup)
    harm(folder)
    seen = told(lambda: MoMARouter.load(folder, encoder=ENCODER).close())
    mend(folder) if mend is not restored else restored_from(backup, folder)
    return f"{seen} || {lost(folder)}"


def restored(_: Path) -> None:
    """Restore from a backup, as the error says."""


def restored_from(backup: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)


def cut(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return harm


def flipped(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        for place in random.Random(0).sample(range(len(data)), min(20, len(data))):  # noqa: S311
            data[place] ^= 0xFF
        (folder / name).write_bytes(bytes(data))

    return harm


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def without_ranker(folder: Path) -> None:
    for name in ("ranker.json", "ranker.safetensors"):
        (folder / name).unlink(missing_ok=True)


def nothing(_: Path) -> None:
    """Nobody does anything."""


for name, harm, mend in (
    ("router.json", gone, restored),
    ("router.json", cut, restored),
    ("router.json", flipped, restored),
    ("states.toml", gone, restored),
    ("states.toml", flipped, restored),
    ("ranker.json", cut, without_ranker),
    ("ranker.safetensors", gone, without_ranker),
    ("ranker.safetensors", cut, without_ranker),
    ("ranker.safetensors", flipped, without_ranker),
    ("llms/head.json", gone, restored),
    ("llms/head.json", flipped, restored),
    ("llms/head.safetensors", cut, restored),
):
    FAULTS.append(
        (
            f"{name} {harm.__name__}",
            "between save and load",
            lambda folder, n=name, h=harm, m=mend: harmed(saved(folder / "r"), h(n), m),
        )
    )


@fault("the agents' files cut short", "between save and load")
def _(folder: Path) -> str:
    saved(folder / "r")
    names = sorted(f.name for f in (folder / "r" / "registry").iterdir() if f.suffix != ".lock")
    largest = max(names, key=lambda n: (folder / "r" / "registry" / n).stat().st_size)
    return harmed(folder / "r", cut(f"registry/{largest}"), restored)


@fault("the agents' directory deleted", "between save and load")
def _(folder: Path) -> str:
    return harmed(saved(folder / "r"), lambda f: shutil.rmtree(f / "registry"), restored)


@fault("Chroma's database of 0 bytes", "between save and load")
def _(folder: Path) -> str:
    saved(folder / "r", chroma=True)
    path = "registry/chroma.sqlite3"
    return harmed(folder / "r", lambda f: (f / path).write_bytes(b""), restored)


@fault("Chroma's index files emptied", "between save and load")
def _(folder: Path) -> str:
    def harm(router: Path) -> None:
        for file in (router / "registry").glob("*/*"):
            file.write_bytes(b"")

    return harmed(saved(folder / "r", chroma=True), harm, nothing)


@fault("a save's temporary directory left behind", "between save and load")
def _(folder: Path) -> str:
    def harm(router: Path) -> None:
        (router / ".new-123").mkdir()
        (router / ".new-123" / "router.json").write_text("{")

    return harmed(saved(folder / "r"), harm, nothing)


CHILD = "import sys; sys.path[:0] = {path!r}; from faults import *; "


def child(code: str, *args: str, **given: object) -> subprocess.Popen[str]:
    code = CHILD.format(path=[str(Path(__file__).parent)]) + code
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", code, *args], text=True, stdout=subprocess.PIPE, **given
    )


@fault("kill -9", "at random moments of save()")
def _(folder: Path) -> str:
    path, bad = saved(folder / "r"), []
    code = (
        "r = MoMARouter.load(sys.argv[1], encoder=ENCODER); print('at it', flush=True)\n"
        "while True: r.save(sys.argv[1])"
    )
    for i in range(KILLS):
        running = child(code, str(path))
        running.stdout.readline()
        time.sleep(random.Random(i).uniform(0, 0.25))  # noqa: S311
        running.send_signal(signal.SIGKILL)
        running.communicate()
        found = lost(path)
        bad += [found] if found != "nothing" else []
    return f"nothing to see, {KILLS} of {KILLS} rounds || {bad or 'nothing'}"


@fault("kill -9", "at random moments of registering and switching, two processes")
def _(folder: Path) -> str:
    path, bad = saved(folder / "r", chroma=True), []
    code = (
        "r = made(Path(sys.argv[1])); n = 0\n"
        "while True:\n"
        " r.agents.add(AgentCard(f'{sys.argv[2]}{n}', 'zebra')); print(n, flush=True); n += 1"
    )
    for i in range(max(KILLS // 2, 1)):
        running = [child(code, str(path), f"{who}{i}-") for who in "pq"]
        first = [each.stdout.readline() for each in running]
        time.sleep(random.Random(i).uniform(0, 0.3))  # noqa: S311
        for each in running:
            each.send_signal(signal.SIGKILL)
        lines = [f + e.communicate()[0] for f, e in zip(first, running, strict=True)]
        with made(path) as router:
            for who, acknowledged in zip("pq", lines, strict=True):
                last = int(acknowledged.split()[-1])
                bad += [n for n in range(last + 1) if f"{who}{i}-{n}" not in router.agents]
    return f"nothing to see, {max(KILLS // 2, 1)} rounds || {bad or lost(path)}"


@fault("no room on the disk", "during save()")
def _(folder: Path) -> str:
    path = saved(folder / "r")
    code = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "r = MoMARouter.load(sys.argv[1], encoder=ENCODER)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "print(told(lambda: r.save(sys.argv[1])))"
    )
    return f"{child(code, str(path)).communicate()[0].strip()} || {lost(path)}"


@fault("no room on the disk", "while an agent is registered in Chroma")
def _(folder: Path) -> str:
    path = saved(folder / "r", chroma=True)
    code = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "r = MoMARouter.load(sys.argv[1], encoder=ENCODER)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "print(told(lambda: r.agents.add(AgentCard('new', 'zebra'))), flush=True); os._exit(0)"
    )
    return f"{child(code, str(path)).communicate()[0].strip()} || {lost(path)}"


@fault("too many open files", "while an agent is registered")
def _(folder: Path) -> str:
    path = saved(folder / "r", chroma=True)
    code = (
        "r = MoMARouter.load(sys.argv[1], encoder=ENCODER)\n"
        "n = len(os.listdir('/proc/self/fd'))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))\n"
        "print(told(lambda: r.agents.add(AgentCard('new', 'zebra'))), flush=True); os._exit(0)"
    )
    return f"{child(code, str(path)).communicate()[0].strip()} || {lost(path)}"


@fault("two processes register the same name with other words", "at once")
def _(folder: Path) -> str:
    one, other = made(folder / "r", refresh_every=None), made(folder / "r", refresh_every=None)
    one.agents.add(AgentCard("same", "first"))
    seen = told(lambda: other.agents.add(AgentCard("same", "second")))
    kept = one.agents.get("same").description
    return f"{seen} || {'nothing' if kept == 'first' else 'the first one'}"


@fault("two processes change other fields of one agent", "at once")
def _(folder: Path) -> str:
    one, other = made(folder / "r", refresh_every=None), made(folder / "r", refresh_every=None)
    one.agents.update(AgentCard("closed", "opera", examples=()))
    other.agents.update(AgentCard("closed", "opera singing", categories=("music",)))
    one.agents.refresh()
    card = one.agents.get("closed")
    both = card.description == "opera" and card.categories == ("music",)
    return f"both are kept || {'nothing' if both else card}"


@fault("another process disables an agent", "in use")
def _(folder: Path) -> str:
    one, other = made(folder / "r", refresh_every=0.2), made(folder / "r", refresh_every=None)
    one.route(ASKED)
    other.agents.disable("weather")
    start = time.monotonic()
    while one.route(ASKED).target == "weather" and time.monotonic() - start < 5:
        time.sleep(0.01)
    seconds = time.monotonic() - start
    one.close()
    within = seconds < 0.6
    return f"honoured after {seconds:.2f} s, asked every .2 s || {'nothing' if within else 'late'}"


@fault("the process forks", "after Chroma was used")
def _(folder: Path) -> str:
    router = made(folder / "r")
    router.route(ASKED)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        router.agents.disable("bank")
        os.write(write, router.route(ASKED).target.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    target = os.read(read, 100).decode()
    router.agents.refresh()
    held = target == "weather" and not router.agents.get("bank").enabled
    router.close()
    return f"the child routes and changes || {'nothing' if held else target}"


@contextmanager
def chroma(folder: Path, port: int | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
    program = str(Path(sys.executable).with_name("chroma"))
    command = [program, "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    time.sleep(0.5)
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.kill()
        server.wait()


@fault("no server", "at the start")
def _(folder: Path) -> str:
    return f"{told(lambda: made('http://127.0.0.1:9'))} || nothing"


@fault("a server that accepts and says nothing", "at the start, timeout of .5 s")
def _(folder: Path) -> str:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/?timeout=0.5"
        start = time.monotonic()
        seen = told(lambda: made(url))
        return f"after {time.monotonic() - start:.1f} s {seen} || nothing"


@fault("the server dies and comes back", "in use")
def _(folder: Path) -> str:
    with chroma(folder / "server") as (url, server):
        router = made(f"{url}/?timeout=1", refresh_every=None)
        server.kill()
        server.wait()
        routed = router.route(ASKED).target
        seen = told(lambda: router.agents.disable("bank"))
    with chroma(folder / "server", int(url.rsplit(":", 1)[1])):
        router.agents.disable("bank")
        other = made(url, refresh_every=None)
        held = routed == "weather" and not other.agents.get("bank").enabled
        other.close()
    router.close()
    return f"routes go on; {seen} || {'nothing' if held else 'a change'}"


@fault("the server lost its data", "in use")
def _(folder: Path) -> str:
    with chroma(folder / "server") as (url, _):
        router = made(f"{url}/?timeout=1", refresh_every=None)
    with chroma(folder / "empty", int(url.rsplit(":", 1)[1])):
        seen = told(router.agents.refresh)
        routed = router.route(ASKED).target
    router.close()
    return f"{seen} || {'nothing in memory' if routed == 'weather' else routed}"


@fault("Redis dies", "in use")
def _(folder: Path) -> str:
    program = shutil.which("redis-server")
    if program is None:
        return "not tried: no redis-server here || unknown"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(  # noqa: S603
        [program, "--port", str(port), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    time.sleep(0.5)
    router = made(cache=f"redis://127.0.0.1:{port}/0")
    router.route(ASKED)
    server.kill()
    server.wait()
    start = time.monotonic()
    target = router.route("wind rain").target
    seconds = time.monotonic() - start
    return f"one warning; the route took {seconds:.2f} s || {'nothing' if target else 'a route'}"


class Encoder(HashEncoder):
    """Breaks when told to."""

    broken = ""

    def encode(self, texts):  # noqa: D102
        vectors = super().encode(texts)
        if self.broken == "NaN":
            vectors[:] = np.nan
        if self.broken == "raises":
            raise RuntimeError("the encoder's device is gone")
        return vectors


@fault("the encoder gives NaN", "in use")
def _(folder: Path) -> str:
    encoder = Encoder()
    router = made(encoder=encoder, llms=None)
    encoder.broken = "NaN"
    seen = told(lambda: router.route(ASKED))
    added = told(lambda: router.agents.add(AgentCard("new", "zebra")))
    encoder.broken = ""
    held = router.route(ASKED).target == "weather" and "new" not in router.agents
    return f"{seen}; {added} || {'nothing' if held else 'an agent'}"


class Decider:
    """Answers what it is given."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def decide(self, query, cards, log_prior):  # noqa: D102
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@fault("the final decider gives NaN", "in use")
def _(folder: Path) -> str:
    router = made(decider=Decider([np.nan] * 2))
    seen = told(lambda: router.route(ASKED))
    router.agent_router.decider = None
    return f"{seen} || {'nothing' if router.route(ASKED).target == 'weather' else 'a route'}"


@fault("an agent fails three times", "in use")
def _(folder: Path) -> str:
    router = made(substitutes=False)
    for _ in range(3):
        router.health.report_failure("weather")
    decision = router.route(ASKED)
    router.health.report_success("weather")
    held = router.route(ASKED).target == "weather"
    return f"{decision.kind}: {decision.reason} || {'nothing' if held else 'the agent'}"


@fault("all agents disabled", "in use")
def _(folder: Path) -> str:
    router = made()
    router.agents.disable(*router.agents.names)
    return f"{router.route(ASKED).reason} || nothing"


@fault("nobody fits and there are no LLMs", "in use")
def _(folder: Path) -> str:
    return f"{told(lambda: made(llms=None).route('zebra okapi'))} || nothing"


@fault("a function told of changes raises", "in use")
def _(folder: Path) -> str:
    one, other = made(folder / "r", refresh_every=None), made(folder / "r", refresh_every=None)
    one.agents.on_change(lambda changes: 1 / 0)
    other.agents.disable("bank")
    changes = one.agents.refresh()
    held = changes.changed == ("bank",) and not one.agents.get("bank").enabled
    return f"logged, the change is taken || {'nothing' if held else changes}"


@fault("another encoder", "at load")
def _(folder: Path) -> str:
    saved(folder / "r")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        router = MoMARouter.load(folder / "r", encoder=HashEncoder(32))
    target = router.route(ASKED).target
    return f"warning: {warned[0].message} || {'nothing' if target == 'weather' else target}"


@fault("an agent with an LLM's name", "while registered")
def _(folder: Path) -> str:
    router = made()
    seen = told(lambda: router.agents.add(AgentCard("small", "zebra")))
    return f"{seen} || {'nothing' if 'small' not in router.agents else 'names'}"


@fault("the same agent twice in one list", "at the start")
def _(folder: Path) -> str:
    seen = told(lambda: MoMARouter.from_cards([CARDS[0], CARDS[0]], encoder=ENCODER))
    return f"{seen} || nothing"


@fault("a thread dies while others route", "in use")
def _(folder: Path) -> str:
    router, errors = made(cache=True), []

    def work(number: int) -> None:
        try:
            for i in range(200):
                router.route(f"rain snow {i % 20}")
                if number == 0 and i == 50:
                    raise SystemExit
        except MoMAError as error:
            errors.append(said(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    hang = any(thread.is_alive() for thread in threads)
    return f"nothing to see || {errors or ('a hang' if hang else 'nothing')}"


@fault("two bytes that are no query", "in use")
def _(folder: Path) -> str:
    return f"{told(lambda: made().route(b'hi'))} || nothing"


@fault("a router's directory that is a file", "at load")
def _(folder: Path) -> str:
    (folder / "r").write_text("no directory")
    return f"{told(lambda: MoMARouter.load(folder / 'r', encoder=ENCODER))} || nothing"


def main() -> None:
    global KILLS  # noqa: PLW0603 - the faults are functions of a directory alone
    asked = argparse.ArgumentParser()
    asked.add_argument("--kills", type=int, default=KILLS)
    asked.add_argument("words", nargs="*")
    given = asked.parse_args()
    KILLS = given.kills
    rows = []
    for what, when, run in FAULTS:
        if given.words and not any(word in f"{what} {when}" for word in given.words):
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                seen, _, gone_for_good = run(Path(folder)).rpartition(" || ")
            except Exception as error:  # noqa: BLE001 - what no typed error covers is the finding
                seen, gone_for_good = f"UNTYPED {said(error)}", "unknown"
        seen = seen.replace(folder, "DIR")
        rows.append({"what": what, "when": when, "seen": seen, "lost": gone_for_good,
                     "seconds": round(time.perf_counter() - start, 2)})  # fmt: skip
        print(f"| {what} | {when} | {seen:.160} | {gone_for_good} |", flush=True)
    held = sum(row["lost"].startswith("nothing") for row in rows)
    print(f"{held} of {len(rows)} lose nothing")
    if not given.words:
        report = {"kills": KILLS, "load": os.getloadavg()[0], "faults": rows}
        OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
