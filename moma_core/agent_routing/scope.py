"""In or out of scope, told from the words alone: agents' examples against a user's negatives.

The ranker's logits say how near a query comes to some agent. Queries that no agent should take can
also be like one another ("write a story", "prove that"); with enough of them one more linear column
learns that, and the gate weighs it beside the logits. Knows no agents one by one and no thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core.agent_routing.fitting import fit_columns
from moma_core.agent_routing.lexical import N_FEATURES
from moma_core.agent_routing.ranker import Columns, Features, stack_features
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["ENOUGH_NEGATIVES", "Scope", "cross_fit_scope", "fit_scope"]

ENOUGH_NEGATIVES = 20
"""Negatives of the user's from which their words are learnt."""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """One linear column: positive logits for what is like the agents' examples.

    Args:
        dense: Shape (d,).
        lexical: Shape (N_FEATURES,).
        bias: Of the column.
        usual: Median logit of held-out examples; stands in where the column has nothing to say.
    """

    dense: FloatArray
    lexical: FloatArray
    bias: float
    usual: float = 0.0

    def logits(self, features: Features) -> FloatArray:
        """Return one logit a text, shape (n,)."""
        logits: FloatArray = features.dense @ self.dense + np.float32(self.bias)
        if features.dense.shape[0] == 1:  # the hot path, without a sparse product
            terms = features.lexical
            logits += np.float32(self.lexical[terms.indices] @ terms.data)
        else:
            logits += features.lexical @ self.lexical
        return logits

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything as plain arrays, for safetensors."""
        terms = np.flatnonzero(self.lexical)
        return {
            "scope_dense": self.dense,
            "scope_terms": terms.astype(np.int32),
            "scope_weights": self.lexical[terms],
            "scope_levels": np.array([self.bias, self.usual], dtype=np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Scope | None:
        """Rebuild what `arrays` gave, or nothing where nothing was fitted."""
        if "scope_dense" not in arrays:
            return None
        lexical = np.zeros(N_FEATURES, dtype=np.float32)
        lexical[arrays["scope_terms"]] = arrays["scope_weights"]
        bias, usual = map(float, arrays["scope_levels"])
        return cls(arrays["scope_dense"], lexical, bias, usual)


def fit_scope(inside: Features, outside: Features) -> Scope:
    """Return the column of a logistic regression of examples (n) against negatives (m).

    It is `fit_columns` with one column and a rival whose logit stays 0.
    """
    from scipy.sparse import csr_matrix

    n, m, d = inside.dense.shape[0], outside.dense.shape[0], inside.dense.shape[1]
    nothing = Columns(
        np.zeros((1, d), dtype=np.float32),
        csr_matrix((1, N_FEATURES), dtype=np.float32),
        np.zeros(1, dtype=np.float32),
    )
    owners = np.repeat(np.arange(2), [n, m])
    rival = np.zeros(n + m, dtype=np.float32)
    fitted = fit_columns(stack_features(inside, outside), owners, nothing, rival)
    lexical = np.asarray(fitted.lexical.toarray(), dtype=np.float32)[0]
    return Scope(fitted.dense[0], lexical, float(fitted.bias[0]))


def cross_fit_scope(
    inside: Features,
    outside: Features,
    inside_folds: npt.NDArray[np.intp],
    outside_folds: npt.NDArray[np.intp],
) -> tuple[FloatArray, FloatArray]:
    """Return logits of examples (n,) and negatives (m,), each from the folds it is not in.

    Args:
        inside: n examples.
        outside: m negatives.
        inside_folds: Fold of each example, shape (n,).
        outside_folds: Fold of each negative, shape (m,).
    """
    shown = np.zeros(inside.dense.shape[0], dtype=np.float32)
    foreign = np.zeros(outside.dense.shape[0], dtype=np.float32)
    for fold in np.union1d(inside_folds, outside_folds):
        held, kept = inside_folds == fold, outside_folds == fold
        column = fit_scope(inside.rows(np.flatnonzero(~held)), outside.rows(np.flatnonzero(~kept)))
        shown[held] = column.logits(inside.rows(np.flatnonzero(held)))
        foreign[kept] = column.logits(outside.rows(np.flatnonzero(kept)))
    return shown, foreign
