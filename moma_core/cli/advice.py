"""``moma agents lint``, ``moma agents tune``, ``moma report``: what would make routing better."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moma_core.cli.terminal import (
    HERE,
    JsonOption,
    PreferenceOption,
    RouterOption,
    answer,
    open_router,
    progress_bar,
    router_given,
    table,
)

if TYPE_CHECKING:
    from moma_core.router import MoMARouter
    from moma_core.training.tune import Tuning

__all__ = ["lint", "report", "tune"]

_SourceOption = Annotated[
    Path | None,
    typer.Option("--from", help="A table of agents instead of a saved router.", exists=True),
]


def lint(
    source: _SourceOption = None,
    router: RouterOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Find cards that make routing worse: overlaps, stolen examples, descriptions without words."""
    from moma_core.training.lint import lint as look

    with progress_bar() as tell:
        tell("opening", 0, 0)
        opened = _opened(source, router)
        found = look(opened, tell)
    rows = ((each.kind, each.agent, each.other, each.detail) for each in found)
    remedies = dict.fromkeys(f"{each.kind}: {each.remedy}" for each in found)
    said = f"{len(found)} findings in {len(opened.agents)} agents."
    shown = [table(("finding", "agent", "other", "seen"), rows)] if found else []
    plain = {"agents": len(opened.agents), "findings": [dataclasses.asdict(each) for each in found]}
    answer(as_json, plain, *shown, *remedies, said)


def _opened(
    source: Path | None, router: Path, llms: Literal["packaged"] | None = None
) -> MoMARouter:
    """Open the agents of a table in memory, or the saved router."""
    if source is None:
        return open_router(router)
    if router_given(router):
        raise typer.BadParameter("give either --from or --router, not both.")
    from moma_core.agents.data import read_agents
    from moma_core.router import MoMARouter

    return MoMARouter.from_cards(read_agents(source), llms=llms)


def tune(
    labelled: Annotated[
        Path,
        typer.Argument(
            help="A table of queries as users ask them: query, agents; no agents = none fits.",
            exists=True,
            dir_okay=False,
        ),
    ],
    picture: Annotated[
        Path | None, typer.Option(help="Draw what each threshold brings there (PNG or SVG).")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Give the router the advised negatives and save it.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    router: RouterOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Advise a threshold or negatives from labelled queries, measured on a third held out."""
    from moma_core.agents.data import read_queries
    from moma_core.training.tune import draw_tuning
    from moma_core.training.tune import tune as choose

    with progress_bar(router) as tell:
        tell("opening", 0, 0)
        opened = open_router(router)
        found = choose(opened, read_queries(labelled), seed, tell)
        if picture is not None:
            draw_tuning(found, picture)
        if apply and found.negatives:
            agents = opened.agent_router
            agents.set_negatives(agents.negatives.also(found.negatives, opened.encoder))
            opened.fit(tell)
            opened.save(router)
    shares = (
        (name, *(f"{value:.1%}" for value in dataclasses.astuple(each)))
        for name, each in (("before", found.before), ("after", found.after))
    )
    title = f"On {found.held_out} rows held out"
    shown = table(("", "right", "wrong agent", "missed"), shares, title)
    answer(as_json, found.to_dict(), shown, *_advice(found, apply))


def _advice(found: Tuning, apply: bool) -> list[str]:
    low, high = found.gain_range
    notes = [f"{found.known} rows were left out: the router knows them."] if found.known else []
    if found.min_probability is None and not found.negatives:
        return [*notes, "Leave it as it is: neither another threshold nor negatives gained."]
    what = f"min_probability={found.min_probability}"
    how = f"Type router.route(query, {what})."
    if found.negatives:
        what = f"{len(found.negatives)} negatives"
        how = "They are saved." if apply else "Type it again with --apply to have them saved."
    sure = "It pays." if found.pays else "Not certain yet: label more queries."
    return [*notes, f"{what}: {found.gain:+.1%} right ({low:+.1%} to {high:+.1%}). {sure}", how]


def report(
    queries: Annotated[
        Path,
        typer.Argument(
            help="A query a line, or a table: query and, where known, agents and conversation.",
            exists=True,
            dir_okay=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page, .html.", dir_okay=False)],
    source: _SourceOption = None,
    preference: PreferenceOption = "auto",
    several: Annotated[
        bool, typer.Option("--several", help="Divide queries that ask for several things.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most queries on the page.")] = 2_000,
    router: RouterOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Route queries and write a page that shows why each went where it did; needs no network."""
    from moma_core.training.report import explore, read_asked, write_report

    with progress_bar(out) as tell:
        tell("opening", 0, 0)
        asked = read_asked(queries)
        opened = _opened(source, router, llms="packaged")
        found = explore(opened, asked, preference, several=several, limit=limit, progress=tell)
        write_report(found, out)
    to_agents = sum(row["kind"] == "agent" for row in found["rows"])
    plain = {"report": str(out), "queries": len(found["rows"]), "to_agents": to_agents}
    said = f"{found['about']}: {to_agents} queries went to agents. Open {out} in a browser."
    answer(as_json, {**plain, "suggestions": dict(found["tips"])}, said)
