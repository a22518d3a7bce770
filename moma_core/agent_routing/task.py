"""What is fitted, laid out as rows and columns: the texts of all agents that have examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.catalog import Snapshot
from moma_core.agent_routing.fitting import HELD, fit_columns, logsumexp
from moma_core.agent_routing.ranker import Columns, Features, stack_columns, stack_features
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["FOLDS", "Task"]

FOLDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Examples and descriptions as rows to fit, with the agents that have examples as columns."""

    features: Features  # (n examples + k descriptions)
    vectors: FloatArray  # (n examples, d): unit vectors of the examples
    owners: npt.NDArray[np.intp]  # row of `active` each text belongs to
    n_examples: int
    active: npt.NDArray[np.intp]  # k agents with at least one example
    prior: Columns  # all agents
    folds: npt.NDArray[np.intp]  # (n examples,): the i-th example of its agent, modulo the folds

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        examples: Sequence[str],
        idf: FloatArray,
        described: Features,
        prior: Columns,
    ) -> Task:
        """Lay out a snapshot whose descriptions and examples are features already."""
        counts = np.array([len(r.card.examples) for r in snapshot.records])
        active = np.flatnonzero(counts)
        vectors = np.concatenate([r.example_vectors for r in snapshot.records])
        shown = Features.of(examples, vectors, idf)
        owners = np.repeat(np.arange(active.size), counts[active])
        return cls(
            features=stack_features(shown, described.rows(active)),
            vectors=vectors,
            owners=np.concatenate([owners, np.arange(active.size)]),
            n_examples=len(examples),
            active=active,
            prior=prior,
            folds=np.concatenate([np.arange(c) % FOLDS for c in counts[active]]),
        )

    def fit(self, use: npt.NDArray[np.bool_]) -> Columns:
        """Return columns of all agents, fitted on the descriptions and the chosen examples."""
        rows = np.flatnonzero(np.concatenate([use, np.ones(self.active.size, dtype=bool)]))
        features = self.features.rows(rows)
        n = self.prior.bias.size
        idle = np.setdiff1d(np.arange(n), self.active)
        # One agent alone has nothing to be told apart from: there the idle ones are its rivals.
        alone = self.active.size == 1 and idle.size > 0
        frozen = logsumexp(self.prior.rows(idle).logits(features)) if alone else None
        prior, owners = self.prior.rows(self.active), self.owners[rows]
        if alone:
            fitted = fit_columns(features, owners, prior, frozen, bias_l2=HELD)
        else:
            fitted = fit_columns(features, owners, prior)
            # A softmax leaves the common level of its biases open: the idle ones sit at 0.
            fitted.bias[:] -= fitted.bias.mean()
        order = np.argsort(np.concatenate([self.active, idle]), kind="stable")
        return stack_columns([fitted, self.prior.rows(idle)]).rows(order)
