"""Fits the ranker's columns to few-shot examples: softmax regression around a prior.

    minimise  sum_i -log softmax(x_i W)_{y_i}  +  l2/2 ||W - W0||^2

W0 holds the columns that the descriptions alone give. Agents whose columns stay as they are
("frozen") enter through one number a text, the log-sum-exp of their logits: so fitting all agents
and adding a single one are the same few lines, and adding one leaves every other column alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.lexical import N_WORD_FEATURES
from moma_core.agent_routing.ranker import Columns, Features
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt
    from scipy.sparse import csr_matrix

__all__ = ["HELD", "fit_columns", "logsumexp"]

_L2 = 1.0
_BIAS_L2 = 0.01
HELD = 1e6
"""Penalty that holds a bias: texts of one agent alone would raise it until it took every query."""

_MAX_LEARNED_TERMS = 16_384  # the most frequent n-grams; the rest keep their prior weight
_RARE_FROM = 2_000  # with so many examples, n-grams seen once or twice are left alone
_PRUNE = 0.01  # smaller changes of an n-gram's weight are dropped


def logsumexp(logits: FloatArray) -> FloatArray:
    """Return log(sum(exp(logits))) along the last axis, without overflow; -inf for no columns."""
    if logits.shape[-1] == 0:
        return np.full(logits.shape[:-1], -np.inf, dtype=np.float32)
    top = logits.max(axis=-1, keepdims=True)
    total: FloatArray = np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
    return total


def fit_columns(
    features: Features,
    owners: npt.NDArray[np.intp],
    prior: Columns,
    frozen: FloatArray | None = None,
    max_iterations: int = 30,
    bias_l2: float = _BIAS_L2,
) -> Columns:
    """Return columns fitted to labelled texts.

    Args:
        features: n texts.
        owners: For each text the row of ``prior`` that should take it, or ``len(prior.bias)``
            when one of the frozen agents should; shape (n,).
        prior: The k columns to start from and to stay near to.
        frozen: Log-sum-exp of the logits of all agents that are not being fitted, shape (n,).
        max_iterations: Of L-BFGS; 30 is within noise of convergence on our data.
        bias_l2: Penalty of a bias; `HELD` for a column that is fitted alone.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    terms = _learned_terms(features.lexical)
    problem = _Problem(
        dense=features.dense,
        lexical=features.lexical[:, terms],
        targets=_one_hot(owners, prior.bias.shape[0] + 1),
        offsets=_offsets(features, prior, frozen),
        bias_l2=bias_l2,
    )
    # More BLAS threads only spin between L-BFGS' many small steps: measured 2.7 times slower.
    with threadpool_limits(1, "blas"):
        result = minimize(
            problem.loss_and_gradient,
            np.zeros(problem.n_parameters),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_iterations, "maxcor": 8, "ftol": 1e-7},
        )
    dense, lexical, bias = problem.unpack(result.x.astype(np.float32))
    return Columns(
        prior.dense + dense.T,
        _add_terms(prior.lexical, terms, lexical),
        prior.bias + bias,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """The objective over changes of the k columns; the last target column is "frozen"."""

    dense: FloatArray  # (n, d)
    lexical: csr_matrix  # (n, t)
    targets: FloatArray  # (n, k + 1)
    offsets: FloatArray  # (n, k + 1): logits under the prior, and of the frozen agents
    bias_l2: float

    @property
    def n_parameters(self) -> int:
        rows: int = self.dense.shape[1] + self.lexical.shape[1] + 1
        return rows * int(self.targets.shape[1] - 1)

    def unpack(self, flat: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        k, d, t = self.targets.shape[1] - 1, self.dense.shape[1], self.lexical.shape[1]
        matrix = flat.reshape(d + t + 1, k)
        return matrix[:d], matrix[d : d + t], matrix[d + t]

    def loss_and_gradient(
        self, flat: npt.NDArray[np.float64]
    ) -> tuple[float, npt.NDArray[np.float64]]:
        dense, lexical, bias = self.unpack(flat.astype(np.float32))
        logits = self.offsets.copy()
        logits[:, :-1] += self.dense @ dense + self.lexical @ lexical + bias
        total = logsumexp(logits)
        chosen = (np.where(self.targets > 0, logits, 0.0)).sum(axis=1)
        loss = float((total - chosen).sum(dtype=np.float64))
        loss += 0.5 * _L2 * float((dense**2).sum() + (lexical**2).sum())
        loss += 0.5 * self.bias_l2 * float((bias**2).sum())
        slope = (np.exp(logits - total[:, None]) - self.targets)[:, :-1]  # (n, k)
        gradient = (
            self.dense.T @ slope + _L2 * dense,
            self.lexical.T @ slope + _L2 * lexical,
            (slope.sum(axis=0) + self.bias_l2 * bias)[None, :],
        )
        return loss, np.concatenate(gradient).ravel().astype(np.float64)


def _offsets(features: Features, prior: Columns, frozen: FloatArray | None) -> FloatArray:
    others = np.full(features.dense.shape[0], -1e9) if frozen is None else frozen
    return np.column_stack([prior.logits(features), np.maximum(others, -1e9)]).astype(np.float32)


def _one_hot(owners: npt.NDArray[np.intp], width: int) -> FloatArray:
    targets = np.zeros((owners.size, width), dtype=np.float32)
    targets[np.arange(owners.size), owners] = 1.0
    return targets


def _learned_terms(lexical: csr_matrix) -> npt.NDArray[np.intp]:
    # Character n-grams are five times as many and add nothing once there are examples: they keep
    # the weights that descriptions give them.
    seen = np.bincount(lexical.indices, minlength=lexical.shape[1])[:N_WORD_FEATURES]
    terms = np.flatnonzero(seen >= (3 if lexical.shape[0] >= _RARE_FROM else 1))
    if terms.size > _MAX_LEARNED_TERMS:
        terms = np.sort(terms[np.argsort(-seen[terms], kind="stable")[:_MAX_LEARNED_TERMS]])
    return terms


def _add_terms(prior: csr_matrix, terms: npt.NDArray[np.intp], change: FloatArray) -> csr_matrix:
    """Return ``prior`` (k, N_FEATURES) plus ``change`` (t, k) at columns ``terms``, pruned."""
    from scipy.sparse import csr_matrix

    term, agent = np.nonzero(np.abs(change) > _PRUNE)
    moved = csr_matrix((change[term, agent], (agent, terms[term])), shape=prior.shape)
    return (prior + moved).tocsr()
