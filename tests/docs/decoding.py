"""What docs/decoding.md takes for granted: an installed LLM."""

import torch

from moma_core.decoding.local_llm import install

install("smollm2")
torch.set_num_threads(1)  # more threads than free cores spin
