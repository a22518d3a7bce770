"""Which names a router may answer with, beside which names somebody can invoke.

A decision must name something that runs: names without a target are excluded from each route, and
names that no router knows are refused when the adapter is built.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from moma_core import InvalidInputError, MoMARouter, NoTargetError, UnknownNameError

__all__ = [
    "check_registered",
    "check_router",
    "did_you_mean",
    "llm_names",
    "refuse_without_llms",
    "unreachable",
]


def check_router(router: object) -> None:
    """Refuse what cannot route.

    Raises:
        InvalidInputError: It has no ``route``.

    Example:
        >>> check_router("weather")
        Traceback (most recent call last):
        moma_core.errors.InvalidInputError: router must be a MoMARouter, got str. ...
    """
    if not callable(getattr(router, "route", None)):
        raise InvalidInputError(
            f"router must be a MoMARouter, got {type(router).__name__}. Build one: "
            "MoMARouter.from_cards(cards)."
        )


def llm_names(router: MoMARouter) -> tuple[str, ...]:
    """Return the names of the router's LLMs; empty when it has none."""
    return tuple(card.name for card in router.llms.cards) if router.llms is not None else ()


def unreachable(
    router: MoMARouter, reachable: Collection[str], *, any_llm: bool = False
) -> frozenset[str]:
    """Return the registered names that nobody here can invoke.

    Args:
        router: Asked anew at each call, since agents come and go.
        reachable: Names that can be invoked.
        any_llm: Whether every LLM can be invoked.
    """
    names = set(router.agents.names)
    if not any_llm:
        names.update(llm_names(router))
    return frozenset(names.difference(reachable))


def refuse_without_llms(
    error: NoTargetError, router: MoMARouter, reachable: Collection[str], remedy: str
) -> None:
    """Say so where a query found no target because no LLM of the router can be invoked here.

    Args:
        error: What the router raised.
        router: Has LLMs, or not.
        reachable: Names that can be invoked.
        remedy: What to write; ``{llm!r}`` in it becomes the name of one of the LLMs.

    Raises:
        NoTargetError: None of the router's LLMs is reachable.
    """
    names = llm_names(router)
    if names and not set(names).intersection(reachable):
        raise NoTargetError(
            f"no agent takes the query, and none of the router's {len(names)} LLMs has a target "
            f"here: {sorted(reachable)!r} holds no LLM. {remedy.format(llm=names[0])}"
        ) from error


def check_registered(
    router: MoMARouter, names: Collection[str], *, agents: bool = True, llms: bool = True
) -> None:
    """Refuse names that the router can never answer with, most often a slip of the pen.

    Args:
        router: Knows its agents and LLMs.
        names: To be checked.
        agents: Whether they may be agents.
        llms: Whether they may be LLMs.

    Raises:
        InvalidInputError: It is no router.
        UnknownNameError: A name is neither an agent nor an LLM of this router.
    """
    check_router(router)
    known = (*(router.agents.names if agents else ()), *(llm_names(router) if llms else ()))
    what = " and ".join(["no agent"] * agents + ["no LLM"] * llms)
    for name in sorted(set(names).difference(known)):
        raise UnknownNameError(
            f"{what} is called {name!r}, so it would never be chosen. "
            f"{''.join(_remedies(name, known, agents=agents))}"
        )


def did_you_mean(name: object, known: Collection[str]) -> str:
    """Ask whether the nearest known name was meant; empty where none is near.

    Example:
        >>> did_you_mean("gpt-4o-mni", ["gpt-4o-mini", "o3"])
        "Did you mean 'gpt-4o-mini'? "
    """
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"Did you mean {close[0]!r}? " if close else ""


def _remedies(name: str, known: Collection[str], *, agents: bool) -> Iterator[str]:
    yield did_you_mean(name, known)
    if agents:
        yield "Register it first: router.agents.add(AgentCard(...)), or leave it out."
    elif not known:
        yield "The router has no LLMs. Give it some: MoMARouter.from_cards(cards)."
    else:
        yield (
            f"The router's LLMs are {sorted(known)!r}. To add one without any data: "
            f"router.save('pool'), then moma llms add {name!r} --input USD --output USD "
            "--quality SCORE --router pool, then MoMARouter.load('pool'); or train a pool: moma "
            "train llms."
        )
