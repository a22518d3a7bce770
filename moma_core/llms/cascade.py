"""Plans a cascade for a query: predictions -> beliefs -> one plan a rate -> preference.

After "cascade routing" (arXiv 2410.10347): the optimal strategy from quality and cost estimates
before and after each call. Agreement between LLMs is the signal after a call (arXiv 2509.21837).
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._store import read_pair, write_pair
from moma_core.errors import ArtifactError, NoTargetError
from moma_core.llms.answers import Normaliser, normalise_answer
from moma_core.llms.cascade_planner import (
    WEIGHTS,
    Level,
    Outlook,
    Policy,
    SharedDifficulty,
    build_lattice,
    solve,
)
from moma_core.llms.costs import Sent
from moma_core.llms.router import LLMRouter
from moma_core.llms.selection import POINTS, check_latency, choose, in_time
from moma_core.types import FloatArray, Preference, parse_preference, preference_name

__all__ = [
    "CASCADE_FILES",
    "RATES",
    "Accept",
    "Ask",
    "CascadePlan",
    "CascadeRouter",
    "CascadeStep",
    "Planned",
    "Watch",
    "Weigh",
    "build_plan",
    "forget_cascade",
    "read_cascade",
    "replay",
    "single_plan",
    "slowest",
    "write_cascade",
]


@dataclass(frozen=True, slots=True)
class Accept:
    """Return the answer of this LLM, which was asked before."""

    llm: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask this LLM, then go on by what its answer agrees with.

    Args:
        llm: Whom to ask.
        new: What to do when no LLM asked before gave this answer.
        unreadable: What to do when no answer can be read from its reply.
        same: What to do when it agrees, by the name of the first LLM that gave this answer.
    """

    llm: str
    new: CascadeStep
    unreadable: CascadeStep
    same: tuple[tuple[str, CascadeStep], ...] = ()


@dataclass(frozen=True, slots=True)
class Weigh:
    """Go on by what the LLM just asked has cost: how long it thought tells how sure it was.

    Args:
        llm: Whose call is weighed.
        limits: USD, ascending.
        steps: What to do up to each limit, and beyond the last one; one more than ``limits``. The
            last one also serves where the cost is not known.
    """

    llm: str
    limits: tuple[float, ...]
    steps: tuple[CascadeStep, ...]

    def after(self, cost: float | None) -> CascadeStep:
        """Return what to do when the call cost so many USD; None: not known."""
        return self.steps[-1 if cost is None else bisect_left(self.limits, cost)]


CascadeStep = Ask | Accept | Weigh


@dataclass(frozen=True, slots=True)
class CascadePlan:
    """What to ask for one query, answer by answer.

    Args:
        root: The first call.
        score: Expected quality of the accepted answer, in [0, 1].
        cost: Expected USD of all calls together.
        preference: ``"performance"``, ``"auto"`` or ``"cost"``.
        latency: Most seconds that its calls take one after the other, by the LLMs' cards; None
            where one's is not known.
        expected: USD that one call of each LLM was expected to cost.

    Example:
        >>> strong = Ask("large", Accept("large"), Accept("large"), (("small", Accept("small")),))
        >>> plan = CascadePlan(Ask("small", strong, strong), 0.9, 1e-3)
        >>> plan.next({}).llm, plan.next({"small": "42"}).llm
        ('small', 'large')
        >>> plan.next({"small": "42", "large": "42.0"})
        Accept(llm='small')
        >>> CascadePlan.from_dict(plan.to_dict()) == plan
        True
    """

    root: Ask
    score: float
    cost: float
    preference: str = "auto"
    latency: float | None = None
    expected: Mapping[str, float] = field(default_factory=dict)

    @property
    def llms(self) -> tuple[str, ...]:
        """Every LLM that may be asked, the first one first."""
        return tuple(dict.fromkeys(_asked(self.root)))

    @property
    def calls(self) -> int:
        """Most calls that the plan can take; one means a plain choice."""
        return _depth(self.root)

    def next(
        self,
        answers: Mapping[str, str | None],
        normalise: Normaliser = normalise_answer,
        costs: Mapping[str, float] | None = None,
    ) -> Ask | Accept:
        """Return whom to ask now, or whose answer to accept.

        Args:
            answers: Final answer of each LLM asked so far; None where none could be read.
            normalise: Brings an answer to a form in which equal means the same.
            costs: USD of each call so far, from its token usage. Some plans decide better with it.
        """
        step: CascadeStep = self.root
        first: dict[str, str] = {}
        while not isinstance(step, Accept):
            if isinstance(step, Weigh):
                step = step.after((costs or {}).get(step.llm))
                continue
            if step.llm not in answers:
                return step
            raw = answers[step.llm]
            plain = None if raw is None else normalise(raw)
            if plain is None:
                step = step.unreadable
            elif plain in first:
                step = dict(step.same)[first[plain]]
            else:
                first[plain] = step.llm
                step = step.new
        return step

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain dicts for JSON."""
        return {**_shallow(self), "root": _plain(self.root)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CascadePlan:
        """Rebuild a plan from `to_dict`, also after a trip through JSON."""
        root = _step(data["root"])
        if not isinstance(root, Ask):
            raise TypeError("a plan starts with a call.")
        expected = dict(data.get("expected", {}))
        return cls(root, data["score"], data["cost"], data["preference"], data["latency"], expected)


def _shallow(plan: CascadePlan) -> dict[str, Any]:
    return {each.name: getattr(plan, each.name) for each in dataclasses.fields(plan)}


def _branches(step: Ask | Weigh) -> tuple[CascadeStep, ...]:
    if isinstance(step, Weigh):
        return step.steps
    return (step.new, step.unreadable, *(after for _, after in step.same))


def _asked(step: CascadeStep) -> list[str]:
    if isinstance(step, Accept):
        return []
    later = [name for branch in _branches(step) for name in _asked(branch)]
    return [step.llm, *later] if isinstance(step, Ask) else later


def _depth(step: CascadeStep) -> int:
    if isinstance(step, Accept):
        return 0
    return isinstance(step, Ask) + max(map(_depth, _branches(step)))


def slowest(step: CascadeStep, seconds: Mapping[str, float | None]) -> float | None:
    """Return the seconds of the slowest way through a tree, None where one is not known."""
    if isinstance(step, Accept):
        return 0.0
    own = seconds[step.llm] if isinstance(step, Ask) else 0.0
    later = [slowest(branch, seconds) for branch in _branches(step)]
    known = [each for each in later if each is not None]
    return None if own is None or len(known) < len(later) else own + max(known)


def _plain(step: CascadeStep) -> dict[str, Any]:
    if isinstance(step, Accept):
        return {"accept": step.llm}
    if isinstance(step, Weigh):
        steps = [_plain(each) for each in step.steps]
        return {"weigh": step.llm, "limits": list(step.limits), "steps": steps}
    same = {name: _plain(after) for name, after in step.same}
    new, unreadable = _plain(step.new), _plain(step.unreadable)
    return {"ask": step.llm, "new": new, "unreadable": unreadable, "same": same}


def _step(data: Mapping[str, Any]) -> CascadeStep:
    if "accept" in data:
        return Accept(data["accept"])
    if "weigh" in data:
        return Weigh(data["weigh"], tuple(data["limits"]), tuple(map(_step, data["steps"])))
    same = tuple((name, _step(after)) for name, after in data["same"].items())
    return Ask(data["ask"], _step(data["new"]), _step(data["unreadable"]), same)


_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """The LLM whose answer's length is looked at, and what counts as long.

    Args:
        llm: Its number.
        limits: USD that part lengths, by query, shape (n, bins - 1).
    """

    llm: int
    limits: _Array

    def length(self, row: int, cost: float) -> int:
        """Return how long an answer of this cost is."""
        return int(np.searchsorted(self.limits[row], cost))


def single_plan(name: str) -> Ask:
    """Return the plan that asks one LLM and accepts whatever it says."""
    return Ask(name, Accept(name), Accept(name))


def build_plan(
    levels: Sequence[Level],
    names: Sequence[str],
    policy: Policy,
    row: int,
    column: int,
    watch: Watch | None = None,
) -> Ask:
    """Return the tree of one query (``row``) at one rate (``column``)."""

    def grow(k: int, node: int, first: tuple[tuple[str, int], ...]) -> CascadeStep:
        level = levels[k]
        choice = int(policy.choices[k][row, column, node])
        if choice < k:
            return Accept(names[_accepted(level, node, choice)])
        llm = int(level.asks[node, choice - k])
        at = int((level.members[node] < llm).sum())
        children = level.children[node, choice - k]

        def after(group: int, known: tuple[tuple[str, int], ...]) -> CascadeStep:
            places = [(name, place + (place >= at)) for name, place in known]
            if group == new:
                places.append((names[llm], at))
            watched = watch is not None and watch.llm == llm
            steps = tuple(
                grow(k + 1, int(children[level.outcome(group, length)]), tuple(places))
                for length in range(level.bins if watched else 1)
            )
            if watch is None or all(step == steps[0] for step in steps):
                return steps[0]
            return Weigh(names[llm], tuple(watch.limits[row].tolist()), steps)

        new = level.new_group(node)
        same = tuple((name, after(int(level.groups[node][place]), first)) for name, place in first)
        return Ask(names[llm], after(new, first), after(-1, first), same)

    root = grow(0, 0, ())
    if not isinstance(root, Ask):
        raise TypeError("a cascade starts with a call.")
    return root


def replay(
    levels: Sequence[Level],
    policy: Policy,
    rate: npt.NDArray[np.intp],
    answers: npt.NDArray[np.int32],
    scores: _Array,
    costs: _Array,
    *,
    watch: Watch | None = None,
) -> tuple[_Array, _Array, npt.NDArray[np.bool_]]:
    """Return measured score and USD of the plan of each query, and who was asked.

    Args:
        levels: The lattice over L LLMs.
        policy: Of n queries.
        rate: Column of the plan of each query, shape (n,).
        answers: Which answers are the same, shape (n, L).
        scores: Measured quality, shape (n, L).
        costs: Measured USD, shape (n, L).
        watch: Whose answer's length is looked at.

    Returns:
        Score (n,), USD of all calls (n,), and the LLMs asked (n, L).
    """
    n = len(answers)
    gained, spent, asked = np.zeros(n), np.zeros(n), np.zeros(answers.shape, bool)
    for row in range(n):
        node = 0
        for k, level in enumerate(levels):
            choice = int(policy.choices[k][row, rate[row], node])
            if choice < k:
                gained[row] = scores[row, _accepted(level, node, choice)]
                break
            llm = int(level.asks[node, choice - k])
            spent[row] += costs[row, llm]
            asked[row, llm] = True
            group = _group(level, node, answers[row], int(answers[row, llm]))
            watched = watch is not None and watch.llm == llm
            length = watch.length(row, costs[row, llm]) if watch and watched else 0
            node = int(level.children[node, choice - k, level.outcome(group, length)])
    return gained, spent, asked


def _accepted(level: Level, node: int, group: int) -> int:
    """The cheapest LLM that gave this answer; where none is readable, the dearest LLM asked."""
    places = np.flatnonzero(level.groups[node] == group)
    return int(level.members[node][places[0] if len(places) else -1])


def _group(level: Level, node: int, answers: npt.NDArray[np.int32], answer: int) -> int:
    if answer < 0:
        return -1
    for member, group in zip(level.members[node], level.groups[node], strict=True):
        if answers[member] == answer:
            return int(group)
    return level.new_group(node)


CASCADE_FILES = "cascade.json", "cascade.safetensors"
_CASCADE_REMEDY = (
    "Train it anew (moma train llms --strategy cascade --data D.parquet --out DIR) or restore it "
    "from a copy."
)


def write_cascade(
    directory: str | Path, config: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Save config and weights.

    Raises:
        ArtifactError: The directory cannot be written.
    """
    write_pair(Path(directory), CASCADE_FILES, config, arrays)


def forget_cascade(directory: str | Path) -> None:
    """Delete the cascade of a folder whose LLMs were trained anew to be asked once."""
    for name in CASCADE_FILES:
        (Path(directory) / name).unlink(missing_ok=True)


def read_cascade(directory: str | Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the keyword arguments of `CascadeRouter` beside its base.

    Args:
        directory: Where it was saved.
        names: LLMs of the base router.

    Raises:
        ArtifactError: A file is missing, truncated, changed, or does not fit the base router.
    """
    config, arrays = read_pair(Path(directory), CASCADE_FILES, _CASCADE_REMEDY)
    try:
        difficulty = SharedDifficulty.from_arrays(arrays)
        shortlist = tuple(config["shortlist"])
        if not shortlist or not set(shortlist) <= set(names):
            raise ValueError(f"expected a shortlist among {list(names)}, got {list(shortlist)}")
        for name, values in difficulty.arrays().items():
            expected = SharedDifficulty.shapes(len(names))[name]
            if values.shape != expected or not np.isfinite(values).all():
                raise ValueError(f"{name} has shape {values.shape}, expected {expected}, finite")
        if config["watched"] not in (None, *shortlist):
            raise ValueError(f"watches {config['watched']!r}, which is not on the shortlist")
        return {
            "difficulty": difficulty,
            "shortlist": shortlist,
            "watched": config["watched"],
            "depth": int(config["depth"]),
            "unit": float(config["unit"]),
            "metadata": dict(config["training"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{str(directory)!r} does not hold together ({error!r}). {_CASCADE_REMEDY}"
        ) from error


RATES = (0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.11, 0.15, 0.2, 0.3, 0.5)
"""Score that must be gained for what the best single LLM costs on average, one plan each."""

_CHUNK = 32


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """Candidate plans of n queries: one a rate, and the anchor LLM alone in the last column.

    Args:
        names: The LLMs that may be asked, cheapest first.
        anchor: The LLM that stands alone in the last column.
        levels: Their lattice.
        policy: What to do at each node.
        scores: Expected score, shape (n, R + 1).
        costs: Expected USD, shape (n, R + 1).
        watch: Whose answer's length the plans look at.
    """

    names: tuple[str, ...]
    anchor: str
    levels: tuple[Level, ...]
    policy: Policy
    scores: _Array
    costs: _Array
    watch: Watch | None = None
    points: float = POINTS

    def choose(self, preference: Preference) -> npt.NDArray[np.intp]:
        """Return the column of the chosen plan of each query, shape (n,)."""
        last = self.scores.shape[1] - 1
        return choose(self.costs, self.scores, preference, last, points=self.points)


@dataclass(frozen=True, slots=True, eq=False)
class CascadeRouter:
    """Plans which LLMs to ask, in which order, and when to accept, from predicted quality and cost.

    Args:
        base: Predicts quality and cost of each LLM.
        difficulty: What the answers of some say about the others.
        shortlist: LLMs worth asking in a cascade, cheapest first.
        depth: Most calls of a plan; 1 makes it a plain choice.
        unit: USD that the rates refer to: the mean cost of the best single LLM in training.
        watched: The LLM whose answer's length, seen by its cost, plans look at too.
        metadata: What it was trained on, JSON-like.
    """

    base: LLMRouter
    difficulty: SharedDifficulty
    shortlist: tuple[str, ...]
    depth: int
    unit: float
    watched: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def plan(
        self,
        text: str,
        vector: FloatArray,
        preference: str | Preference | None = None,
        exclude: Collection[str] = (),
        max_latency: float | None = None,
        *,
        tokens: float | None = None,
    ) -> CascadePlan:
        """Return what to ask for one query.

        Args:
            text: The query's words.
            vector: Its unit vector, shape (d,).
            preference: See `types.parse_preference`; None means auto.
            exclude: LLMs that may not be asked now.
            max_latency: Most seconds of all calls, one after the other, by `LLMCard.latency`. The
                fastest LLM alone where none is in time; an unknown latency counts as none.
            tokens: Of all that an LLM will read, the conversation among it; None: of ``text``.

        Raises:
            InvalidPreferenceError: No such preference, or a latency that is no number.
            NoTargetError: No LLM is left.
        """
        wanted = parse_preference(preference)
        limit = check_latency(max_latency)
        sent = None if tokens is None else [Sent(tokens)]
        quality, costs = self.base.predict([text], np.asarray(vector)[None], sent)
        planned = self.plan_predicted(quality, costs, exclude, limit=limit)
        column = int(planned.choose(wanted)[0])
        score, cost = float(planned.scores[0, column]), float(planned.costs[0, column])
        label = preference_name(wanted)
        if column == len(RATES):
            root = single_plan(planned.anchor)
        else:
            root = build_plan(
                planned.levels, planned.names, planned.policy, 0, column, planned.watch
            )
        names = self.base.names
        seconds = dict(zip(names, self.base.latencies(names), strict=True))
        expected = dict(zip(names, costs[0].tolist(), strict=True))
        return CascadePlan(root, score, cost, label, slowest(root, seconds), expected)

    def predict(
        self,
        texts: Sequence[str],
        vectors: FloatArray,
        exclude: Collection[str] = (),
        limit: float = np.inf,
    ) -> Planned:
        """Return the candidate plans of n queries; vectors of shape (n, d).

        Raises:
            NoTargetError: No LLM is left.
        """
        quality, costs = self.base.predict(texts, vectors)
        return self.plan_predicted(quality, costs, exclude, limit=limit)

    def plan_predicted(
        self,
        quality: _Array,
        costs: _Array,
        exclude: Collection[str] = (),
        rates: Sequence[float] = RATES,
        limit: float = np.inf,
    ) -> Planned:
        """Return the candidate plans from predicted quality and USD of the whole pool, (n, m)."""
        names = self._allowed(exclude, limit)
        columns = [self.base.names.index(name) for name in names]
        watched = names.index(self.watched) if self.watched in names else None
        lengths = self.difficulty.lengths[columns]
        bins = 1 if watched is None else lengths.shape[1]
        levels = build_lattice(len(names), self.depth, watched, bins)
        usd_rates = np.array(rates) / max(self.unit, 1e-12)
        kept = self.difficulty.only(columns)
        probabilities = kept.probabilities(quality[:, columns])
        spending = kept.spending(costs[:, columns])
        mistake = self.difficulty.popular_mistake(quality)
        seconds = np.array([each or 0.0 for each in self.base.latencies(names)])
        outlook = Outlook(
            probabilities,
            spending,
            kept.unreadable,
            mistake,
            watched,
            np.ones((1, 2, 1)) if watched is None else lengths[watched],
            seconds,
            limit,
        )
        policy = _joined([solve(levels, part, usd_rates) for part in _chunks(outlook)])
        best = self.base.best_single
        anchor = names.index(best) if best in names else len(names) - 1
        alone = (
            (probabilities[:, anchor] @ WEIGHTS)[:, None],
            (spending[:, anchor] @ WEIGHTS)[:, None],
        )
        return Planned(
            names,
            names[anchor],
            levels,
            policy,
            np.concatenate([policy.scores, alone[0]], axis=1),
            np.concatenate([policy.costs, alone[1]], axis=1),
            None if watched is None else Watch(watched, kept.limits(costs[:, columns])[:, watched]),
            self.base.points,
        )

    def _allowed(self, exclude: Collection[str], limit: float) -> tuple[str, ...]:
        left = tuple(name for name in self.shortlist if name not in exclude)
        left = left or tuple(n for n in self.base.names if n not in exclude)[-1:]
        if not left:
            raise NoTargetError(
                f"none of the {len(self.base.names)} LLMs may be asked. Enable one, or train a "
                "pool with moma train llms --strategy cascade."
            )
        fits = in_time(self.base.latencies(left), limit)
        return tuple(name for name, kept in zip(left, fits, strict=True) if kept)

    def over(self, base: LLMRouter) -> CascadeRouter:
        """Return the cascade over a pool changed by `LLMRouter.add`, `remove` or `reprice`.

        An LLM that left is asked no more. A new one is on no plan, because nobody knows yet whom
        it agrees with: train anew for that. Prices hold at once.
        """
        old = self.base.names
        places = [old.index(name) if name in old else None for name in base.names]
        shortlist = tuple(name for name in self.shortlist if name in base.names)
        return replace(
            self,
            base=base,
            difficulty=self.difficulty.only(places),
            shortlist=shortlist or (base.best_single,),
            watched=self.watched if self.watched in base.names else None,
        )

    def save(self, directory: str | Path) -> None:
        """Write the base router's files, ``cascade.json`` and ``cascade.safetensors``.

        Raises:
            ArtifactError: They cannot be written.
        """
        self.base.save(directory)
        config = {
            "shortlist": list(self.shortlist),
            "depth": self.depth,
            "watched": self.watched,
            "unit": self.unit,
            "training": dict(self.metadata),
        }
        write_cascade(directory, config, self.difficulty.arrays())

    @classmethod
    def load(cls, directory: str | Path) -> CascadeRouter:
        """Read what `save` wrote.

        Raises:
            ArtifactError: A file is missing, truncated, changed, or of another version.
        """
        base = LLMRouter.load(directory)
        return cls(base, **read_cascade(directory, base.names))


def _chunks(outlook: Outlook) -> Iterator[Outlook]:
    """Return an outlook's queries a few at a time: plans of all at once want much memory."""
    for start in range(0, len(outlook.probabilities), _CHUNK):
        rows = slice(start, start + _CHUNK)
        yield replace(
            outlook,
            probabilities=outlook.probabilities[rows],
            spending=outlook.spending[rows],
            mistake=outlook.mistake[rows],
        )


def _joined(parts: Sequence[Policy]) -> Policy:
    if len(parts) == 1:
        return parts[0]
    return Policy(
        tuple(np.concatenate(level) for level in zip(*(p.choices for p in parts), strict=True)),
        np.concatenate([p.scores for p in parts]),
        np.concatenate([p.costs for p in parts]),
    )
