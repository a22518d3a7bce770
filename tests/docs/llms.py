"""The reader's own scored queries and pairs, and LLMs to ask."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moma_core import CascadeRouter, MoMARouter, RoutingEncoder
from moma_core.llms.cascade import Ask
from moma_core.llms.selection import StreamBudget

rng = np.random.default_rng(0)
LLMS = {"old-llm": (0.6, 1e-4), "some-llm": (0.75, 4e-4), "new-llm": (0.9, 3e-3)}


def scored(name, rows, llms):
    table = {"query": [f"what is {a} plus {a}?" for a in range(rows)], "task": ["sums"] * rows}
    for llm in llms:
        right, cost = LLMS[llm]
        won = rng.random(rows) < right
        table[f"score|{llm}"] = won.astype(float)
        table[f"cost|{llm}"] = np.full(rows, cost)
        table[f"answer|{llm}"] = ["right" if each else "wrong" for each in won]
    pq.write_table(pa.table(table), name)


scored("train.parquet", 60, ["old-llm", "some-llm"])
scored("test.parquet", 20, ["old-llm", "some-llm"])
scored("scored.parquet", 60, LLMS)
pairs = {
    "query": [f"what is {a} plus {a}?" for a in range(40)],
    "llm_a": ["old-llm"] * 40,
    "llm_b": ["some-llm"] * 40,
    "outcome": rng.integers(0, 5, 40),
}
for name in ("pairs.parquet", "held_out_pairs.parquet"):
    pq.write_table(pa.table(pairs), name)
Path("prices.json").write_text(json.dumps({"old-llm": [0.1, 0.4], "some-llm": [1, 4]}))
encoder = RoutingEncoder()
router = MoMARouter.from_cards()
text = "what is 7 plus 7?"
vector = encoder.encode([text])[0]
stream = [text, "and 8 plus 8?"]


def ask(llm, text):
    return f"{llm} answers {text}", 1e-4
