"""How much an LLM's evidence counts beside the ranker (eq. 26), fitted so that it cannot hurt.

score = log prior + noisy_channel x log P(query | agent) a token + choice x PMI(query, name).
The weights come from examples that the ranker had not seen; where the gain is within the noise of
so few, they are zero and no LLM is asked. Pure arithmetic: knows no LLM and no agent.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moma_core.errors import ArtifactError, InvalidInputError, ScoreError

__all__ = ["DEFAULT_WEIGHTS", "Case", "FusionWeights", "fit_weights", "fuse"]

Floats = npt.NDArray[np.float64]

_FORMAT = 1
_NOISY_CHANNEL = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.5, 6.0)
_CHOICE = (0.0, 0.02, 0.05, 0.1, 0.2)
_FOLDS = 5
_FEWEST = 30  # cases below which nothing can be told from noise
_BEYOND_NOISE = 1.64  # standard errors: a gain by chance passes one time in twenty


@dataclass(frozen=True, slots=True)
class FusionWeights:
    """Weights of the two kinds of evidence, and what they were fitted on.

    Args:
        noisy_channel: Of log P(query | agent) a token; 0 asks nothing.
        choice: Of the pointwise mutual information of query and name; 0 asks nothing.
        evidence: Fingerprint of the evidence they were fitted for; empty for defaults.
        n_cases: Examples they were fitted on; 0 for defaults.
        gain: Share of held-out examples that became right, less those that became wrong.

    Raises:
        InvalidInputError: A weight is negative or not finite.

    Example:
        >>> FusionWeights(noisy_channel=1.0).asks
        True
    """

    noisy_channel: float = 0.0
    choice: float = 0.0
    evidence: str = ""
    n_cases: int = 0
    gain: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.noisy_channel < np.inf and 0.0 <= self.choice < np.inf):
            raise InvalidInputError(
                "weights must be zero or more and finite, got noisy_channel="
                f"{self.noisy_channel!r}, choice={self.choice!r}. Fit them with decider.fit(...)."
            )

    @property
    def asks(self) -> bool:
        """Whether an LLM is asked at all."""
        return self.noisy_channel > 0.0 or self.choice > 0.0

    def save(self, path: str | Path) -> None:
        """Write the weights as JSON.

        Raises:
            ArtifactError: The file cannot be written.
        """
        document = {"format": _FORMAT, **dataclasses.asdict(self)}
        try:
            Path(path).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ArtifactError(f"cannot write {path} ({error}). Save elsewhere.") from error

    @classmethod
    def load(cls, path: str | Path) -> FusionWeights:
        """Read what `save` wrote.

        Raises:
            ArtifactError: The file is missing, damaged, or of another version.
        """
        try:
            document = json.loads(Path(path).read_bytes())
            if document.pop("format") != _FORMAT:
                raise ValueError(f"this version reads format {_FORMAT}")
            if missing := {field.name for field in dataclasses.fields(cls)}.difference(document):
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
            return cls(**document)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{path} holds no weights that can be read ({error}). Fit them again with "
                "decider.fit(...) and save them."
            ) from error


DEFAULT_WEIGHTS = FusionWeights(noisy_channel=1.0)
"""For agents without examples to fit on.

Determined with SmolLM2-135M on descriptions of other tools (benchmarks/LOG.md): from 0.8 to 1.3
nothing changes much, nor from 1 to 6 with its packaged adapter.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One held-out query with k candidates.

    Args:
        log_prior: The ranker's, shape (k,).
        noisy_channel: log P(query | agent) a token, shape (k,).
        choice: PMI of query and name, shape (k,); zeros where it was not asked.
        wanted: Which candidate is right; None where none of them is.
    """

    log_prior: Floats
    noisy_channel: Floats
    choice: Floats
    wanted: int | None


def fuse(
    weights: FusionWeights, log_prior: Floats, noisy_channel: Floats, choice: Floats
) -> Floats:
    """Return the candidates' log probabilities, which sum to one, shape (k,).

    Raises:
        ScoreError: A score is not finite.

    Example:
        >>> even = np.log([0.5, 0.5])
        >>> heard = fuse(FusionWeights(1.0), even, np.array([-2.0, -3.0]), np.zeros(2))
        >>> np.exp(heard).round(2).tolist()
        [0.73, 0.27]
    """
    score = log_prior + weights.noisy_channel * noisy_channel + weights.choice * choice
    if not np.isfinite(score).all():
        raise ScoreError(
            "expected a finite log prior and finite evidence for every candidate. Leave agents "
            "that may not be chosen off the list."
        )
    fused: Floats = score - np.logaddexp.reduce(score)
    return fused


def fit_weights(cases: Sequence[Case], evidence: str = "") -> FusionWeights:
    """Return the weights under which the wanted candidates are likeliest, or zeros for noise.

    Likelihood chooses, since it tells apart weights that few hundred cases being right or wrong
    cannot. By cross-validation, the weights of a fold chosen on the others, it must gain
    significantly (one-sided, 5 %), and more cases must become right than wrong, by half a standard
    error at least: a likelier answer that stays where it was helps nobody. Measured on halves of
    200 cases (benchmarks/LOG.md), this finds what helps four times as often as significance of the
    cases right alone, and takes noise for help less often.

    Args:
        cases: Queries that the ranker had not seen.
        evidence: Fingerprint of what scored them.
    """
    nothing = FusionWeights(evidence=evidence, n_cases=len(cases))
    if len(cases) < _FEWEST:
        return nothing
    grid = sorted(itertools.product(_NOISY_CHANNEL, _CHOICE), key=sum)
    judged = np.array([_judged(case, np.array(grid)) for case in cases])  # (n, 2, grid)
    likelihood = judged[:, 0]
    folds = np.arange(len(cases)) % _FOLDS
    gained = np.zeros((len(cases), 2))
    for fold in range(_FOLDS):
        pick = int(likelihood[folds != fold].mean(axis=0).argmax())
        held = folds == fold
        gained[held] = judged[held, :, pick] - judged[held, :, 0]
    likelier, better = gained.mean(axis=0)
    noise = gained.std(axis=0, ddof=1) / np.sqrt(len(cases))
    if likelier <= _BEYOND_NOISE * noise[0] or better <= 0.5 * noise[1]:
        return nothing
    noisy_channel, choice = grid[int(likelihood.mean(axis=0).argmax())]
    return FusionWeights(noisy_channel, choice, evidence, len(cases), round(float(better), 4))


def _judged(case: Case, grid: Floats) -> Floats:
    """Return the wanted one's log probability, and whether it is first, by weights, (2, g).

    Args:
        case: One without a wanted candidate counts for nobody.
        grid: Pairs of weights, shape (g, 2).
    """
    if case.wanted is None:
        return np.zeros((2, len(grid)))
    score = case.log_prior + grid @ np.stack([case.noisy_channel, case.choice])  # (g, k)
    log_prob = score[:, case.wanted] - np.logaddexp.reduce(score, axis=1)
    return np.stack([log_prob, score.argmax(axis=1) == case.wanted])
