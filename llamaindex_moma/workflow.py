"""The right agent of an `AgentWorkflow` first, without an LLM hop; hand-offs to names that exist.

LlamaIndex starts every run at one root agent, whose LLM must then hand off by writing a name. Here
the router picks the first agent, and a hand-off says what is needed, never who.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llama_index.core.agent.workflow import AgentWorkflow
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import BaseTool, FunctionTool
from llama_index.core.workflow import Context
from workflows.handler import WorkflowHandler

from llamaindex_moma.cards import (
    add_example,
    agent_cards_from_workflow,
    register_cards,
    router_of,
)
from llamaindex_moma.events import MoMARouteEvent, send
from llamaindex_moma.threshold import CLOSED_LIST, check_min_probability, judged
from moma_core import Encoder, InvalidInputError, MoMARouter, NoTargetError, UnknownNameError
from moma_core.types import nearest

__all__ = [
    "HANDOFF_TOOL",
    "MoMAWorkflowRouter",
]

# No `from __future__ import annotations`: LlamaIndex finds a tool's Context by its annotation.


HANDOFF_TOOL = "pass_on"
"""Name of the tool by which an agent hands off through the router."""

_PASSED = "moma_passed"
_STAY = (
    "No other agent fits better. Do not pass this on again; answer the user yourself with what "
    "you have."
)
_GO_ON = "Now answer the user's request in full. What is asked for: {needed}"


class MoMAWorkflowRouter:
    """Picks which agent of a workflow takes a message.

    An agent is known by its description and by its tools, also those behind a ``tool_retriever``.

    Args:
        workflow: The workflow; its agents become agent cards.
        router: Receives a card for each agent, and keeps those it has; its other agents are never
            picked. None makes one.
        examples: Messages that each agent should take, by agent name.
        default: Name of the agent that takes what fits none; the workflow's root agent if None.
        min_probability: Least calibrated probability to pick another agent than the default one;
            None takes the router's own threshold.
        encoder: For the router made here; the packaged one by default.

    Raises:
        UnknownNameError: ``examples`` or ``default`` name an agent that is not there.
        InvalidInputError: ``min_probability`` is out of bounds, ``examples`` are not by name, or
            ``workflow`` is no `AgentWorkflow`.
    """

    def __init__(
        self,
        workflow: AgentWorkflow,
        router: MoMARouter | None = None,
        *,
        examples: Mapping[str, Sequence[str]] | None = None,
        default: str | None = None,
        min_probability: float | None = CLOSED_LIST,
        encoder: Encoder | None = None,
    ) -> None:
        if not isinstance(workflow, AgentWorkflow):
            raise InvalidInputError(
                f"an AgentWorkflow is expected, got {type(workflow).__name__}. Write "
                "MoMAWorkflowRouter(AgentWorkflow([agent, ...], root_agent='...'))."
            )
        check_min_probability(min_probability)
        self._workflow = workflow
        self._min_probability = min_probability
        self._default = workflow.root_agent if default is None else default
        if self._default not in workflow.agents:
            raise UnknownNameError(
                f"no agent is called {self._default!r}. {nearest(self._default, workflow.agents)}"
            )
        self._router = router or router_of([], encoder)
        register_cards(self._router, agent_cards_from_workflow(workflow, examples))

    @property
    def workflow(self) -> AgentWorkflow:
        """The workflow."""
        return self._workflow

    @property
    def router(self) -> MoMARouter:
        """Ranks; enable and disable agents by ``router.agents``."""
        return self._router

    def pick(
        self,
        message: str,
        *,
        among: Collection[str] | str | None = None,
        exclude: Collection[str] | str = (),
    ) -> str:
        """Return the name of the agent for a message; the default one when none fits.

        Args:
            message: The user's words.
            among: Names that may be picked; all of the workflow's agents if None. A text is one
                name.
            exclude: Names that may not be picked this time; a text is one name.

        Raises:
            NoTargetError: None of these fits, and the default is not among them.
            InvalidQueryError: ``message`` is blank.
        """
        among = {among} if isinstance(among, str) else among
        exclude = {exclude} if isinstance(exclude, str) else exclude
        allowed = self._workflow.agents if among is None else among
        names = [name for name in allowed if name not in exclude]
        picked = self._pick(message, names, self._default if self._default in names else None)
        if picked is None:
            raise NoTargetError(
                f"none of {names!r:.300} fits this message, and the default "
                f"{self._default!r} is not among them. Give examples of what each should take."
            )
        return picked

    async def start(
        self, user_msg: str | ChatMessage, *, ctx: Context[Any] | None = None, **kwargs: Any
    ) -> WorkflowHandler:
        """Run the workflow from the agent that fits: ``await (await router.start("..."))``.

        Args:
            user_msg: The user's message.
            ctx: Of the conversation so far. When no agent fits this message, the one that spoke
                last goes on.
            kwargs: For `AgentWorkflow.run`.

        Returns:
            LlamaIndex's handler: await it, or stream its events.
        """
        text = user_msg if isinstance(user_msg, str) else user_msg.content or ""
        going_on = await ctx.store.get("current_agent_name", default=None) if ctx else None
        default = going_on if going_on in self._workflow.agents else self._default
        picked = default
        if text.strip():
            names = self._workflow.agents
            picked = await asyncio.to_thread(self._pick, text, names, default) or default
        ctx = ctx or Context(self._workflow)
        await ctx.store.set("current_agent_name", picked)
        await ctx.store.set("next_agent", None)
        await ctx.store.set(_PASSED, {})
        return self._workflow.run(user_msg=user_msg, ctx=ctx, **kwargs)

    def learn(self, message: str, agent: str) -> None:
        """Remember that an agent should take messages like this one; the next pick knows it.

        Raises:
            UnknownNameError: There is no such agent.
        """
        add_example(self._router, agent, message)

    def route_handoffs(self) -> None:
        """Give the agents a tool to hand off by saying what is needed, in place of LlamaIndex's.

        Changes the workflow's agents: each one that may hand off gets the tool ``pass_on``, and
        ``can_handoff_to`` becomes empty, so that LlamaIndex offers no tool of its own. Who could
        hand off to whom stays as it was; nobody gets the same message twice in one run.

        Raises:
            InvalidInputError: An agent has a tool of that name already.
        """
        allowed = {name: self._may_follow(name) for name in self._workflow.agents}
        for name, agent in self._workflow.agents.items():
            tools = list(agent.tools or ())
            if any(isinstance(t, BaseTool) and t.metadata.name == HANDOFF_TOOL for t in tools):
                raise InvalidInputError(
                    f"agent {name!r} has a tool {HANDOFF_TOOL!r} already. Call route_handoffs() "
                    "once, or rename that tool."
                )
            if allowed[name]:
                agent.tools = [*tools, self._handoff_tool(allowed)]
            agent.can_handoff_to = []

    def _pick(self, message: str, names: Collection[str], default: str | None) -> str | None:
        """Return the agent that fits, or ``default``, and tell the dispatcher."""
        start = time.perf_counter()
        ranking = judged(self._router.rank(message, among=names), self._min_probability)
        picked = ranking[0].name if ranking.fits and ranking else default
        send(
            MoMARouteEvent.of_ranking(
                "agent",
                message,
                ranking,
                [picked] if picked else [],
                reason=ranking.reason or f"{picked!r} fits best",
                fallback=not ranking.fits,
                ms=(time.perf_counter() - start) * 1e3,
            )
        )
        return picked

    def _may_follow(self, name: str) -> list[str]:
        wanted = self._workflow.agents[name].can_handoff_to
        others = [other for other in self._workflow.agents if other != name]
        return others if wanted is None else [other for other in others if other in wanted]

    def _handoff_tool(self, allowed: Mapping[str, Sequence[str]]) -> FunctionTool:
        async def pass_on(ctx: Context[Any], needed: str) -> str:
            current: str = await ctx.store.get("current_agent_name")
            message: str = await ctx.store.get("user_msg_str", default="")
            passed = await ctx.store.get(_PASSED, default={})
            passed_by: list[str] = passed.get("by", []) if passed.get("message") == message else []
            free = [name for name in allowed[current] if name not in passed_by]
            following = None
            if needed.strip() and free:
                following = await asyncio.to_thread(self._pick, needed, free, None)
            if following is None:
                return _STAY
            await ctx.store.set(_PASSED, {"message": message, "by": [*passed_by, current]})
            await ctx.store.set("next_agent", following)
            return _GO_ON.format(needed=needed)

        return FunctionTool.from_defaults(
            async_fn=pass_on,
            name=HANDOFF_TOOL,
            description="Pass the request on when it needs what you cannot do. Say in `needed` "
            "what is needed, in one sentence; the agent that fits goes on.",
        )
