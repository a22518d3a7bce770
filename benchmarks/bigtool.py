"""langgraph-bigtool over the tools and turns of `langgraph_tools.py`: what its search binds.

    python3 -m venv old && old/bin/pip install langgraph-bigtool==0.0.3 langgraph==1.0.1 \
        langgraph-prebuilt==1.0.1 moma-router[train]
    PYTHONPATH=. old/bin/python benchmarks/bigtool.py [--seed 0] [--turns 50] [--out FILE.json]

A venv of its own: 0.0.3, the latest, does not run beside langgraph 1.2, which MoMAMiddleware needs.
Its store searches by plain MiniLM over name and description; its scripted LLM asks with the user's
own words for as many tools as MoMAMiddleware picks, then calls the wanted one if it is bound. It
has no examples; MoMAMiddleware has MetaTool's train rows. Tokens are characters / 4 of the tools'
JSON, of every call. Data: MOMA_DATA.
"""

# ruff: noqa: ARG001, ARG002, S311  # what LangChain passes, and a seeded draw
from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path
from statistics import median
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.store.memory import InMemoryStore
from langgraph_bigtool import create_agent

from moma_core import MiniLMEncoder
from moma_core.agents.data import read_agents, read_queries

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
BOUND = 8


class Caller(BaseChatModel):
    """Looks for tools with the user's words, calls the wanted one, and ends."""

    wanted: dict[str, str]
    tokens: list[int]
    right: list[bool]

    @property
    def _llm_type(self) -> str:
        return "caller"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        """Bind tools in OpenAI's form."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any):
        bound = [tool["function"]["name"] for tool in kwargs["tools"]]
        self.tokens.append(sum(len(json.dumps(tool)) for tool in kwargs["tools"]) // 4)
        text, said = messages[0].text, len(messages)
        message = AIMessage("done")
        if isinstance(messages[-1], HumanMessage):
            message = called("retrieve_tools", {"query": text}, said)
        elif messages[-1].text.startswith("Available tools"):
            self.right.append(self.wanted[text] in bound)
            name = self.wanted[text] if self.right[-1] else bound[1]
            message = called(name, {"text": "x"}, said)
        return ChatResult(generations=[ChatGeneration(message=message)])


def called(name: str, args: dict[str, str], i: int) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"c{i}"}])


def stub(name: str, about: str) -> BaseTool:
    def run(text: str) -> str:
        return "done"

    return StructuredTool.from_function(run, name=name, description=about)


def load(seed: int, turns: int) -> tuple[dict[str, BaseTool], dict[str, str]]:
    """Return the tools, and what the turns want, as `langgraph_tools.py` draws them."""
    import pyarrow.parquet as pq

    cards = read_agents(DATA / "metatool_agents.parquet")
    known = {card.name for card in cards}
    others = [c for c in read_agents(DATA / "sealtools_agents.parquet") if c.name not in known]
    cards += random.Random(seed).sample(others, 300 - len(cards))
    path = DATA / "metatool_queries.parquet"
    rows, parts = read_queries(path), pq.read_table(path)["split"].to_pylist()
    val = [i for i, part in enumerate(parts) if part == "val"]
    drawn = [val[i] for i in random.Random(seed).sample(range(len(val)), 300)[:turns]]
    tools = {card.name: stub(card.name, card.description) for card in cards}
    return tools, {rows.texts[i]: rows.agents[i][0] for i in drawn}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bigtool.json"))
    options = parser.parse_args()
    tools, wanted = load(options.seed, options.turns)
    encoder = MiniLMEncoder()
    store = InMemoryStore(
        index={
            "dims": encoder.dimension,
            "embed": lambda texts: encoder.encode(list(texts)).tolist(),
            "fields": ["description"],
        }
    )
    for name, tool in tools.items():
        store.put(("tools",), name, {"description": f"{name}: {tool.description}"})
    llm = Caller(wanted=wanted, tokens=[], right=[])
    agent = create_agent(llm, tools, limit=BOUND).compile(store=store)
    times = []
    for text in wanted:
        start = time.perf_counter()
        agent.invoke({"messages": [("human", text)]})
        times.append((time.perf_counter() - start) * 1e3)
    report = {
        "command": f"python benchmarks/bigtool.py --seed {options.seed} --turns {options.turns}",
        "turns": len(wanted),
        "llm_calls_per_turn": len(llm.tokens) / len(wanted),
        "tool_and_schema_tokens_per_turn": sum(llm.tokens) / len(wanted),
        "right_tool_bound": sum(llm.right) / len(wanted),
        "turn_ms_p50_without_any_llm_latency": median(times),
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
