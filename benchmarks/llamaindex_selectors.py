"""Twelve query engines, 120 questions: MoMASelector beside LlamaIndex's own selectors.

    python benchmarks/llamaindex_selectors.py --seed 0

Real indices over benchmarks/llamaindex_corpus.toml, embedded by the packaged encoder; MockLLM
writes the answers. The LLM selectors get a scripted LLM that *knows* the right engine and answers
in no time, but makes each format fault of `FAULTS` with the same rate: an upper bound for them.
Every selector runs inside a RouterQueryEngine, and the engine that ran is read off the answer's
sources. `caught` counts, of 24 questions that no engine fits, those that ended in a typed error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_selector import BaseSelector
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse, ToolCallBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.schema import TextNode
from llama_index.core.selectors import (
    EmbeddingSingleSelector,
    LLMSingleSelector,
    PydanticSingleSelector,
)
from llama_index.core.tools import QueryEngineTool

from llamaindex_moma import MoMASelector
from moma_core import NoTargetError, RoutingEncoder

CORPUS = Path(__file__).with_name("llamaindex_corpus.toml")
OUT = Path(__file__).parent / "results" / "llamaindex_selectors.json"
FAULTS = ("malformed", "zero_index", "out_of_range", "two_choices", "fenced")
RATE = 0.05  # of each fault


class Counting(RoutingEncoder):
    """The packaged encoder, counting the texts that it encodes; its reranker goes with it."""

    texts = 0

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors."""
        self.texts += len(texts)
        return super().encode(texts)


class LocalEmbedding(BaseEmbedding):
    """LlamaIndex's embedding interface over the same encoder."""

    _encoder: Counting = PrivateAttr()

    def __init__(self, encoder: Counting) -> None:
        super().__init__(model_name="packaged MiniLM")
        self._encoder = encoder

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(x) for x in self._encoder.encode([text])[0]]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class Script:
    """Knows the right engine of each question, and which fault to make."""

    def __init__(self, right: dict[str, int], n_engines: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        kinds = [*FAULTS, "clean"]
        odds = [RATE] * len(FAULTS) + [1.0 - RATE * len(FAULTS)]
        self._faults = {question: str(generator.choice(kinds, p=odds)) for question in right}
        self._right, self._n = right, n_engines
        self.calls = 0

    def ask(self, prompt: str) -> tuple[str, int]:
        """Return the fault and the choice, counted from 1."""
        self.calls += 1
        question = next(question for question in self._right if question in prompt)
        fault, choice = self._faults[question], self._right[question] + 1
        if fault == "zero_index":
            choice -= 1
        return fault, self._n + 1 if fault == "out_of_range" else choice


class WritesJSON(MockLLM):
    """A completion LLM that answers as SelectionOutputParser wants it, mostly."""

    _script: Script = PrivateAttr()

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script

    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:  # noqa: ARG002
        """Return JSON, or something like it."""
        fault, choice = self._script.ask(prompt)
        answers = [{"choice": choice, "reason": "it fits"}]
        if fault == "two_choices":
            answers.append({"choice": choice % 12 + 1, "reason": "it may help"})
        text = json.dumps(answers)
        if fault == "malformed":
            text = text.replace('"reason": ', '"reason" ')
        return CompletionResponse(text=f"```json\n{text}\n```" if fault == "fenced" else text)


def calls_functions(script: Script) -> MockFunctionCallingLLM:
    """A function-calling LLM that fills in SingleSelection, mostly."""

    def reply(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        fault, choice = script.ask(str(messages[-1].content))
        arguments = {"index": choice, "reason": "it fits"}
        if fault == "malformed":
            del arguments["reason"]
        if fault == "fenced":
            return ChatMessage(role="assistant", content=f"```json\n{json.dumps(arguments)}\n```")
        calls = [arguments]
        if fault == "two_choices":
            calls.append({**arguments, "index": choice % 12 + 1})
        blocks = [
            ToolCallBlock(tool_call_id=str(i), tool_name="SingleSelection", tool_kwargs=call)
            for i, call in enumerate(calls)
        ]
        return ChatMessage(role="assistant", blocks=blocks)

    return MockFunctionCallingLLM(response_generator=reply)


def engines(corpus: dict[str, Any], embedding: LocalEmbedding) -> list[QueryEngineTool]:
    tools = []
    for engine in corpus["engine"]:
        nodes = [
            TextNode(text=text, metadata={"engine": engine["name"]}) for text in engine["documents"]
        ]
        index = VectorStoreIndex(nodes, embed_model=embedding)
        tools.append(
            QueryEngineTool.from_defaults(
                index.as_query_engine(llm=MockLLM(), similarity_top_k=1),
                name=engine["name"],
                description=engine["description"],
            )
        )
    return tools


def outcome(router: RouterQueryEngine, question: str, wanted: str) -> str:
    try:
        response = router.query(question)
    except NoTargetError:
        return "none_fits"
    except Exception as error:  # noqa: BLE001 - what users of these selectors get to see
        return f"error: {type(error).__name__}"
    ran = [node.node.metadata["engine"] for node in response.source_nodes]
    if ran == [wanted]:
        return "right"
    return "right_and_another" if wanted in ran else "silently_wrong"


def measure(
    selector: BaseSelector,
    tools: list[QueryEngineTool],
    asked: list[tuple[str, str]],
    foreign: list[str],
    counts: Callable[[], tuple[int, int]],
) -> dict[str, Any]:
    """Run one selector over all questions.

    Args:
        selector: What is measured.
        tools: The engines.
        asked: Questions and the names of their engines.
        foreign: Questions that no engine fits; empty where nothing else than a guess is possible.
        counts: Returns LLM calls and embedded texts so far.
    """
    choices = [tool.metadata for tool in tools]
    times, before = [], counts()
    for i, (question, _) in enumerate([asked[0], *asked]):
        if i == 1:  # the first one warms up
            before = counts()
        start = time.perf_counter()
        with contextlib.suppress(Exception):  # judged below
            selector.select(choices, question)
        times.append((time.perf_counter() - start) * 1e3)
    after = counts()
    router = RouterQueryEngine(selector, tools, llm=MockLLM())
    results = [outcome(router, question, wanted) for question, wanted in asked]
    caught = [outcome(router, question, "") == "none_fits" for question in foreign]
    return {
        "accuracy": round(results.count("right") / len(asked), 3),
        "outcomes": dict(sorted(Counter(results).items())),
        "llm_calls_per_query": (after[0] - before[0]) / len(asked),
        "embeddings_per_query": (after[1] - before[1]) / len(asked),
        "latency_p50_ms": round(statistics.median(times[1:]), 2),
        "caught": f"{sum(caught)}/{len(caught)}" if caught else "not asked",
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    corpus = tomllib.loads(CORPUS.read_text(encoding="utf-8"))
    encoder = Counting()
    embedding = LocalEmbedding(encoder)
    tools = engines(corpus, embedding)
    asked = [(q, engine["name"]) for engine in corpus["engine"] for q in engine["questions"]]
    names = [engine["name"] for engine in corpus["engine"]]
    script = Script({q: names.index(name) for q, name in asked}, len(names), seed)
    foreign = corpus["out_of_scope"]["questions"]
    shots = {engine["name"]: engine["examples"] for engine in corpus["engine"]}
    seen = {text for texts in shots.values() for text in texts}
    assert not seen.intersection(q for q, _ in asked)  # noqa: S101
    rows: dict[str, tuple[BaseSelector, list[str]]] = {
        "MoMA, 4 examples an engine": (MoMASelector(shots, encoder=encoder, strict=True), foreign),
        "MoMA, 4 examples, always selects": (
            MoMASelector(shots, encoder=encoder, min_probability=0.0),
            foreign,
        ),
        "MoMA, descriptions": (MoMASelector(encoder=encoder, strict=True), foreign),
        "MoMA, descriptions, always selects": (
            MoMASelector(encoder=encoder, min_probability=0.0),
            foreign,
        ),
        "EmbeddingSingleSelector": (EmbeddingSingleSelector(embedding), foreign),
        "LLMSingleSelector, scripted": (
            LLMSingleSelector.from_defaults(llm=WritesJSON(script)),
            [],
        ),
        "PydanticSingleSelector, scripted": (
            PydanticSingleSelector.from_defaults(llm=calls_functions(script)),  # type: ignore[arg-type]
            [],
        ),
    }
    results = {}
    for name, (selector, other) in rows.items():
        results[name] = measure(
            selector, tools, asked, other, lambda: (script.calls, encoder.texts)
        )
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    report = {
        "command": f"python benchmarks/llamaindex_selectors.py --seed {seed}",
        "seed": seed,
        "engines": len(names),
        "questions": len(asked),
        "fault_rate_of_each": dict.fromkeys(FAULTS, RATE),
        "python": platform.python_version(),
        "selectors": results,
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {OUT}; again: {report['command']}")


if __name__ == "__main__":
    main()
