"""From a quantised GGUF file to bf16 safetensors with a tokenizer, once (20 s, then 1.5 s to load).

transformers reads GGUF but refuses to save what it read, so the weights are copied into a clean
LLM of the same shape. Knows files; neither where they come from nor where they are kept.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

from moma_core.errors import ArtifactError, MissingExtraError

__all__ = ["convert_gguf", "quiet"]


def convert_gguf(weights: Path, target: Path) -> None:
    """Write the folder that ``from_pretrained`` reads.

    Args:
        weights: A GGUF file of a causal LLM that transformers knows.
        target: A folder, made here.

    Raises:
        ArtifactError: The file is no GGUF file, or of an LLM that transformers does not know.
        MissingExtraError: torch, transformers, accelerate or gguf is not installed.
    """
    try:
        for needed in ("accelerate", "gguf"):  # transformers asks for them only when it is late
            import_module(needed)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise MissingExtraError(
            f'{error.name} is needed to unpack an LLM. Type: pip install "moma-router[llm]"'
        ) from error
    bars = io.StringIO()  # the reader draws one of its own, past transformers' switch
    source: dict[str, Any] = {"gguf_file": weights.name, "local_files_only": True}
    try:
        with quiet(), redirect_stderr(bars):
            tokenizer = AutoTokenizer.from_pretrained(weights.parent, **source)
            llm = AutoModelForCausalLM.from_pretrained(
                weights.parent,
                **source,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            _clean(llm).to(torch.bfloat16).save_pretrained(target)
            tokenizer.save_pretrained(target)
    except (ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise ArtifactError(
            f"{weights} cannot be read as a GGUF file of a causal LLM ({error}). Download it again."
        ) from error


def _clean(llm: Any) -> Any:
    """Return an LLM with the same weights that does not remember where they came from."""
    kept = {k: v for k, v in llm.config.to_dict().items() if k not in _ORIGIN}
    clean = type(llm)(type(llm.config)(**kept))
    clean.load_state_dict(llm.state_dict())
    return clean


_ORIGIN = ("quantization_config", "_name_or_path", "dtype", "transformers_version")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own progress bars off the terminal for a while."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
