"""Agents known by their descriptions alone: what a user meets before there are examples.

Two things are different then. Where a whole catalog consists of names without descriptions, words
of a query that happen to occur in a name weigh less (`lean_names`). And the gate, which has no
held-out examples to be fitted on, sees two numbers more (`closer_look`). As soon as an agent has
examples, its column and the gate are fitted on them instead. Knows no thresholds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.catalog import Snapshot
from moma_core.agent_routing.ranker import Columns
from moma_core.agent_routing.shortlist import Shortlist
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["closer_look", "lean_names"]

_NAMES_LEXICAL = 0.7  # share of the n-grams' weight that bare names keep; benchmarks/LOG.md
_NOBODY = np.float32(0.5)  # logit that somebody reaches for any query: no lead over less


def lean_names(columns: Columns, snapshot: Snapshot) -> Columns:
    """Return columns of agents without examples, n-grams weighing less among bare names.

    A name is two or three words, so one of them in a query makes up half its n-gram vector, whether
    or not it tells anything ("balance", "change"). Beside descriptions the full weight is right.

    Args:
        columns: Of some agents of the snapshot, as `description_columns` makes them.
        snapshot: All agents; one description or example among them, and nothing changes.
    """
    if not snapshot.names_only:
        return columns
    lexical = (columns.lexical * np.float32(_NAMES_LEXICAL)).tocsr()
    return Columns(columns.dense, lexical, columns.bias)


def closer_look(
    best: Shortlist,
    weight: float,
    vectors: FloatArray,
    rows: npt.NDArray[np.intp],
    snapshot: Snapshot,
) -> FloatArray:
    """Return what `Signals.closer` holds of n queries, shape (n, 2).

    Args:
        best: Their shortlists.
        weight: Of the examples one by one, as in `Shortlist.refined`.
        vectors: Their unit vectors, shape (n, d).
        rows: Of the snapshot, what the list's agents are columns of.
        snapshot: All agents.

    Returns:
        How far the best logit leads the next one, or what anybody reaches, and the cosine of
        query and best agent's description.
    """
    refined = best.refined(weight)
    look = np.empty((len(refined), 2), dtype=np.float32)
    ranked = np.sort(refined, axis=1)
    rival = ranked[:, -2] if ranked.shape[1] > 1 else _NOBODY
    look[:, 0] = ranked[:, -1] - np.maximum(rival, _NOBODY)
    chosen = rows[best.best(weight)]
    for i, (row, vector) in enumerate(zip(chosen, vectors, strict=True)):
        look[i, 1] = snapshot.records[row].description_vector @ vector
    return look
