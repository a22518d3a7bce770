"""A Runnable that first routes, then hands the call to what was chosen.

One run in the trace is its own; the target's run is its child. Config, keyword arguments,
streaming, async and batches reach the target as if it had been called directly.
"""

# ruff: noqa: ARG002  # LangChain passes `run_manager` by its name, needed or not
from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableSerializable, coerce_to_runnable
from langchain_core.runnables.graph import Graph
from langchain_core.runnables.utils import get_unique_config_specs
from pydantic import ConfigDict, Field, SkipValidation

from langchain_moma.call_forms import alone
from langchain_moma.conversation import RouterInput, query_of
from langchain_moma.decisions import (
    EXCLUDE,
    PREFERENCE,
    adispatch,
    dispatch,
    excluded_in,
    preference_in,
)
from langchain_moma.registered import check_registered, refuse_without_llms, unreachable
from langchain_moma.several import InOrder, Several, at_once, check_several
from langchain_moma.targets import Arguments, Targets
from langchain_moma.team_target import team_answer
from langchain_moma.telemetry import Telemetry
from moma_core import MoMARouter, NoTargetError, Preference, UnknownNameError, parse_preference

__all__ = ["RunnableRouter"]

_NO_LLM = (
    "Give a chat model under an LLM's name, targets={{{llm!r}: chat_model}}, or what takes such "
    "queries: default=chat_model."
)


class _Call(NamedTuple):
    """What to invoke, with what, and the decision as plain data."""

    target: Runnable[Any, Any]
    value: Any
    options: dict[str, Any]
    event: dict[str, Any]


class RunnableRouter(RunnableSerializable[RouterInput, Any]):
    """Sends each input to the agent, tool or chat model that the router chooses.

    Routes by the last human text; earlier human turns are its history. Registered names without a
    target here are never chosen. A chat model gets text or messages, a graph over messages
    ``{"messages": [...]}``, a tool its arguments, anything else the input as it came.

    With ``several``, a query that asks for several things may go to several agents, and the output
    is always a dict from each target's name to its output, in the order of the decision; streaming
    gives such dicts with one chunk each, which add up (a graph comes as one chunk). A decision for
    a team of LLMs gives the team's answer, as one LLM would, under the name ``team``.

    Args:
        router: Decides.
        targets: What runs under each name: Runnable, chat model, tool, compiled graph or function.
        arguments: For tools that need more than one text: name -> function from the query's text
            to the dict of arguments.
        default: Takes what neither an agent nor an LLM can take.
        preference: ``"performance"``, ``"auto"``, ``"cost"`` or a `Preference`; for one call:
            ``config={"configurable": {"moma_preference": "cost"}}``; likewise ``moma_exclude``, a
            list of names that may not be chosen in one call.
        several: ``"first"``: one target, whose output is the output. ``"in_order"``: one after the
            other, each with the answers so far below the user's words. ``"parallel"``: all at
            once, each with the input alone.
        telemetry: Counters.

    Raises:
        UnknownNameError: A target's name is not registered with the router.
        ToolArgumentsError: A tool needs an entry in ``arguments``.
        InvalidInputError: There is no target, one cannot be run, or no such ``several``.
        InvalidPreferenceError: There is no such preference.
        NoTargetError: Nothing could take the input, and there is no default.

    Example:
        >>> from moma_core import AgentCard, MoMARouter
        >>> card = AgentCard("shout", "Put text in capitals", examples=("write hello in capitals",))
        >>> router = MoMARouter.from_cards([card], llms=None)
        >>> chain = RunnableRouter(router=router, targets={"shout": str.upper}, default=len)
        >>> chain.invoke("write hello in capitals")
        'WRITE HELLO IN CAPITALS'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    router: SkipValidation[MoMARouter] = Field(exclude=True, repr=False)
    targets: SkipValidation[Targets] = Field(exclude=True)
    default: SkipValidation[Runnable[Any, Any] | None] = Field(default=None, exclude=True)
    preference: SkipValidation[str | Preference | None] = None
    several: SkipValidation[Several] = "first"
    telemetry: SkipValidation[Telemetry] = Field(exclude=True, repr=False)

    def __init__(
        self,
        *,
        router: MoMARouter,
        targets: Mapping[str, Any],
        arguments: Mapping[str, Arguments] | None = None,
        default: Any = None,
        preference: str | Preference | None = None,
        several: Several = "first",
        telemetry: Telemetry | None = None,
        name: str | None = None,
    ) -> None:
        check_several(several)
        parse_preference(preference)
        # configurable_fields() builds this class anew at each call: by then agents may have been
        # removed from the router, which must not break a running program.
        if not isinstance(targets, Targets):
            check_registered(router, targets)
            targets = Targets(targets, arguments)
        fields: dict[str, Any] = {
            "router": router,
            "targets": targets,
            "default": None if default is None else coerce_to_runnable(default),
            "preference": preference,
            "several": several,
            "telemetry": telemetry or Telemetry(),
            "name": name,
        }
        super().__init__(**fields)

    @property
    def OutputType(self) -> Any:  # noqa: N802  # LangChain's name
        """A dict from names to outputs where there may be several, else anything."""
        return Any if self.several == "first" else dict[str, Any]

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """Preference and exclusions for one call, and whatever the targets let one configure."""
        wanted = ConfigurableFieldSpec(
            id=PREFERENCE,
            annotation=Any,
            name="Preference",
            description="performance, auto or cost",
            default=self.preference,
        )
        unwanted = ConfigurableFieldSpec(
            id=EXCLUDE,
            annotation=Any,
            name="Exclude",
            description="names that may not be chosen",
            default=(),
        )
        children = (spec for child in self._children.values() for spec in child.config_specs)
        return get_unique_config_specs([wanted, unwanted, *children])

    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        """Draw the router with an edge to each target."""
        graph = Graph()
        first = graph.add_node(self.get_input_schema(config))
        router = graph.add_node(self, self.get_name())
        last = graph.add_node(self.get_output_schema(config))
        graph.add_edge(first, router)
        for name, child in self._children.items():
            node = graph.add_node(child, name)
            graph.add_edge(router, node, conditional=True)
            graph.add_edge(node, last)
        return graph

    def invoke(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Route, then invoke the target."""
        return self._call_with_config(self._invoke, input, config, **kwargs)

    async def ainvoke(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Route in a thread, then await the target."""
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    def stream(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Route, then pass on the target's chunks as they come."""
        yield from self._transform_stream_with_config(iter([input]), self._stream, config, **kwargs)

    async def astream(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Route in a thread, then pass on the target's chunks as they come."""
        chunks = self._atransform_stream_with_config(alone(input), self._astream, config, **kwargs)
        async for chunk in chunks:
            yield chunk

    @property
    def _children(self) -> dict[str, Runnable[Any, Any]]:
        default = {} if self.default is None else {"default": self.default}
        return {**self.targets, **default}

    def _route(self, value: RouterInput, config: RunnableConfig, options: dict[str, Any]) -> _Call:
        out = unreachable(self.router, self.targets) | excluded_in(config)
        preference, several = preference_in(config, self.preference), self.several != "first"
        start = time.perf_counter()
        try:
            decision = self.router.route(query_of(value), preference, exclude=out, several=several)
        except NoTargetError as error:
            if self.default is None:
                refuse_without_llms(error, self.router, self.targets, _NO_LLM)
                raise
            ms = (time.perf_counter() - start) * 1e3
            self.telemetry.unrouted(str(error), ms, "runnable")
            event = {"kind": "default", "targets": [], "reason": str(error)}
            default = Targets({"default": self.default})
            return self._call(default, ["default"], value, options, event)
        self.telemetry.decided(decision, (time.perf_counter() - start) * 1e3, "runnable")
        for name in decision.targets:
            if name not in self.targets:
                raise UnknownNameError(
                    f"the router chose {name!r}, which has no target; the targets are "
                    f"{sorted(self.targets)!r}. Add it to the targets of RunnableRouter."
                )
        targets, names = self.targets, decision.targets
        if decision.team is not None:
            cards = self.router.llms.cards if self.router.llms is not None else ()
            team = team_answer(decision.team, self.targets, cards)
            targets, names = Targets({"team": team}), ("team",)
        return self._call(targets, names, value, options, decision.to_dict())

    def _call(
        self,
        targets: Targets,
        names: Sequence[str],
        value: RouterInput,
        options: dict[str, Any],
        event: dict[str, Any],
    ) -> _Call:
        if self.several == "in_order":
            return _Call(InOrder(targets, names), value, options, event)
        if self.several == "parallel":
            return _Call(at_once(targets, names, value, options), value, {}, event)
        first = names[0]
        return _Call(targets[first], targets.input_for(first, value), options, event)

    # The callbacks of this `config` already hang below our own run.
    def _invoke(
        self, value: RouterInput, run_manager: object, config: RunnableConfig, **kwargs: Any
    ) -> Any:
        call = self._route(value, config, kwargs)
        dispatch(call.event, config)
        return call.target.invoke(call.value, config, **call.options)

    async def _ainvoke(
        self, value: RouterInput, run_manager: object, config: RunnableConfig, **kwargs: Any
    ) -> Any:
        call = await asyncio.to_thread(self._route, value, config, kwargs)
        await adispatch(call.event, config)
        return await call.target.ainvoke(call.value, config, **call.options)

    def _stream(
        self,
        values: Iterator[RouterInput],
        run_manager: object,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Any]:
        call = self._route(next(values), config, kwargs)
        dispatch(call.event, config)
        yield from call.target.stream(call.value, config, **call.options)

    async def _astream(
        self,
        values: AsyncIterator[RouterInput],
        run_manager: object,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        call = await asyncio.to_thread(self._route, await anext(values), config, kwargs)
        await adispatch(call.event, config)
        async for chunk in call.target.astream(call.value, config, **call.options):
            yield chunk
