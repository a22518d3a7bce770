"""A low-rank adapter that makes a small LLM better at one thing, merged into its weights (LoRA).

W + scale x B A for each adapted layer: nothing is added to a forward pass. Knows arrays and their
names, not what they were trained for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moma_core.errors import ArtifactError, InvalidInputError

__all__ = ["PACKAGED_ADAPTERS", "merge_adapter"]

PACKAGED_ADAPTERS = {"smollm2": Path(__file__).parent / "adapters" / "smollm2.safetensors"}
"""Adapters of packaged LLMs for the noisy channel, by the LLM's short name."""


def merge_adapter(model: Any, path: str | Path) -> None:
    """Add an adapter's low-rank products to the weights of a model, in place.

    Args:
        model: A module of torch.
        path: Safetensors with ``<layer>.a`` of shape (rank, in) and ``<layer>.b`` of shape
            (out, rank) for each adapted linear layer, and a ``scale`` in its metadata.

    Raises:
        ArtifactError: The file is missing or damaged.
        InvalidInputError: It was made for an LLM of another shape; nothing is changed.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            scale = float((file.metadata() or {})["scale"])
            arrays = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        if not all(array.ndim == 2 and bool(array.isfinite().all()) for array in arrays.values()):
            raise ValueError("an array is no matrix of finite numbers")
        layers = {name[:-2] for name in arrays}
        pairs = {layer: (arrays[f"{layer}.a"], arrays[f"{layer}.b"]) for layer in layers}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ArtifactError(
            f"{path} holds no adapter that can be read ({error}). Install moma-router again, or "
            "train one: python benchmarks/train_choice_adapter.py"
        ) from error
    weights = dict(model.named_parameters())
    for layer, (a, b) in pairs.items():
        weight = weights.get(f"{layer}.weight")
        fits = weight is not None and tuple(weight.shape) == (b.shape[0], a.shape[1])
        if not fits or a.shape[0] != b.shape[1]:
            raise InvalidInputError(
                f"the adapter {path} has a layer {layer!r} of shape ({b.shape[0]}, {a.shape[1]}) "
                "that this LLM has not. Load the LLM that it was trained for."
            )
    with torch.no_grad():
        for layer, (a, b) in pairs.items():
            weight = weights[f"{layer}.weight"]
            weight.copy_(weight.float() + scale * (b @ a).to(weight.device))
