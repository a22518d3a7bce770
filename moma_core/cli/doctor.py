"""``moma doctor``: is everything there, whole, reachable and fast, and what to do if not."""

from __future__ import annotations

import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from moma_core.cli.terminal import (
    HERE,
    JsonOption,
    RouterOption,
    answer,
    open_router,
    router_exists,
    table,
)
from moma_core.errors import MoMAError

if TYPE_CHECKING:
    from moma_core.router import MoMARouter

__all__ = ["doctor"]


@dataclass(frozen=True, slots=True)
class _Finding:
    about: str
    found: str
    state: Literal["ok", "hint", "wrong"] = "ok"


def doctor(
    router: RouterOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Check versions, packaged weights, the router's files, its registry and its speed.

    The exit status is 1 if something is wrong; hints do not count.
    """
    findings = [*_versions(), *_weights(), *_router(router)]
    rows = ((each.about, each.found, each.state) for each in findings)
    plain = {"findings": [asdict(each) for each in findings]}
    answer(as_json, plain, table(("what", "found", ""), rows))
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


def _versions() -> Iterator[_Finding]:
    own = f"moma-router {version('moma-router')}, Python {platform.python_version()}"
    yield _Finding("program", f"{own}, {platform.system()}, {os.cpu_count()} cores")
    needed: dict[str, bool] = {}  # an extra's packages stand in [all] once more
    for wanted in requires("moma-router") or ():
        needed.setdefault(_head(wanted), "extra == " not in wanted)
    for name, always in needed.items():
        try:
            yield _Finding(name, version(name))
        except PackageNotFoundError:
            if always:
                yield _Finding(name, 'missing. Type: pip install "moma-router"', "wrong")


def _head(requirement: str) -> str:
    return next(
        (requirement[:i] for i, c in enumerate(requirement) if c in "<>=!~;[ "), requirement
    )


def _weights() -> Iterator[_Finding]:
    """Open what is packaged; each part compares its hash when it is opened."""
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.router import LLMRouter
    from moma_core.router import MoMARouter
    from moma_core.types import AgentCard

    cards = [AgentCard("weather", "Forecast for a place"), AgentCard("bank", "Shows balances")]
    parts: tuple[tuple[str, Callable[[], object]], ...] = (
        ("packaged encoder", lambda: RoutingEncoder().encode(["ready?"])),
        ("packaged reranker", lambda: MoMARouter.from_cards(cards, llms=None).rank("rain?")),
        ("packaged LLM pool", LLMRouter.packaged),
    )
    for about, opened in parts:
        start = time.perf_counter()
        try:
            opened()
        except (MoMAError, OSError, ValueError) as error:
            yield _Finding(about, f"{error}", "wrong")
        else:
            yield _Finding(about, f"whole, open in {time.perf_counter() - start:.2f} s")


def _router(folder: Path) -> Iterator[_Finding]:
    if not router_exists(folder) and not (folder / "registry").is_dir():
        yield _Finding("router", f"none in {folder} yet: moma agents add NAME DESCRIPTION", "hint")
        return
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            router = open_router(folder)
        except MoMAError as error:
            yield _Finding("router", str(error), "wrong")
            return
    yield _Finding("router", f"{folder}, whole, open in {time.perf_counter() - start:.2f} s")
    for each in warned:
        yield _Finding("router", str(each.message), "hint")
    with router:
        yield from _agents(router)
        yield from _speed(router)


def _agents(router: MoMARouter) -> Iterator[_Finding]:
    cards = list(router.agents)
    place = getattr(router.agents.registry, "location", "memory")
    off = [card.name for card in cards if not card.enabled]
    bare = [card.name for card in cards if not card.examples]
    try:
        start = time.perf_counter()
        router.agents.refresh()
        seconds = time.perf_counter() - start
        yield _Finding("registry", f"{len(cards)} agents in {place}, read in {seconds:.2f} s")
    except MoMAError as error:
        yield _Finding("registry", str(error), "wrong")
    if off:
        yield _Finding("agents", f"{len(off)} are disabled: {_some(off)}", "hint")
    if bare:
        more = "a few queries each make them surer: moma agents update NAME -e QUERY"
        yield _Finding("agents", f"{len(bare)} have no examples ({_some(bare)}); {more}", "hint")
    if router.llms is None:
        yield _Finding("LLMs", "none: a query that no agent fits is an error", "hint")
    else:
        yield _Finding("LLMs", f"{len(router.llms.names)}: {_some(list(router.llms.names))}")
    if router.states.states:
        yield _Finding("states", f"{len(router.states.states)}, they hold together")


_ASKED = ("will it rain in Oslo tomorrow?", "book a table for two", "prove that 2 + 2 = 4")
_ROUNDS = 5


def _speed(router: MoMARouter) -> Iterator[_Finding]:
    start = time.perf_counter()
    router.rank(_ASKED[0])
    first = time.perf_counter() - start
    encode, route = [], []
    for text in _ASKED * _ROUNDS:
        start = time.perf_counter()
        router.encoder.encode([text])
        middle = time.perf_counter()
        router.rank(text)
        encode.append(middle - start)
        route.append(time.perf_counter() - middle)
    times = (statistics.median(encode) * 1e3, statistics.median(route) * 1e3, max(route) * 1e3)
    shown = "encoder {:.1f} ms, ranking {:.1f} ms, slowest {:.1f} ms".format(*times)
    yield _Finding("speed", f"{shown}; the first one took {first:.2f} s")
    if first > 1.0:
        why = "agents that changed since are fitted when first asked; save the router once fitted"
        yield _Finding("speed", why, "hint")


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
