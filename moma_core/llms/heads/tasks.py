"""Tasks head: which task a query is of is predicted, and each LLM is as good as on that task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moma_core.llms.heads.logistic import LogisticConfig, fit_logistic
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "TasksConfig",
    "TasksHead",
    "fit_tasks",
]

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TasksConfig:
    """How to fit.

    Args:
        tasks: Task of each query; empty: all are of one.
        prior: Queries' worth of the overall mean that each task's mean is drawn towards.
        penalty: Ridge penalty of the logistic regressions that tell the tasks.
    """

    tasks: tuple[str, ...] = ()
    prior: float = 5.0
    penalty: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class TasksHead:
    """Averages the LLMs' scores on the tasks, weighed by how probable each is.

    Args:
        llms: Cards of the columns.
        weights: Of the tasks' logits, shape (d, k).
        bias: Shape (k,).
        scores: Quality of each LLM on each task, shape (k, m).
    """

    kind: ClassVar[str] = "tasks"
    llms: tuple[LLMCard, ...]
    weights: _Floats
    bias: _Floats
    scores: _Floats

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m)."""
        logits = embeddings @ self.weights + self.bias
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        quality: FloatArray = shares @ self.scores / shares.sum(axis=1, keepdims=True)
        return quality

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return {"weights": self.weights, "bias": self.bias, "scores": self.scores}

    @classmethod
    def from_parts(
        cls, llms: tuple[LLMCard, ...], config: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> TasksHead:
        """Rebuild from `config` and `arrays`."""
        del config
        return cls(llms, arrays["weights"], arrays["bias"], arrays["scores"])


def fit_tasks(
    inputs: FloatArray,
    scores: npt.NDArray[np.float64],
    llms: tuple[LLMCard, ...],
    config: TasksConfig,
    rng: np.random.Generator,
) -> TasksHead:
    """Fit on inputs (n, d) and complete scores (n, m)."""
    names, label = np.unique(config.tasks or ("",) * len(inputs), return_inverse=True)
    hot = np.eye(len(names))[label]
    reader = fit_logistic(inputs, hot, llms, LogisticConfig(config.penalty), rng)
    sums = hot.T @ scores + config.prior * scores.mean(axis=0)
    means = sums / (hot.sum(axis=0)[:, None] + config.prior)
    return TasksHead(llms, reader.weights, reader.bias, means.astype(np.float32))
