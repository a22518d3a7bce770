"""What docs/decisions.md takes for granted: an installed LLM, and the user's chat model."""

import torch
from langchain_core.messages import AIMessage

from langchain_moma.testing import ScriptedChat
from moma_core.decoding.local_llm import install

install("smollm2")
torch.set_num_threads(1)  # more threads than free cores spin
chat_model = ScriptedChat(reply=lambda messages, tools, choice: AIMessage("a2"))
