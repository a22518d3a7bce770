"""The final decision by a local LLM, fused with the ranker so that it cannot hurt (eq. 26)."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moma_core._checks import parse_json
from moma_core._store import write_whole
from moma_core.decoding.evidence import ChoiceLikelihood, Evidence, NoisyChannel, choice_prompt
from moma_core.decoding.generate import ordered_names
from moma_core.decoding.local_llm import PACKAGED_ADAPTERS, LocalLLM, merge_adapter
from moma_core.decoding.trie import NamePrior, NameTrie
from moma_core.errors import ArtifactError, InvalidInputError, ScoreError, UnknownNameError
from moma_core.protocols import Progress
from moma_core.types import AgentCard, Query

__all__ = [
    "DEFAULT_WEIGHTS",
    "Case",
    "FusedDecider",
    "FusionWeights",
    "HeldOut",
    "fit_weights",
    "fuse",
]

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
        write_whole(Path(path), (json.dumps(document, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> FusionWeights:
        """Read what `save` wrote.

        Raises:
            ArtifactError: The file is missing, damaged, or of another version.
        """
        try:
            document = parse_json(Path(path).read_bytes(), any_number=True)
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


class HeldOut(Protocol):
    """An example of an agent, and how a ranker listed it that had not seen it."""

    @property
    def query(self) -> str:
        """The example."""

    @property
    def names(self) -> tuple[str, ...]:
        """The agents listed, k of them."""

    @property
    def log_prior(self) -> tuple[float, ...]:
        """Their log probabilities, length k."""

    @property
    def wanted(self) -> str:
        """The agent whose example it is."""


@dataclass(frozen=True)
class FusedDecider:
    """Gives each agent of a shortlist its probability, the LLM's say weighed against the ranker's.

    Args:
        noisy_channel: Scores queries under agents.
        choice: Scores names after queries; None leaves that out.
        weights: Fitted by `fit`, or the defaults.
        sure: Share of the shortlist's probability from which the ranker's first agent is taken
            without asking the LLM.

    Raises:
        InvalidInputError: ``weights`` were fitted for other evidence or need evidence that is
            missing, or ``sure`` is not in (0, 1].
    """

    noisy_channel: Evidence
    choice: Evidence | None = None
    weights: FusionWeights = DEFAULT_WEIGHTS
    sure: float = 0.99

    def __post_init__(self) -> None:
        if not 0.0 < self.sure <= 1.0:
            raise InvalidInputError(f"sure is a share in (0, 1], got {self.sure!r}.")
        if self.weights.evidence not in ("", self.fingerprint):
            raise InvalidInputError(
                f"these weights were fitted for {self.weights.evidence!r}, not "
                f"{self.fingerprint!r}. Fit them again: decider.fit(...)."
            )
        if self.weights.choice and self.choice is None:
            raise InvalidInputError(
                "these weights need the choice likelihood. Pass choice=ChoiceLikelihood(llm)."
            )

    @classmethod
    def load(
        cls,
        llm: str | LocalLLM = "smollm2",
        weights: FusionWeights = DEFAULT_WEIGHTS,
        *,
        choice: bool = False,
        sure: float = 0.99,
    ) -> FusedDecider:
        """Build a decider around a local LLM.

        Args:
            llm: As `LocalLLM.load` takes it, or one that is loaded. SmolLM2 by its short name gets
                the packaged adapter, trained to tell agents apart that it has not seen.
            weights: Of the evidence.
            choice: Whether to be able to weigh the LLM's choice among names, too.
            sure: As above.

        Raises:
            ArtifactError: The LLM is not installed or damaged.
            MissingExtraError: The ``[llm]`` extra is not installed.
        """
        known = llm if isinstance(llm, LocalLLM) else LocalLLM.load(llm)
        adapter = PACKAGED_ADAPTERS.get(llm) if isinstance(llm, str) else None
        if adapter:
            merge_adapter(known.model, adapter)
        names = ChoiceLikelihood(known) if choice or weights.choice else None
        return cls(NoisyChannel(known), names, weights, sure)

    @property
    def fingerprint(self) -> str:
        """What fitted weights depend on."""
        return self.noisy_channel.fingerprint

    def decide(
        self, query: str | Query, cards: Sequence[AgentCard], log_prior: npt.ArrayLike
    ) -> npt.NDArray[np.float64]:
        """Return the probability of each agent, summing to one, shape (k,).

        Args:
            query: The user's words, or a query; its history is not looked at.
            cards: k eligible agents, at least one.
            log_prior: The ranker's log probabilities, up to a constant, shape (k,).

        Raises:
            InvalidInputError: There is no agent, or not one log probability for each.
            ScoreError: A log probability is not finite, or the LLM gave NaN.
        """
        prior = _checked(cards, log_prior)
        nothing = np.zeros(len(cards))
        alone = fuse(FusionWeights(), prior, nothing, nothing)
        if not self.weights.asks or float(np.exp(alone.max())) >= self.sure:
            return np.exp(alone)
        text = Query.of(query).text
        return np.exp(fuse(self.weights, prior, *self._evidence(text, cards, self.weights)))

    def order(
        self,
        query: str | Query,
        cards: Sequence[AgentCard],
        log_prior: npt.ArrayLike,
        count: int,
    ) -> tuple[str, ...]:
        """Return ``count`` different agents in order, each chosen after the ones before it.

        With a weight on the choice likelihood the LLM reads the names chosen so far; without one
        the order is that of `decide`.

        Args:
            query: The user's words.
            cards: k eligible agents.
            log_prior: As in `decide`.
            count: How many; at most k are returned.

        Raises:
            InvalidInputError: As in `decide`; or ``count`` is less than 1.
            ScoreError: As in `decide`.
        """
        if count < 1:
            raise InvalidInputError(f"count must be 1 or more, got {count!r}.")
        probabilities = self.decide(query, cards, log_prior)
        names = [card.name for card in cards]
        if not (isinstance(self.choice, ChoiceLikelihood) and self.weights.choice):
            best = np.argsort(-probabilities, kind="stable")[:count]
            return tuple(names[i] for i in best)
        llm = self.choice.llm
        end = llm.tokens("\n")[-1]
        trie = NameTrie.from_names(names, llm.tokenizer, terminator=end, lead=" ")
        # The LLM's own say has weight one along the trie, so the prior's is scaled up instead.
        mass = np.log(np.maximum(probabilities, 1e-12)) / self.weights.choice
        found = ordered_names(
            llm.model,
            trie,
            llm.prompt(choice_prompt(self.choice.clipped(Query.of(query).text))),
            llm.tokens(", then"),
            at_most=min(count, len(cards)),
            at_least=min(count, len(cards)),
            prior=NamePrior(trie, mass),
        )
        return found.names

    def fit(
        self,
        held_out: Sequence[HeldOut],
        cards: Mapping[str, AgentCard],
        progress: Progress | None = None,
    ) -> FusedDecider:
        """Return a decider whose weights were fitted on held-out examples; zero where it is noise.

        Args:
            held_out: Examples as listed by a ranker that had not seen them, a few hundred.
            cards: Every listed agent by its name.
            progress: Told of each example scored.

        Raises:
            UnknownNameError: A listed agent has no card.
        """
        tell = progress or (lambda _label, _done, _total: None)
        everything = FusionWeights(1.0, 1.0 if self.choice else 0.0)
        cases = []
        for i, row in enumerate(held_out):
            tell("asking the LLM about held-out examples", i, len(held_out))
            missing = [name for name in row.names if name not in cards]
            if missing:
                raise UnknownNameError(f"agent {missing[0]!r} is listed and has no card. Pass it.")
            listed = [cards[name] for name in row.names]
            noisy, choice = self._evidence(row.query, listed, everything)
            wanted = row.names.index(row.wanted) if row.wanted in row.names else None
            cases.append(Case(np.array(row.log_prior), noisy, choice, wanted))
        weights = fit_weights(cases, self.fingerprint)
        return type(self)(self.noisy_channel, self.choice, weights, self.sure)

    def _evidence(
        self, query: str, cards: Sequence[AgentCard], weights: FusionWeights
    ) -> tuple[Floats, Floats]:
        nothing = np.zeros(len(cards))
        noisy = self.noisy_channel.scores(query, cards) if weights.noisy_channel else nothing
        asked = self.choice is not None and weights.choice
        return noisy, self.choice.scores(query, cards) if asked and self.choice else nothing


def _checked(cards: Sequence[AgentCard], log_prior: npt.ArrayLike) -> Floats:
    prior = np.asarray(log_prior, dtype=np.float64)
    if not cards or prior.shape != (len(cards),):
        raise InvalidInputError(
            f"expected one log probability for each of at least one agent, got {len(cards)} agents "
            f"and shape {prior.shape}. Pass the ranker's shortlist."
        )
    return prior
