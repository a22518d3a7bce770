"""An agent with 300 tools and 4 chat models: what MoMAMiddleware binds, masks, costs and misses.

    python benchmarks/langgraph_tools.py [--seed 0] [--turns 300] [--router DIR] [--out FILE.json]

MetaTool's 199 tools and 101 of Seal-Tools as stubs, fitted on MetaTool's train rows; scripted chat
models, so no network. "right tool" counts all val rows; agents run on a draw of them. The rival is
LLMToolSelectorMiddleware, whose scripted LLM is right but for a share of invented names (--invalid)
and answers at once. Tokens are characters / 4 of the tools' JSON. --router keeps the fitted router.
On a busy machine read the CPU times, though spinning threads count. Data: MOMA_DATA.
"""

# ruff: noqa: ARG001, ARG002, D102, S311  # scripted replies and seeded draws
from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import LLMToolSelectorMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import BaseTool, StructuredTool
from threadpoolctl import threadpool_limits

from langchain_moma import MoMAMiddleware, agent_cards_from_tools
from langchain_moma.testing import ScriptedChat
from moma_core import MoMARouter
from moma_core.agents.data import LabelledQueries, read_agents, read_queries

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
LLMS = (
    "gpt-4o-2024-08-06",
    "gpt-4o-mini-2024-07-18",
    "claude-3-5-sonnet-20241022",
    "claude-3-haiku-20240307",
)
BOUND = 8
RAN: list[str] = []


def stub(name: str, about: str) -> BaseTool:
    def run(text: str) -> str:
        RAN.append(name)
        return "done"

    return StructuredTool.from_function(run, name=name, description=about)


def load(seed: int) -> tuple[list[BaseTool], list[LabelledQueries]]:
    cards = read_agents(DATA / "metatool_agents.parquet")
    known = {card.name for card in cards}
    others = [c for c in read_agents(DATA / "sealtools_agents.parquet") if c.name not in known]
    cards += random.Random(seed).sample(others, 300 - len(cards))
    tools = [stub(card.name, card.description) for card in cards]
    return tools, split(DATA / "metatool_queries.parquet")


def split(path: Path) -> list[LabelledQueries]:
    """Return the train rows, the val rows, and the rows that want two tools."""
    import pyarrow.parquet as pq

    rows, parts = read_queries(path), pq.read_table(path)["split"].to_pylist()

    def part(name: str) -> LabelledQueries:
        kept = [i for i, at in enumerate(parts) if at == name]
        return LabelledQueries(
            tuple(rows.texts[i] for i in kept), tuple(rows.agents[i] for i in kept)
        )

    return [part("train"), part("val"), part("multi")]


def fitted(
    directory: Path | None, tools: list[BaseTool], train: LabelledQueries
) -> tuple[MoMARouter, float]:
    """Return the router and the seconds of fitting; zero when it was kept."""
    if directory is not None and directory.exists():
        return MoMARouter.load(directory), 0.0
    start = time.perf_counter()
    router = MoMARouter.from_cards(agent_cards_from_tools(tools, examples_of(train)))
    router.fit()
    seconds = time.perf_counter() - start
    if directory is not None:
        router.save(directory)
    return router, seconds


def examples_of(queries: LabelledQueries) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text, names in zip(queries.texts, queries.agents, strict=True):
        for name in names:
            found.setdefault(name, []).append(text)
    return found


def right_tools(moma: MoMAMiddleware, val: LabelledQueries) -> dict[str, Any]:
    """Shortlist every val query as the middleware does."""
    hit, every, ms = [], [], []
    names = dict.fromkeys(moma.router.agents.names)
    for i, (text, wanted) in enumerate(zip(val.texts, val.agents, strict=True)):
        turn = moma._shortlist.turn([HumanMessage(text, id=str(i))], names, None)  # noqa: SLF001
        kept = set(turn["tools"])
        hit.append(bool(kept.intersection(wanted)))
        every.append(kept.issuperset(wanted))
        ms.append(turn["ms"])
    return {
        "queries": len(hit),
        "right_tool_present": sum(hit) / len(hit),
        "all_right_tools_present": sum(every) / len(every),
        "shortlist_ms_p50": median(ms),
    }


class Desk:
    """Scripted chat models that call the wanted tool when it is bound, a masked one on demand."""

    def __init__(self, seed: int, tools: list[BaseTool]) -> None:
        self.names = [tool.name for tool in tools]
        self.draw = random.Random(seed)
        self.attack = 0
        self.wanted: dict[str, str] = {}
        self.attacks = 0

    def llm(self, name: str) -> ScriptedChat:
        return ScriptedChat(name=name, reply=self.reply)

    def reply(self, messages: Any, tools: Any, choice: Any) -> AIMessage | str:
        if not isinstance(messages[-1], HumanMessage) or not tools:
            return "done"
        bound = [tool["function"]["name"] for tool in tools]
        if self.attack:
            masked = sorted(set(self.names).difference(bound))
            names = [self.draw.choice(masked) for _ in range(self.attack)]
            self.attacks += len(names)
        else:
            wanted = self.wanted.get(messages[-1].text, bound[0])
            names = [wanted if wanted in bound else bound[0]]
        return AIMessage("", tool_calls=[call(name, i) for i, name in enumerate(names)])


def call(name: str, i: int) -> Any:
    return {"name": name, "args": {"text": "x"}, "id": f"call_{i}", "type": "tool_call"}


def timed(agent: Any, texts: list[str]) -> list[tuple[float, float]]:
    """Return each turn's milliseconds by the clock, and of the processor in all threads."""
    times = []
    for text in texts:
        start, busy = time.perf_counter(), time.process_time()
        agent.invoke({"messages": [("human", text)]})
        spent = time.perf_counter() - start, time.process_time() - busy
        times.append((spent[0] * 1e3, spent[1] * 1e3))
    return times


def ours(desk: Desk, tools: list[BaseTool], router: MoMARouter, texts: list[str]) -> dict[str, Any]:
    """Run turns with the few tools, with the same few tools bound by hand, and with all 300."""
    llms = {name: desk.llm(name) for name in LLMS}
    moma = MoMAMiddleware(router, max_tools=BOUND, llms=llms, preference="auto")
    agent = create_agent(llms[LLMS[0]], tools, middleware=[moma])
    few, every = desk.llm("few"), desk.llm("all")
    plain = create_agent(few, tools[:BOUND])
    timed(agent, texts[:5])
    timed(plain, texts[:5])
    for llm in (*llms.values(), few):
        llm.calls.clear()
    routed: list[tuple[float, float]] = []
    unrouted: list[tuple[float, float]] = []
    for text in texts:  # in turn: noise hits both alike
        routed += timed(agent, [text])
        unrouted += timed(plain, [text])
    timed(create_agent(every, tools), texts[:5])
    calls = [made for llm in llms.values() for made in llm.calls]
    tokens = sum(made.tool_tokens for made in calls) / len(calls)
    alone = every.calls[0].tool_tokens
    return {
        "turns": len(texts),
        "llm_calls_per_turn": len(calls) / len(texts),
        "tools_bound_mean": sum(len(made.tools) for made in calls) / len(calls),
        "tool_tokens_per_call": tokens,
        "tool_tokens_all_300": alone,
        "tool_tokens_share": tokens / alone,
        "turn_ms_p50": median(ms for ms, _ in routed),
        "turn_ms_p50_same_tools_no_router": median(ms for ms, _ in unrouted),
        "added_ms_p50": median(a[0] - b[0] for a, b in zip(routed, unrouted, strict=True)),
        "added_cpu_ms_p50": median(a[1] - b[1] for a, b in zip(routed, unrouted, strict=True)),
        "by_llm": {name: len(llm.calls) for name, llm in llms.items()},
    }


def adversarial(desk: Desk, tools: list[BaseTool], router: MoMARouter, texts: list[str]) -> Any:
    """LLMs that name masked tools, ten a turn."""
    agent = create_agent(desk.llm("bad"), tools, middleware=[MoMAMiddleware(router)])
    RAN.clear()
    desk.attack = 10
    for text in texts[:100]:
        agent.invoke({"messages": [("human", text)]})
    desk.attack = 0
    return {"calls_of_masked_tools": desk.attacks, "executed": len(RAN)}


def shared(desk: Desk, tools: list[BaseTool], router: MoMARouter, texts: list[str]) -> Any:
    """Two threads, each with 25 turns at once, over one agent and one router."""
    agent = create_agent(desk.llm("shared"), tools, middleware=[MoMAMiddleware(router)])
    alone = [agent.invoke({"messages": [("human", t)]})["moma_turn"]["tools"] for t in texts[:50]]

    async def many(part: list[str]) -> list[Any]:
        turns = (agent.ainvoke({"messages": [("human", text)]}) for text in part)
        return await asyncio.gather(*turns)

    with ThreadPoolExecutor(2) as threads:
        parts = threads.map(lambda part: asyncio.run(many(part)), (texts[:25], texts[25:50]))
        ends = [end["moma_turn"]["tools"] for part in parts for end in part]
    return {"concurrent_turns": len(ends), "same_choice_as_alone": ends == alone}


def rival(
    desk: Desk, tools: list[BaseTool], texts: list[str], seed: int, invalid: float
) -> dict[str, Any]:
    """LLMToolSelectorMiddleware with a selecting LLM that is nearly always right."""
    draw = random.Random(seed)

    def select(messages: Any, bound: Any, choice: Any) -> AIMessage:
        right = desk.wanted[messages[-1].text]
        first = f"{right}_tool" if draw.random() < invalid else right
        picked = [first, *draw.sample(desk.names, BOUND - 1)]
        name = bound[0]["function"]["name"]
        made = {"name": name, "args": {"tools": picked}, "id": "s", "type": "tool_call"}
        return AIMessage("", tool_calls=[made])

    selecting, main = ScriptedChat(name="selector", reply=select), desk.llm("main")
    middleware = LLMToolSelectorMiddleware(model=selecting, max_tools=BOUND)
    agent = create_agent(main, tools, middleware=[middleware])
    times, failed = [], 0
    for text in texts:
        start = time.perf_counter()
        try:
            agent.invoke({"messages": [("human", text)]})
        except ValueError:
            failed += 1
        times.append((time.perf_counter() - start) * 1e3)
    asked = [*selecting.calls, *main.calls]
    return {
        "turns": len(texts),
        "llm_calls_per_turn": len(asked) / len(texts),
        "tool_and_schema_tokens_per_turn": sum(made.tool_tokens for made in asked) / len(texts),
        "turn_ms_p50_without_any_llm_latency": median(times),
        "turns_that_raised_for_an_invented_name": failed,
    }


def over_few(desk: Desk, tools: list[BaseTool], router: MoMARouter, texts: list[str]) -> Any:
    """Our middleware on the rivals' turns."""
    llm = desk.llm("main")
    agent = create_agent(llm, tools, middleware=[MoMAMiddleware(router, max_tools=BOUND)])
    times = timed(agent, texts)
    first = [made for made in llm.calls if isinstance(made.messages[-1], HumanMessage)]
    return {
        "turns": len(texts),
        "llm_calls_per_turn": len(llm.calls) / len(texts),
        "tool_and_schema_tokens_per_turn": sum(made.tool_tokens for made in llm.calls) / len(texts),
        "right_tool_bound": hits(desk, first, texts),
        "turn_ms_p50_without_any_llm_latency": median(ms for ms, _ in times),
    }


def hits(desk: Desk, calls: list[Any], texts: list[str]) -> float:
    """Return the share of turns whose wanted tool was bound when it was to be called."""
    pairs = zip(calls, texts, strict=True)
    return sum(desk.wanted[text] in made.tools for made, text in pairs) / len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--invalid", type=float, default=0.02)
    parser.add_argument("--router", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/langgraph_tools.json"))
    options = parser.parse_args()
    tools, (train, val, multi) = load(options.seed)
    router, seconds = fitted(options.router, tools, train)
    desk = Desk(options.seed, tools)
    rows = random.Random(options.seed).sample(range(len(val)), options.turns)
    texts = [val.texts[i] for i in rows]
    desk.wanted = {val.texts[i]: val.agents[i][0] for i in rows}
    moma = MoMAMiddleware(router, max_tools=BOUND)
    few = texts[: max(options.turns // 6, 20)]
    report = {
        "command": f"python benchmarks/langgraph_tools.py --seed {options.seed} "
        f"--turns {options.turns} --invalid {options.invalid}",
        "load_average": os.getloadavg()[0],  # times mean little when it is above the cores
        "tools": len(tools),
        "llms": len(LLMS),
        "max_tools": BOUND,
        "fit_seconds": seconds or None,  # None: kept from an earlier run
        "val": right_tools(moma, val),
        "val_at_10": right_tools(MoMAMiddleware(router, max_tools=10), val),
        "two_wanted": right_tools(moma, multi),
        "agent": ours(desk, tools, router, texts),
        "adversarial": adversarial(desk, tools, router, texts),
        "shared": shared(desk, tools, router, texts),
        "ours_against_rival": {
            "MoMAMiddleware": over_few(desk, tools, router, few),
            "LLMToolSelectorMiddleware": rival(desk, tools, few, options.seed, options.invalid),
        },
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    with threadpool_limits(1, user_api="blas"):  # more threads than free cores only spin
        main()
