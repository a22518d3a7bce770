"""The reader's own chat models, query engines and files."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from langchain_core.messages import AIMessage
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode

from langchain_moma.testing import ScriptedChat

small_chat = ScriptedChat(name="small", reply=lambda *_: AIMessage("Apples, pears, plums."))
large_chat = ScriptedChat(name="large", reply=lambda *_: AIMessage("By contradiction."))


def engine(text):
    index = VectorStoreIndex([TextNode(text=text)], embed_model=MockEmbedding(embed_dim=8))
    return index.as_query_engine(llm=MockLLM())


papers, handbook, llm = engine("a paper"), engine("a rule"), MockLLM()

asked = [f"{words} {n}" for words in ("balance of account", "what is on") for n in range(15)]
pq.write_table(
    pa.table({"name": ["bank", "translator"], "description": ["Balances", "Translates"]}),
    "agents.parquet",
)
pq.write_table(pa.table({"query": asked, "agents": [["bank"]] * len(asked)}), "examples.parquet")
pq.write_table(
    pa.table({"query": ["balance of 17", "who are you?"], "agents": [["bank"], []]}),
    "asked.parquet",
)
rng = np.random.default_rng(0)
scored = {"query": [f"what is {a} times {a + 3}?" for a in range(40)]}
for name, right, cost in (("small", 0.6, 1e-4), ("large", 0.9, 3e-3)):
    scored[f"score|{name}"] = (rng.random(40) < right).astype(float)
    scored[f"cost|{name}"] = np.full(40, cost)
pq.write_table(pa.table(scored), "scored.parquet")
