"""Where a graph can go: target names, the nodes that take them, and the decision between them.

A graph ends without a word when a node goes to a name it does not have. Here every name is known
when the graph is compiled, and a decision for any other name raises.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig

from langchain_moma.conversation import is_wordless, messages_in, query_of, some_query_of
from langchain_moma.decisions import (
    MoMARecord,
    dispatch,
    excluded_in,
    preference_in,
    record,
    state_in,
)
from langchain_moma.registered import check_registered, refuse_without_llms, unreachable
from langchain_moma.several import Several
from langchain_moma.telemetry import Telemetry
from moma_core import (
    InvalidInputError,
    InvalidQueryError,
    MoMARouter,
    NoTargetError,
    Preference,
    Query,
    UnknownNameError,
    parse_preference,
)

__all__ = ["Destinations", "Stop", "named_nodes"]

_NO_LLM = (
    "Add llm_node(llms) to the graph and write as_node(router, [...], llm='llm'), or name a node "
    "for such queries: default='sorry'."
)
_NO_WORDS = (
    "the user's last message has no words to route by, and no LLM can be reached. Name a node for "
    "such turns: llm='llm', or default='sorry'."
)


class Stop(NamedTuple):
    """One node to go to, and the target that it stands for; None for the default node."""

    node: str
    target: str | None


@dataclass(frozen=True)
class Destinations:
    """Target names and the graph nodes that take them.

    Args:
        router: Decides.
        nodes: Node of each target.
        llm: Node of every LLM without a node of its own, and of teams.
        default: Node for what nothing can take.
        preference: As in `MoMARouter.route`.
        telemetry: Receives the decisions.
        several: Whether a query may go to several agents.

    Raises:
        UnknownNameError: A name is not registered with the router.
        InvalidInputError: There is nowhere to go.
        InvalidPreferenceError: There is no such preference.
    """

    router: MoMARouter
    nodes: Mapping[str, str]
    llm: str | None
    default: str | None
    preference: str | Preference | None
    telemetry: Telemetry
    several: bool = False

    @classmethod
    def of(
        cls,
        router: MoMARouter,
        destinations: Sequence[str] | Mapping[str, str],
        llm: str | None,
        default: str | None,
        preference: str | Preference | None,
        telemetry: Telemetry | None,
        several: Several,
    ) -> Destinations:
        """Take what `as_node` and `as_edge` are given."""
        nodes, told = named_nodes(destinations), telemetry or Telemetry()
        return cls(router, nodes, llm, default, preference, told, several != "first")

    def __post_init__(self) -> None:
        check_registered(self.router, self.nodes)
        parse_preference(self.preference)
        if not self.names:
            raise InvalidInputError(
                "a router needs somewhere to go, got no destination. Name the nodes, for example "
                "as_node(router, ['calculator'], llm='chat')."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Every node that can be reached, once."""
        extra = [node for node in (self.llm, self.default) if node is not None]
        return tuple(dict.fromkeys([*self.nodes.values(), *extra]))

    def route(
        self, conversation: Any, before: Mapping[str, Any] | None, config: RunnableConfig
    ) -> tuple[list[Stop], MoMARecord]:
        """Decide where the graph goes, and return what to keep of it.

        A turn without words, such as a lone image, goes past the agents, who are known by words.

        Args:
            conversation: Text, messages, or a dict with them.
            before: What the last turn left.
            config: Of the running node.

        Raises:
            InvalidQueryError: There is nothing to route by, or no node for a turn without words.
            NoTargetError: Nothing fits and there is no default node.
            UnknownNameError: The router named something that has no node.
        """
        state = state_in(before)
        reachable = self.router, self.nodes
        out = unreachable(*reachable, any_llm=self.llm is not None) | excluded_in(config)
        query = _query(conversation, wordless := is_wordless(conversation))
        if wordless:
            out |= frozenset(self.router.agents.names)
        preference = preference_in(config, self.preference)
        start = time.perf_counter()
        try:
            decision = self.router.route(
                query, preference, state, exclude=out, several=self.several
            )
        except NoTargetError as error:
            if self.default is None:
                if wordless:
                    raise InvalidQueryError(_NO_WORDS) from error
                if self.llm is None:
                    refuse_without_llms(error, *reachable, _NO_LLM)
                raise
            ms = (time.perf_counter() - start) * 1e3
            self.telemetry.unrouted(str(error), ms, "node")
            return [Stop(self.default, None)], record(None, state, str(error), ms)
        ms = (time.perf_counter() - start) * 1e3
        self.telemetry.decided(decision, ms, "node")
        dispatch(decision.to_dict(), config)
        if decision.kind == "team":
            stops = [Stop(self._team_node(), None)]
        else:
            stops = [Stop(self.node_for(name, decision.kind), name) for name in decision.targets]
        return stops, record(decision, state, decision.reason, ms)

    def _team_node(self) -> str:
        if self.llm is None:
            raise UnknownNameError(
                "the router chose a team of LLMs, and there is no node that asks one. Add "
                "llm_node(llms) to the graph, and write as_node(router, [...], llm='llm')."
            )
        return self.llm

    def node_for(self, target: str, kind: str) -> str:
        """Return the node that takes ``target``.

        Raises:
            UnknownNameError: There is none.
        """
        node = self.nodes.get(target)
        if node is None and kind == "llm":
            node = self.llm
        if node is None:
            raise UnknownNameError(
                f"the router chose {target!r}, which has no node; the nodes are "
                f"{list(self.names)!r}. Add it to the destinations of as_node or as_edge."
            )
        return node


def _query(conversation: Any, wordless: bool) -> Query:
    return some_query_of(messages_in(conversation)) if wordless else query_of(conversation)


def named_nodes(destinations: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return the node of each target.

    Raises:
        InvalidInputError: They are no names.
    """
    if isinstance(destinations, str):
        raise InvalidInputError(
            f"destinations are a list of names, got one text. Write [{destinations!r}]."
        )
    if isinstance(destinations, Mapping):
        nodes = dict(destinations)
    else:
        nodes = {name: name for name in destinations or ()}
    for name in (*nodes, *nodes.values()):
        if not isinstance(name, str):
            raise InvalidInputError(
                f"destinations are names of agents and nodes, got {name!r:.60}. Write "
                "['calculator'] or {'calculator': 'sums'}."
            )
    return nodes
