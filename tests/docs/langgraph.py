"""The reader's own cascade, trained from scored queries with answers, and chat models for it."""

import numpy as np

from langchain_moma.testing import ScriptedChat
from moma_core import LLMDataset, RoutingEncoder
from moma_core.llms.training import train_cascade

rng = np.random.default_rng(0)
right = rng.random((80, 2)) < (0.6, 0.9)
data = LLMDataset(
    queries=tuple(f"what is {a} plus {a}?" for a in range(80)),
    llms=("small", "large"),
    scores=right.astype(float),
    costs=np.tile([1e-4, 3e-3], (80, 1)),
    answers=np.where(right, 0, 1).astype(np.int32),
)
cascade = train_cascade(data, RoutingEncoder(), head="linear")
chats = {name: ScriptedChat(name=name) for name in ("small", "large")}
mini, full = ScriptedChat(name="mini"), ScriptedChat(name="full")
