"""The final decision's place among the steps: between the ranker's shortlist and the gate (26).

Whatever decides gets eligible agents only and gives shares; how much of the whole probability the
shortlist holds stays the ranker's, so the gate sees numbers of the kind that it was fitted on.
Knows no LLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.catalog import Snapshot
from moma_core.agent_routing.fitting import logsumexp
from moma_core.agent_routing.shortlist import Shortlist
from moma_core.errors import ScoreError
from moma_core.protocols import FinalDecider

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["decided"]

_LEAST = 1e-9  # a share of nothing, whose logarithm is still a number


def decided(
    best: Shortlist,
    texts: Sequence[str],
    rows: npt.NDArray[np.intp],
    snapshot: Snapshot,
    weight: float,
    decider: FinalDecider,
) -> Shortlist:
    """Return the list of each of n queries with the logits that a final decision gives it.

    Args:
        best: The ranker's, k agents a query.
        texts: The queries, length n.
        rows: Of the snapshot, what the list's agents are columns of.
        snapshot: All agents.
        weight: Of the examples one by one, as in `Shortlist.refined`.
        decider: Gives shares.

    Raises:
        ScoreError: The shares are not finite, or not one for each agent.
    """
    refined = best.refined(weight)
    mass = logsumexp(refined)
    logits = np.empty_like(refined)
    for i, text in enumerate(texts):
        cards = [snapshot.records[rows[agent]].card for agent in best.agents[i]]
        shares = np.asarray(decider.decide(text, cards, refined[i]))
        if shares.shape != refined[i].shape or not np.isfinite(shares).all():
            raise ScoreError(
                f"the final decision gave {shares!s:.60} for {len(cards)} agents; one finite share "
                "each was expected. Check the decider, or route without it: decider=None."
            )
        logits[i] = np.log(np.maximum(shares, _LEAST)) + mass[i]
    return replace(best, logits=logits - np.float32(weight) * best.closeness)
