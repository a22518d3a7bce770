"""Which threshold and which negatives a router should have, from labelled queries.

Both are chosen on one part of the rows and measured on the rest, which nothing looked at before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.agents.data import LabelledQueries
from moma_core.agents.gate import Negatives
from moma_core.decision import Ranking
from moma_core.errors import InvalidDataError
from moma_core.protocols import Progress
from moma_core.router import MoMARouter
from moma_core.training.evaluate_agents import ranked
from moma_core.training.plots import canvas, write_picture

__all__ = ["Figures", "Tuning", "draw_tuning", "figures", "tune"]

_FEWEST = 30  # labelled rows that the router does not know
_FEWEST_NEGATIVES = 4
_TUNED = 2 / 3  # share of the rows on which the choice is made
_FOLDS = 5
_DRAWS = 2_000


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of labelled queries, as shares of all.

    Args:
        right: The wanted agent took it, or none was wanted and none did.
        wrong_agent: An agent that was not wanted took it.
        missed: An agent was wanted, and none took it.
    """

    right: float
    wrong_agent: float
    missed: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """What pays, and what it was worth on rows that had no part in the choice.

    Args:
        min_probability: Threshold for ``router.route(min_probability=...)``; None: the gate's own.
        negatives: Queries for ``MoMARouter.from_cards(negatives=...)``; empty where none pay.
        rows: Labelled rows in all, those that the router knows already left out.
        known: Rows left out as they are an agent's examples or negatives.
        held_out: Rows that ``before`` and ``after`` were measured on.
        before: As the router is.
        after: With what is advised.
        gain: Share right after less before.
        gain_range: Its 95 % interval over draws of the held-out rows.
        curve: Threshold, share right, wrong agent and missed on the rows of the choice.
    """

    min_probability: float | None
    negatives: tuple[str, ...]
    rows: int
    known: int
    held_out: int
    before: Figures
    after: Figures
    gain: float
    gain_range: tuple[float, float]
    curve: tuple[tuple[float, float, float, float], ...]

    @property
    def pays(self) -> bool:
        """Whether the whole interval of the gain is above zero."""
        return self.gain_range[0] > 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "pays": self.pays}


@dataclass(frozen=True, slots=True)
class _Rows:
    """Labelled rows with what the router said: who came first, how sure, and whether it fits."""

    wanted: npt.NDArray[np.bool_]  # whether any agent is
    right: npt.NDArray[np.bool_]  # whether the first one is
    probability: npt.NDArray[np.float64]
    fits: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, rankings: Sequence[Ranking], agents: Sequence[Sequence[str]]) -> _Rows:
        first = [r.names[0] if r else "" for r in rankings]
        return cls(
            np.array([bool(names) for names in agents]),
            np.array([name in names for name, names in zip(first, agents, strict=True)]),
            np.array([r.best_probability for r in rankings]),
            np.array([r.fits for r in rankings]),
        )

    def take(self, rows: npt.NDArray[np.intp]) -> _Rows:
        return _Rows(self.wanted[rows], self.right[rows], self.probability[rows], self.fits[rows])

    def taken(self, threshold: float | None) -> npt.NDArray[np.bool_]:
        return self.fits if threshold is None else self.probability >= threshold

    def good(self, threshold: float | None) -> npt.NDArray[np.bool_]:
        taken = self.taken(threshold)
        return (taken & self.right) | (~taken & ~self.wanted)


def figures(
    rankings: Sequence[Ranking],
    agents: Sequence[Sequence[str]],
    min_probability: float | None = None,
) -> Figures:
    """Return what came of labelled queries, as the router is or from another threshold on.

    Example:
        >>> from moma_core import Candidate
        >>> one = Ranking((Candidate("weather", 0.4),), 0.5, best_probability=0.4, fits=False)
        >>> figures([one, one], [["weather"], []], min_probability=0.3)
        Figures(right=0.5, wrong_agent=0.5, missed=0.0)
    """
    return _figures(_Rows.of(rankings, agents), min_probability)


def _figures(rows: _Rows, threshold: float | None) -> Figures:
    taken = rows.taken(threshold)
    return Figures(
        float(rows.good(threshold).mean()),
        float((taken & ~rows.right).mean()),
        float((~taken & rows.wanted).mean()),
    )


def tune(
    router: MoMARouter, labelled: LabelledQueries, seed: int = 0, progress: Progress | None = None
) -> Tuning:
    """Choose threshold or negatives on two thirds of the rows, and measure that on the others.

    On the two thirds, each way is compared on folds that it was not fitted to: the gate's own
    threshold, the one with most queries right, and more negatives. The router is as before when
    this returns.

    Args:
        router: Knows the agents; its negatives change while this runs.
        labelled: Queries with the agents wanted for each, as users ask them.
        seed: Of the split.
        progress: Called with a label, steps done, steps in all.

    Raises:
        InvalidDataError: There are too few rows that the router does not know.
    """
    tell = progress or (lambda *_: None)
    texts, agents, known = _unknown(router, labelled)
    order = np.random.default_rng(seed).permutation(len(texts))
    cut = round(_TUNED * len(texts))
    chosen, rest = order[:cut], order[cut:]
    rows = _Rows.of(ranked(router, texts, tell, "routing"), agents)
    tuned = rows.take(chosen)
    none = [texts[row] for row in chosen.tolist() if not agents[row]]
    worth = {
        "as it is": float(tuned.good(None).mean()),
        "threshold": _worth_of_threshold(tuned),
        "negatives": _worth_of_negatives(router, texts, agents, chosen, tell),
    }
    best = max(worth, key=worth.__getitem__)
    threshold = _best_threshold(tuned) if best == "threshold" else None
    negatives = tuple(none) if best == "negatives" else ()
    before = rows.take(rest)
    after = before
    if negatives:
        with_them = _with_negatives(router, negatives, [texts[i] for i in rest.tolist()], tell)
        after = _Rows.of(with_them, [agents[i] for i in rest.tolist()])
    gains = after.good(threshold).astype(float) - before.good(None)
    return Tuning(
        min_probability=threshold,
        negatives=negatives,
        rows=len(texts),
        known=known,
        held_out=len(rest),
        before=_figures(before, None),
        after=_figures(after, threshold),
        gain=float(gains.mean()),
        gain_range=_interval(gains, seed),
        curve=_curve(tuned),
    )


def _unknown(
    router: MoMARouter, labelled: LabelledQueries
) -> tuple[list[str], list[Sequence[str]], int]:
    """Return the rows that the router was not fitted to, and how many it was."""
    learnt = {text for card in router.agents for text in card.examples}
    learnt.update(router.agent_router.negatives.texts)
    kept = dict(zip(labelled.texts, labelled.agents, strict=True))
    left = {text: names for text, names in kept.items() if text not in learnt}
    strange = {name for names in left.values() for name in names if name not in router.agents}
    if strange:
        raise InvalidDataError(
            f"a labelled query wants {min(strange)!r}, which the router does not know. Register it "
            "or drop the row."
        )
    if len(left) < _FEWEST:
        raise InvalidDataError(
            f"{len(left)} labelled rows are new to the router ({len(kept) - len(left)} are its own "
            f"examples or negatives); {_FEWEST} are needed to choose and to measure."
        )
    return list(left), list(left.values()), len(kept) - len(left)


def _thresholds(rows: _Rows) -> npt.NDArray[np.float64]:
    values = np.unique(np.concatenate([[0.0, 1.0], rows.probability]))
    middles: npt.NDArray[np.float64] = (values[1:] + values[:-1]) / 2
    return middles


def _best_threshold(rows: _Rows) -> float:
    """Return the middle of the thresholds at which most queries come out right."""
    tried = _thresholds(rows)
    right = np.array([rows.good(threshold).sum() for threshold in tried])
    best = tried[right == right.max()]
    return round(float(best[len(best) // 2]), 3)


def _worth_of_threshold(rows: _Rows) -> float:
    """Return the share right where each fold's threshold was chosen on the other folds."""
    place = np.arange(len(rows.fits))
    good = [
        rows.take(place[place % _FOLDS == fold]).good(
            _best_threshold(rows.take(place[place % _FOLDS != fold]))
        )
        for fold in range(_FOLDS)
    ]
    return float(np.concatenate(good).mean())


def _worth_of_negatives(
    router: MoMARouter,
    texts: Sequence[str],
    agents: Sequence[Sequence[str]],
    chosen: npt.NDArray[np.intp],
    tell: Progress,
) -> float:
    """Return the share right where each half is asked with the other half's negatives."""
    good = []
    for mine, others in ((chosen[::2], chosen[1::2]), (chosen[1::2], chosen[::2])):
        negatives = [texts[row] for row in others.tolist() if not agents[row]]
        if len(negatives) < _FEWEST_NEGATIVES:
            return -1.0
        asked = [texts[row] for row in mine.tolist()]
        rankings = _with_negatives(router, negatives, asked, tell)
        good.append(_Rows.of(rankings, [agents[row] for row in mine.tolist()]).good(None))
    return float(np.concatenate(good).mean())


def _with_negatives(
    router: MoMARouter, negatives: Sequence[str], asked: Sequence[str], tell: Progress
) -> list[Ranking]:
    """Rank with more negatives than the router has, and give it back its own."""
    agents = router.agent_router
    own: Negatives = agents.negatives
    agents.set_negatives(own.also(negatives, router.encoder))
    try:
        router.fit(tell)
        return ranked(router, asked, tell, "routing with more negatives")
    finally:
        agents.set_negatives(own)


def _interval(gains: npt.NDArray[np.float64], seed: int) -> tuple[float, float]:
    draws = np.random.default_rng(seed).integers(0, len(gains), (_DRAWS, len(gains)))
    low, high = np.quantile(gains[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _curve(rows: _Rows) -> tuple[tuple[float, float, float, float], ...]:
    points = []
    for threshold in np.linspace(0.0, 1.0, 51).tolist():
        found = _figures(rows, threshold)
        points.append((threshold, found.right, found.wrong_agent, found.missed))
    return tuple(points)


def draw_tuning(found: Tuning, path: str | Path) -> None:
    """Draw what each threshold brings on the rows of the choice, and what was held out.

    Raises:
        ArtifactError: The file cannot be written.
    """
    figure, (axes,) = canvas(6.5, 4.5)
    thresholds, *shares = zip(*found.curve, strict=True)
    for values, name, style in zip(
        shares, ("right", "wrong agent", "missed"), ("-", "--", ":"), strict=True
    ):
        axes.plot(thresholds, values, style, color="black", label=f"{name} (rows of the choice)")
    at = found.min_probability
    if at is not None:
        axes.axvline(at, color="0.6", label=f"advised {at:.2f}")
        axes.plot([at], [found.after.right], "ks", label="right after, held out")
    axes.axhline(found.before.right, color="0.6", ls="-.", label="right before, held out")
    axes.set(xlabel="min_probability", ylabel="share of queries", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"{found.rows - found.held_out} rows to choose, {found.held_out} to measure")
    axes.legend(fontsize=7, loc="center right")
    write_picture(figure, path)
