"""Fit the weights of moma_core/llms/tokens.py to real tokenisers and print their error by kind.

    python benchmarks/fit_tokens.py

Reads the tokenisers that the litellm package carries (cl100k, o200k, Claude's old one, DeepSeek's),
which need not be a dependency of ours: pip install --no-deps litellm, or LITELLM=the folder of an
unpacked wheel. Texts: queries of MOMA_DATA's corpus in 14 languages, benchmarks' questions, and the
Python, JSON and Markdown files of this repository. Nonnegative least squares on relative errors; a
third of the texts is held out. No row of the data is written anywhere.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.optimize import nnls
from tiktoken import Encoding
from tokenizers import Tokenizer

from moma_core.llms.tokens import TOKEN_CLASSES, token_features

BPE = {
    "cl100k": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    ),
    "o200k": (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
}
PIECE, EACH, FEWEST = 1_500, 400, 20


def tokenisers() -> dict[str, object]:
    found = importlib.util.find_spec("litellm")
    home = os.environ.get("LITELLM") or str(Path(str(found.origin)).parent if found else "litellm")
    folder = Path(home) / "litellm_core_utils" / "tokenizers"
    counters: dict[str, object] = {}
    for name, (file, pattern) in BPE.items():
        ranks = {
            base64.b64decode(token): int(rank)
            for token, rank in (line.split() for line in (folder / file).read_bytes().splitlines())
        }
        bpe = Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        counters[name] = lambda text, bpe=bpe: len(bpe.encode_ordinary(text))
    for name in ("anthropic", "deepseek"):
        loaded = Tokenizer.from_file(str(folder / f"{name}_tokenizer.json"))
        counters[name] = lambda text, t=loaded: len(t.encode(text, add_special_tokens=False).ids)
    return counters


def texts(folder: Path) -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    kinds: dict[str, list[str]] = {}
    pairs = pq.read_table(folder / "routing_pairs.parquet", columns=["query", "language"])
    by_language: dict[str, list[str]] = {}
    for query, language in zip(*(pairs[c].to_pylist() for c in ("query", "language")), strict=True):
        by_language.setdefault(str(language), []).append(query)
    for language, queries in sorted(by_language.items()):
        picked = rng.permutation(len(queries))[:EACH]
        kinds[language] = ["\n".join(queries[i] for i in picked[j : j + 4])
                           for j in range(0, len(picked), 4)]  # fmt: skip
    for table in ("mmlu_pro", "livecodebench", "zeroeval"):
        queries = pq.read_table(folder / f"{table}.parquet", columns=["query"])["query"].to_pylist()
        kinds[table] = [queries[i] for i in rng.permutation(len(queries))[:EACH]]
    for kind in ("py", "json", "md"):
        pieces = []
        for path in sorted(Path().glob(f"[!.]*/**/*.{kind}")):
            text = path.read_text(encoding="utf-8")
            pieces += [text[i : i + PIECE] for i in range(0, min(len(text), 30_000), PIECE)]
        pieces = [piece for piece in pieces if piece.strip()]
        kinds[kind] = [pieces[i] for i in rng.permutation(len(pieces))[:EACH]]
    return {kind: found for kind, found in kinds.items() if len(found) > FEWEST}


def main() -> None:
    counters = tokenisers()
    rows, truth, kind_of = [], [], []
    for kind, found in texts(Path(os.environ.get("MOMA_DATA", "../shared/data"))).items():
        for text in found:
            rows.append(token_features(text))
            truth.append(np.mean([count(text) for count in counters.values()]))  # type: ignore[operator]
            kind_of.append(kind)
    features, tokens, kinds = np.array(rows), np.array(truth), np.array(kind_of)
    held = np.random.default_rng(1).random(len(tokens)) < 1 / 3
    share = np.array([1.0 / np.sqrt((kinds == kind).sum()) for kind in kinds]) / tokens
    weights, _ = nnls(features[~held] * share[~held, None], tokens[~held] * share[~held])
    print(dict(zip(TOKEN_CLASSES, weights.round(3).tolist(), strict=True)))
    print("kind        held-out  median error   total   characters/4 total")
    chars = features[:, :14].sum(axis=1) / 4.0
    report = {}
    for kind in sorted(set(kind_of)):
        own = held & (kinds == kind)
        ratio = features[own] @ weights / tokens[own]
        total = (features[own] @ weights).sum() / tokens[own].sum()
        report[kind] = [round(float(np.median(np.abs(ratio - 1))), 3), round(float(total), 3)]
        print(f"{kind:12}{own.sum():8}{report[kind][0]:14.3f}{total:10.3f}"
              f"{chars[own].sum() / tokens[own].sum():14.3f}")  # fmt: skip
    out = Path("benchmarks/results/fit_tokens.json")
    out.write_text(json.dumps({"median_error_and_total_by_kind": report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
