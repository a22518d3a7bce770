"""The reader's own pool, trained from scored queries with answers, and LLMs to ask."""

import numpy as np

from moma_core import CascadeRouter, MoMARouter, RoutingEncoder
from moma_core.llms.answers import answer_ids
from moma_core.llms.cascade import Ask
from moma_core.llms.data import LLMDataset
from moma_core.llms.selection import StreamBudget
from moma_core.llms.training import train_cascade

rng = np.random.default_rng(0)
right = rng.random((80, 2)) < (0.6, 0.9)
data = LLMDataset(
    queries=tuple(f"what is {a} plus {a}?" for a in range(80)),
    llms=("small", "large"),
    scores=right.astype(float),
    costs=np.tile([1e-4, 3e-3], (80, 1)),
    answers=answer_ids([["right" if r else "wrong" for r in row] for row in right]),
)
encoder = RoutingEncoder()
train_cascade(data, encoder, head="linear").save("pool")
router = MoMARouter.from_cards()
text = "what is 7 plus 7?"
vector = encoder.encode([text])[0]
stream = [text, "and 8 plus 8?"]


def ask(llm, text):
    return f"{llm} answers {text}", 1e-4
