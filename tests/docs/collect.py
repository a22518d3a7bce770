# The page's own things: two LLMs, a judge, a router of the packaged pool.
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moma_core import LLMCard, MoMARouter

rng = np.random.default_rng(0)
pairs = {
    "query": [f"what is {a} plus {a}?" for a in range(40)],
    "llm_a": ["small"] * 40,
    "llm_b": ["big"] * 40,
    "outcome": rng.integers(0, 5, 40),
}
for name in ("pairs.parquet", "test_pairs.parquet"):
    pq.write_table(pa.table(pairs), name)
Path("prices.json").write_text(json.dumps({"small": [0.1, 0.4], "big": [1, 4]}))

cards = {name: LLMCard(name, 1.0, 2.0) for name in ("small", "big")}
judge_card = LLMCard("judge", 1.0, 2.0)
router = MoMARouter.from_cards()


def ask_small(prompt: str) -> str:
    return "I do not know."


def ask_big(prompt: str) -> str:
    return "It is known."


def ask_judge(prompt: str) -> str:
    return "[[A=B]]"
