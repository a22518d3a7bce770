"""Routes a parquet file of queries with Dask, parquet to parquet, in several processes.

    python examples/dask_batch.py ROUTER IN.parquet OUT_DIRECTORY [WORKERS]

Each task routes one row group and writes one file, so memory is bounded and a cluster's scheduler
may take the place of Dask's processes. A process opens the router once: from its directory, or
from the Chroma server that the directory names. On one machine `moma route --batch` does the same.
"""

import os
import sys
from functools import cache
from pathlib import Path

import dask
import pyarrow as pa
import pyarrow.parquet as pq

from moma_core import MoMARouter


@cache
def opened(directory: str) -> MoMARouter:
    return MoMARouter.load(directory)


@dask.delayed
def routed(directory: str, source: str, group: int, out: str) -> tuple[int, int]:
    """Route one row group; return how many rows, and in which process."""
    with pq.ParquetFile(source) as file:
        table = file.read_row_group(group)
    decisions = opened(directory).route_batch(table["query"].to_pylist())
    for name in ("kind", "target", "probability"):
        table = table.append_column(name, pa.array([getattr(d, name) for d in decisions]))
    pq.write_table(table, Path(out) / f"{group:06}.parquet")
    return table.num_rows, os.getpid()


def main(directory: str, source: str, out: str, workers: int = 2) -> None:
    Path(out).mkdir(parents=True, exist_ok=True)
    with pq.ParquetFile(source) as file:
        groups = range(file.num_row_groups)
    tasks = [routed(directory, source, group, out) for group in groups]
    done = dask.compute(*tasks, scheduler="processes", num_workers=int(workers), chunksize=1)
    rows, processes = sum(n for n, _ in done), len({process for _, process in done})
    print(f"{rows} queries routed in {processes} processes to {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
