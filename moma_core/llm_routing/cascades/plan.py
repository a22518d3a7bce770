"""A cascade as a value: whom to ask first, and what to do after each answer.

A plan is a finite tree, known before anything is asked; whoever runs it holds the answers and asks
`CascadePlan.next` what to do. Knows no score, no client and no way to ask.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moma_core.llm_routing.answers import Normaliser, normalise_answer

__all__ = ["Accept", "Ask", "CascadePlan", "CascadeStep", "Weigh", "slowest"]


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
        return cls(root, data["score"], data["cost"], data["preference"], data["latency"])


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
