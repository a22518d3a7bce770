"""How a decision travels: an event in the trace, a plain dict in a state; and which names exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, NotRequired

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_callback_manager_for_config
from langgraph.config import get_stream_writer
from typing_extensions import TypedDict

from moma_core import (
    InvalidInputError,
    MoMARouter,
    NoTargetError,
    Preference,
    RoutingDecision,
    RoutingState,
    UnknownNameError,
)
from moma_core.llms.selection import check_latency
from moma_core.types import did_you_mean, parse_preference

__all__ = [
    "DECISION_KEY",
    "EVENT",
    "EXCLUDE",
    "FALLBACK_EVENT",
    "PREFERENCE",
    "MoMARecord",
    "adispatch",
    "check_registered",
    "check_router",
    "check_wish",
    "decision_in",
    "dispatch",
    "excluded_in",
    "llm_names",
    "names_of",
    "plain_state",
    "preference_in",
    "record",
    "refuse_without_llms",
    "state_in",
    "unreachable",
]

DECISION_KEY = "moma_decision"
"""Key in an answer's ``response_metadata``, while the router learns: `RoutingDecision.to_dict`."""

EVENT = "moma.route"
"""Name of the custom event; its data is `RoutingDecision.to_dict`."""

FALLBACK_EVENT = "moma.fallback"
"""Name of the custom event when an LLM failed and the next one is asked."""

EXCLUDE = "moma_exclude"
"""Key under ``config["configurable"]`` with names that may not be chosen in one call."""

PREFERENCE = "moma_preference"
"""Key under ``config["configurable"]`` that sets the preference for one call."""


class MoMARecord(TypedDict):
    """What a routing node leaves in the graph's state: plain data, fit for any checkpointer.

    Example:
        >>> from moma_core import RoutingDecision
        >>> left = record(RoutingDecision("agent", ("weather",), 0.97), None, "it fits", 3.1)
        >>> left["decision"]["targets"], left["state"]["last_target"], left["reason"]
        (['weather'], None, 'it fits')
    """

    decision: dict[str, Any] | None
    """`RoutingDecision.to_dict`; None when nothing fitted and the default node took over."""

    state: dict[str, Any]
    """Conversation state for the next turn."""

    reason: str
    """Why, in words."""

    ms: float
    """Milliseconds that the route took."""

    asked: NotRequired[str | None]
    """Id of the human message that was routed by."""

    turn: NotRequired[str | None]
    """Several agents in order: the turn that is being worked on."""

    pending: NotRequired[list[str]]
    """Several agents in order: nodes still to visit."""


def record(
    decision: RoutingDecision | None, state: RoutingState | None, reason: str, ms: float
) -> MoMARecord:
    """Return plain data for a graph's state."""
    kept = decision.state if decision is not None else state or RoutingState()
    decided = decision.to_dict() if decision is not None else None
    # Nobody waits for an answer yet: an agent's node says so, or the next turn finds out.
    plain = {**plain_state(kept), "waiting_for": None}
    return {"decision": decided, "state": plain, "reason": reason, "ms": ms}


def plain_state(state: RoutingState) -> dict[str, Any]:
    """Return a conversation's routing state as plain data; `state_in` reads it back."""
    plain = asdict(state)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def decision_in(record: Mapping[str, Any] | BaseMessage | None) -> RoutingDecision | None:
    """Rebuild the decision that a graph's state or an answer holds, if any.

    ``decision_in(state["moma"])`` reads a node's record, ``decision_in(state["moma_turn"])`` the
    middleware's, and ``decision_in(answer)`` an AI message made while the router learns from use.

    Example:
        >>> from moma_core import RoutingDecision
        >>> plain = RoutingDecision("agent", ("weather",), 0.97).to_dict()
        >>> decision_in({"decision": plain}).target
        'weather'
        >>> decision_in(None) is None
        True
    """
    if isinstance(record, BaseMessage):
        found = record.response_metadata.get(DECISION_KEY)
    else:
        found = record.get("decision") if record else None
    return RoutingDecision.from_dict(found) if found else None


def state_in(record: Mapping[str, Any] | None) -> RoutingState | None:
    """Rebuild the conversation's routing state, if a turn left one.

    Raises:
        InvalidInputError: Something else lies in the record's place.
    """
    if not record:
        return None
    if not isinstance(record, Mapping):
        raise InvalidInputError(
            f"the router's record in the graph's state is a dict, got {record!r:.60}. Keep other "
            "things under another key."
        )
    return RoutingState.of(record["state"]) if record.get("state") else None


def preference_in(
    config: RunnableConfig | None, default: str | Preference | None
) -> str | Preference | None:
    """Return the preference set for this call, else ``default``."""
    chosen: str | Preference | None = ((config or {}).get("configurable") or {}).get(PREFERENCE)
    return default if chosen is None else chosen


def check_wish(preference: str | Preference | None, max_latency: float | None = None) -> Preference:
    """Return the preference that words mean, so that a slip shows when something is built.

    Raises:
        InvalidPreferenceError: There is no such preference, or the latency is no number.
    """
    check_latency(max_latency)
    return parse_preference(preference)


def excluded_in(config: RunnableConfig | None) -> frozenset[str]:
    """Return the names that may not be chosen in this call; a text is one name.

    Raises:
        InvalidInputError: They are no names.
    """
    return frozenset(names_of(((config or {}).get("configurable") or {}).get(EXCLUDE), EXCLUDE))


def names_of(names: Iterable[str] | str | None, parameter: str) -> tuple[str, ...]:
    """Return names given one by one, or as one text that is one name; None is none.

    Raises:
        InvalidInputError: They are no names.

    Example:
        >>> names_of("large-v2", "exclude"), names_of(["a", "b"], "exclude")
        (('large-v2',), ('a', 'b'))
    """
    if isinstance(names, str):
        return (names,)
    found = tuple(names or ()) if isinstance(names, Iterable) or not names else (names,)
    if not all(isinstance(name, str) for name in found):
        raise InvalidInputError(
            f"{parameter} takes names, got {names!r:.60}. Write {parameter}=['weather'], or leave "
            "it out."
        )
    return found


def dispatch(data: dict[str, Any], config: RunnableConfig, event: str = EVENT) -> None:
    """Send an event, `moma.route` by default, to whoever listens to this run.

    Callbacks get it as a custom event, ``graph.stream(stream_mode="custom")`` as ``{event: data}``.
    """
    _stream(event, data)
    if _inside_run(config):
        dispatch_custom_event(event, data, config=config)


async def adispatch(data: dict[str, Any], config: RunnableConfig, event: str = EVENT) -> None:
    """Send an event without blocking the loop."""
    _stream(event, data)
    if _inside_run(config):
        await adispatch_custom_event(event, data, config=config)


def _stream(event: str, data: dict[str, Any]) -> None:
    try:
        write = get_stream_writer()
    except (KeyError, RuntimeError):  # outside of any graph
        return
    write({event: data})


def _inside_run(config: RunnableConfig) -> bool:
    # A node called by hand, outside any graph, has no run to attach an event to.
    return get_callback_manager_for_config(config).parent_run_id is not None


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
