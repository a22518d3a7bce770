"""20-turn conversations over 150 tools: what each way of binding them does to the prompt cache.

    python benchmarks/prompt_cache.py [--seed 0] [--talks 6] [--router DIR] [--out FILE.json]

150 of MetaTool's tools as stubs, a router fitted on at most 20 train rows each, the other train
rows as turns: what the middleware's two thresholds were chosen on were val rows.
In a "topical" conversation seven turns in ten come back to a tool wanted before; in a "wide" one
every turn draws anew. Real agents with a checkpointer, scripted chat models: each turn is a call of
the wanted tool if it is bound, a result of 600 characters, and an answer. A prompt is tools, system
prompt, messages, in that order, as providers cache it; tokens are characters / 4. "small" tools
have one argument, "large" ones as many words as a usual MCP tool. "deferred" is asked of an LLM
that says it is Anthropic's: deferred tools count where a tool_reference shows them. Cached are the
tokens equal to the call before from the first on; the first call finds nothing. The rival's
selecting LLM is scripted to be always right, so its right tool is no finding; its own calls are
paid for. Data: MOMA_DATA.
"""

# ruff: noqa: ARG001, ARG002, S311  # scripted replies and seeded draws
from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from langchain.agents import create_agent
from langchain.agents.middleware import LLMToolSelectorMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from threadpoolctl import threadpool_limits

from langchain_moma import MoMAMiddleware, agent_cards_from_tools
from langchain_moma.deferred_tools import SEARCH, referenced
from langchain_moma.testing import ScriptedChat
from moma_core import MoMARouter
from moma_core.agents.data import LabelledQueries, read_agents, read_queries

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
DEFER = "defer_loading"
TOOLS, TURNS, PICKS, EXAMPLES = 150, 20, 8, 20
STAYS = 0.7  # chance that a topical turn wants a tool that was wanted before
SYSTEM = "You are a careful assistant. Use a tool where one fits. " * 20
RESULT = "The tool found what was asked for, in some detail. " * 12
ANSWER = "Here is what you asked for. " * 10
PRICES = {"cached_10_percent": (2.5, 0.25), "cached_50_percent": (2.5, 1.25)}  # USD a million
BINDS = ("all", "turn", "stable", "deferred")


class Turn(NamedTuple):
    """What the user says, and the tool that it wants."""

    text: str
    tool: str


def rows(names: set[str]) -> tuple[dict[str, list[str]], list[Turn]]:
    """Return examples for each tool, and the turns that the router does not know."""
    import pyarrow.parquet as pq

    path = DATA / "metatool_queries.parquet"
    queries: LabelledQueries = read_queries(path)
    parts = pq.read_table(path)["split"].to_pylist()
    examples: dict[str, list[str]] = {name: [] for name in names}
    turns = []
    for text, wanted, part in zip(queries.texts, queries.agents, parts, strict=True):
        if part != "train" or len(wanted) != 1 or wanted[0] not in names:
            continue
        if len(examples[wanted[0]]) < EXAMPLES:
            examples[wanted[0]].append(text)
        else:
            turns.append(Turn(text, wanted[0]))
    return examples, turns


def talks(kind: str, turns: Sequence[Turn], n: int, seed: int) -> Iterator[list[Turn]]:
    """Yield conversations."""
    draw = random.Random(seed)
    by_tool: dict[str, list[Turn]] = {}
    for turn in turns:
        by_tool.setdefault(turn.tool, []).append(turn)
    for _ in range(n):
        said: list[Turn] = []
        for _ in range(TURNS):
            stays = kind == "topical" and said and draw.random() < STAYS
            pool = [turn.tool for turn in said] if stays else sorted(by_tool)
            said.append(draw.choice(by_tool[draw.choice(pool)]))
        yield said


def stub(name: str, about: str, size: str) -> BaseTool:
    def run(**_: Any) -> str:
        return RESULT

    words = {"text": {"type": "string", "description": "what to work on"}}
    if size == "large":
        hint = f"an optional setting of this tool, which says: {about[:60]}; leave it out if unsure"
        words |= {f"option_{i}": {"type": "string", "description": hint} for i in range(6)}
    schema = {"type": "object", "properties": words, "required": ["text"]}
    return StructuredTool(name=name, description=about, args_schema=schema, func=run)


class Meter:
    """Counts the prompts of one chat model in one conversation."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.shares: list[float] = []
        self.fresh = self.cached = self.bound = 0

    def saw(self, tools: Sequence[Any], messages: Sequence[BaseMessage]) -> None:
        """Count one prompt."""
        hidden = {tool["function"]["name"]: json.dumps(tool) for tool in tools if DEFER in tool}
        prompt = [json.dumps(tool) for tool in tools if DEFER not in tool]
        shown = referenced(messages)
        self.bound += len(prompt) + len(shown)
        for m in messages:
            prompt.append(f"{m.type}: {m.text} {getattr(m, 'tool_calls', '')}")
            prompt += [hidden[name] for name in referenced([m])]
        equal = 0
        for old, new in zip(self.before, prompt, strict=False):
            equal += same(old, new)
            if old != new:
                break
        if self.before:
            self.shares.append(equal / sum(map(len, self.before)))
        self.cached += equal // 4
        self.fresh += (sum(map(len, prompt)) - equal) // 4
        self.before = prompt


def same(old: str, new: str) -> int:
    """Return how many characters two texts share from the first on."""
    if old == new:
        return len(old)
    pairs = enumerate(zip(old, new, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))


def chatting(
    meter: Meter, wanted: dict[str, str], right: list[bool], *, reveals: bool
) -> ScriptedChat:
    """Return a chat model that calls the wanted tool, and answers when it is told the result."""

    def reply(messages: Any, tools: Any, choice: Any) -> AIMessage:
        meter.saw(tools, messages)
        if isinstance(messages[-1], ToolMessage) and messages[-1].name != SEARCH:
            return AIMessage(ANSWER)
        bound = [tool["function"]["name"] for tool in tools if DEFER not in tool]
        bound = [*referenced(messages), *(name for name in bound if name != SEARCH)]
        name = wanted[next(m for m in reversed(messages) if isinstance(m, HumanMessage)).text]
        right.append(name in bound)
        made = {"name": name if right[-1] else bound[0], "args": {"text": "x"}}
        return AIMessage("", tool_calls=[{**made, "id": f"c{len(messages)}", "type": "tool_call"}])

    return (Revealing if reveals else ScriptedChat)(reply=reply)


class Revealing(ScriptedChat):
    """Says that it is Anthropic's, and keeps which tools are deferred."""

    @property
    def _llm_type(self) -> str:
        return "anthropic-chat"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        """Bind tools as LangChain's package does, with what they say of deferral."""
        marks = [{DEFER: True} if (tool.extras or {}).get(DEFER) else {} for tool in tools]
        made = [{**convert_to_openai_tool(t), **m} for t, m in zip(tools, marks, strict=True)]
        return self.bind(tools=made)


def selecting(meter: Meter, wanted: dict[str, str], names: list[str], seed: int) -> Any:
    """Return LangChain's own selector over an LLM that is always right."""
    draw = random.Random(seed)

    def reply(messages: Any, tools: Any, choice: Any) -> AIMessage:
        meter.saw(tools, messages)
        picked = [wanted[messages[-1].text], *draw.sample(names, PICKS - 1)]
        made = {"name": tools[0]["function"]["name"], "args": {"tools": picked}}
        return AIMessage("", tool_calls=[{**made, "id": "s", "type": "tool_call"}])

    return LLMToolSelectorMiddleware(model=ScriptedChat(reply=reply), max_tools=PICKS)


def measured(
    said: Sequence[Sequence[Turn]],
    tools: list[BaseTool],
    middleware: Callable[[Meter, dict[str, str]], Any],
    *,
    reveals: bool = False,
) -> dict[str, Any]:
    """Run conversations and count."""
    right: list[bool] = []
    shares: list[float] = []
    fresh = cached = bound = calls = chosen = 0
    for talk in said:
        wanted = {turn.text: turn.tool for turn in talk}
        main, other = Meter(), Meter()
        agent = create_agent(
            chatting(main, wanted, right, reveals=reveals),
            tools,
            system_prompt=SYSTEM,
            middleware=[middleware(other, wanted)],
            checkpointer=InMemorySaver(),
        )
        for turn in talk:
            agent.invoke({"messages": turn.text}, {"configurable": {"thread_id": "1"}})
        shares += main.shares
        fresh, cached = fresh + main.fresh + other.fresh, cached + main.cached + other.cached
        bound, calls = bound + main.bound, calls + len(main.shares) + 1
        chosen += len(other.shares) + bool(other.before)
    usd = {k: (fresh * a + cached * b) / 1e6 / len(said) for k, (a, b) in PRICES.items()}
    return {
        "prefix_equal_mean": sum(shares) / len(shares),
        "calls_with_90_percent_equal": sum(share >= 0.9 for share in shares) / len(shares),
        "right_tool_bound": sum(right) / len(right),
        "tools_bound_mean": bound / calls,
        "llm_calls_to_choose": chosen / len(said),
        "uncached_tokens_per_talk": fresh / len(said),
        "cached_tokens_per_talk": cached / len(said),
        "input_usd_per_talk": usd,
    }


def compared(
    kind: str, size: str, router: MoMARouter, turns: list[Turn], options: argparse.Namespace
) -> dict[str, Any]:
    """Return every way's figures over the same conversations."""
    tools = [stub(card.name, card.description, size) for card in router.agents]
    said = list(talks(kind, turns, options.talks, options.seed))
    names = [tool.name for tool in tools]

    def middleware(way: str, meter: Meter, wanted: dict[str, str]) -> Any:
        if way in BINDS:
            return MoMAMiddleware(router, max_tools=PICKS, bind=way)
        return selecting(meter, wanted, names, options.seed)

    ways = (*BINDS, "LLMToolSelectorMiddleware")
    return {
        way: measured(said, tools, partial(middleware, way), reveals=way == "deferred")
        for way in ways
    }


def fitted(directory: Path | None, examples: dict[str, list[str]]) -> MoMARouter:
    if directory is not None and directory.exists():
        return MoMARouter.load(directory)
    cards = [c for c in read_agents(DATA / "metatool_agents.parquet") if c.name in examples]
    tools = [stub(card.name, card.description, "small") for card in cards]
    router = MoMARouter.from_cards(agent_cards_from_tools(tools, examples), llms=None)
    router.fit()
    if directory is not None:
        router.save(directory)
    return router


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--talks", type=int, default=6)
    parser.add_argument("--router", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/prompt_cache.json"))
    options = parser.parse_args()
    cards = read_agents(DATA / "metatool_agents.parquet")
    wanted = random.Random(options.seed).sample(sorted(card.name for card in cards), TOOLS)
    examples, turns = rows(set(wanted))
    router = fitted(options.router, examples)
    report: dict[str, Any] = {
        "command": f"python benchmarks/prompt_cache.py --seed {options.seed} "
        f"--talks {options.talks}",
        "tools": len(router.agents),
        "turns": TURNS,
        "talks": options.talks,
        "max_tools": PICKS,
        "usd_a_million_uncached_cached": PRICES,
    }
    for size in ("small", "large"):
        for kind in ("topical", "wide"):
            report[f"{kind}, {size} tools"] = compared(kind, size, router, turns, options)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    with threadpool_limits(1, user_api="blas"):  # more threads than free cores only spin
        main()
