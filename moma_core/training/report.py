"""The decision explorer: what a router decides on queries, as one page that needs no network.

Everything is asked through `route`, `choose_llm` and `rank`. The page is the packaged
``report.html`` with the decisions as JSON in it; nothing in it is run but the page's own script.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from moma_core._store import write_whole
from moma_core._tables import ENDINGS, names_in, read_table
from moma_core.decision import RoutingDecision
from moma_core.errors import InvalidDataError, NoTargetError
from moma_core.llms.selection import LEAST_USD
from moma_core.protocols import Progress
from moma_core.router import MoMARouter
from moma_core.training.lint import lint
from moma_core.types import Auto, Preference, RoutingState, is_text

__all__ = ["Asked", "explore", "page", "read_asked", "reason_kind", "write_report"]

_TRIED = 5  # agents for which one more example is tried
_FEWEST = 2  # other queries that one example must win to be worth telling
_MOST_TEXTS = 3_000  # descriptions and examples up to which a copy of the router is fitted


@dataclass(frozen=True, slots=True)
class Asked:
    """A query of a log.

    Args:
        text: Its words.
        wanted: Agents that should have taken it; empty: none should; None: not labelled.
        conversation: Queries of one conversation follow each other; empty: it stands alone.
    """

    text: str
    wanted: tuple[str, ...] | None = None
    conversation: str = ""


def read_asked(path: str | Path) -> list[Asked]:
    """Read queries: a table with query and, where there are, agents and conversation; or lines.

    Raises:
        InvalidDataError: The file cannot be read, or holds no query.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        try:
            found = [Asked(line) for line in path.read_text("utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidDataError(f"cannot read {path} ({error}).") from error
    else:
        table = read_table(path, ("query",), {"agents", "conversation"}.__contains__)
        labelled = "agents" in table.columns
        found = []
        for row, text in enumerate(table.column("query")):
            names = names_in(table.column("agents")[row])
            if not isinstance(text, str | None) or names is None:
                raise InvalidDataError(f"{table.where(row)} needs a text and a list of names.")
            told = str(table.column("conversation")[row] or "")
            found.append(Asked(text or "", tuple(names) if labelled else None, told))
    found = [each for each in found if is_text(each.text)]
    if not found:
        raise InvalidDataError(f"{path} holds no query. Give a column 'query', or a query a line.")
    return found


def explore(
    router: MoMARouter,
    asked: Sequence[Asked],
    preference: str | Preference | None = None,
    *,
    several: bool = False,
    limit: int = 2_000,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Route the queries and return all that the page shows, fit for JSON.

    Args:
        router: Decides; nothing of it changes.
        asked: The queries.
        preference: As in `MoMARouter.route`.
        several: Whether queries may be divided, as in `MoMARouter.route`.
        limit: Most queries; the rest is counted only.
        progress: Called with a label, steps done, steps in all.

    Example:
        >>> from moma_core import AgentCard
        >>> from moma_core.testing import HashEncoder
        >>> cards = [AgentCard("rain", "rain and snow"), AgentCard("sums", "adds numbers")]
        >>> router = MoMARouter.from_cards(cards, encoder=HashEncoder(), llms=None)
        >>> found = explore(router, [Asked("rain and snow", ("rain",))])
        >>> found["rows"][0]["targets"], found["labelled"]
        (['rain'], True)
    """
    tell = progress or (lambda *_: None)
    kept, states = asked[:limit], dict[str, RoutingState]()
    decisions, rows = [], []
    for done, each in enumerate(kept, 1):
        decisions.append(_decided(router, each, preference, several, states))
        rows.append(_row(router, each, decisions[-1], preference))
        tell("routing", done, len(kept))
    llms = router.llms
    auto = None if llms is None else llms.resolved("auto")
    agents = router.agent_router
    return {
        "about": f"{len(kept)} queries, {len(router.agents)} agents, "
        f"{0 if llms is None else len(llms.names)} LLMs",
        "rows": rows,
        "left_out": len(asked) - len(kept),
        "labelled": any(each.wanted is not None for each in kept),
        "threshold": float(agents.trained.gate.threshold) if len(router.agents) else 0.0,
        "points": auto.points if isinstance(auto, Auto) else None,
        "best_single": "" if llms is None else llms.best_single,
        "least_usd": LEAST_USD,
        "reranker": agents.reranker is not None,
        "tips": _tips(router, kept, decisions, tell),
    }


def _decided(
    router: MoMARouter,
    asked: Asked,
    preference: str | Preference | None,
    several: bool,
    states: dict[str, RoutingState],
) -> RoutingDecision | None:
    """Route a query in its conversation; None where nobody may take it."""
    try:
        state = states.get(asked.conversation)
        decision = router.route(asked.text, preference, state, several=several)
    except NoTargetError:
        return None
    if asked.conversation:
        states[asked.conversation] = decision.state
    return decision


def _row(
    router: MoMARouter,
    asked: Asked,
    decision: RoutingDecision | None,
    preference: str | Preference | None,
) -> dict[str, Any]:
    llms = []
    if router.llms is not None:
        chosen = decision if decision is not None and decision.kind == "llm" else None
        chosen = chosen or router.choose_llm(asked.text, preference=preference)
        llms = [[c.name, round(c.score, 4), c.cost or 0.0] for c in chosen.candidates]
    row = {
        "query": asked.text,
        "wanted": None if asked.wanted is None else list(asked.wanted),
        "llms": llms,
    }
    if decision is None:
        ranking = router.rank(asked.text)
        agents, reason = [[c.name, round(c.score, 4)] for c in ranking], ranking.reason
        nobody = {"kind": "nobody", "targets": [], "cost": 0.0, "parts": [], "state": []}
        return {
            **row, **nobody, "p": ranking.best_probability, "agents": agents, "reason": reason,
            "reason_kind": reason_kind(reason), "steps": [], "ms": 0.0,
        }  # fmt: skip
    taken = decision.kind == "agent"
    ranked = decision.candidates if taken else decision.nearest
    return {
        **row,
        "kind": decision.kind,
        "targets": list(decision.targets),
        "p": decision.probability if taken else decision.nearest_probability,
        "agents": [[each.name, round(each.score, 4)] for each in ranked],
        "cost": decision.cost or 0.0,
        "reason": decision.reason,
        "reason_kind": "" if taken else reason_kind(decision.reason),
        "parts": [[part.text, part.kind, part.target] for part in decision.parts],
        "state": list(decision.state.active),
        "steps": [[step.name, round(step.ms, 3), step.detail] for step in decision.trace],
        "ms": round(sum(step.ms for step in decision.trace), 3),
    }


def reason_kind(reason: str) -> str:
    """Return why no agent took a query without the names and numbers of that query.

    Example:
        >>> reason_kind("no agent fits: the nearest, 'news', is right with probability 0.12 and "
        ...             "0.30 is needed; auto picks 'small'")
        'no agent fits: the nearest is not sure enough'
    """
    first = reason.partition("; ")[0]
    if first.startswith("no agent fits: the nearest"):
        return "no agent fits: the nearest is not sure enough"
    return re.sub(r"\b\d+(\.\d+)?\b", "n", re.sub(r"'[^']*'", "one", first)) or "no reason given"


def _tips(
    router: MoMARouter,
    asked: Sequence[Asked],
    decisions: Sequence[RoutingDecision | None],
    tell: Progress,
) -> list[tuple[str, list[str]]]:
    """Return what to do, with what was seen of each kind."""
    groups: dict[str, list[str]] = {}
    won = _examples_that_win(router, asked, decisions, tell)
    if won:
        groups["One more example would win queries that no agent took."] = won
    for each in lint(router, tell):
        other = f" and {each.other!r}" if each.other else ""
        kind = f"{each.kind[0].upper()}{each.kind[1:]}. {each.remedy}"
        groups.setdefault(kind, []).append(f"{each.agent!r}{other}: {each.detail}")
    return list(groups.items())


def _examples_that_win(
    router: MoMARouter,
    asked: Sequence[Asked],
    decisions: Sequence[RoutingDecision | None],
    tell: Progress,
) -> list[str]:
    """Try one more example for the agents that queries came nearest to, in a copy of the router."""
    left: dict[str, list[str]] = {}
    for each, decision in zip(asked, decisions, strict=True):
        nearest = _almost(each, decision)
        if nearest in router.agents:
            left.setdefault(nearest, []).append(each.text)
    texts = sum(1 + len(card.examples) for card in router.agents)
    if not left or texts > _MOST_TEXTS:
        return []
    tell("fitting a copy to try examples", 0, 0)
    copy = _copy(router)
    tips = []
    for name, queries in sorted(left.items(), key=lambda item: -len(item[1]))[:_TRIED]:
        distinct = list(dict.fromkeys(queries))
        if len(distinct) <= _FEWEST:
            continue
        example = _middle(router, distinct)
        others = [text for text in distinct if text != example]
        won = _won(copy, name, example, others)
        if won >= _FEWEST:
            tips.append(
                f"{won} of {len(others)} other queries that no agent took would go to {name!r} "
                f"with one more example: {example[:200]!r}."
            )
    return tips


def _almost(asked: Asked, decision: RoutingDecision | None) -> str:
    """Return the agent that should, or perhaps could, have taken a query; empty for none."""
    if decision is None or decision.kind == "agent" or not decision.nearest:
        return ""
    if asked.wanted is not None:
        return asked.wanted[0] if asked.wanted else ""
    return decision.nearest[0].name


def _copy(router: MoMARouter) -> MoMARouter:
    """Return a router of the same enabled agents in memory, so that trying changes nothing."""
    agents = router.agent_router
    return MoMARouter.from_cards(
        [card for card in router.agents if card.enabled],
        llms=None,
        encoder=router.encoder,
        negatives=agents.negatives.texts[: agents.negatives.n_given],
        reranker=agents.reranker,
        refresh_every=None,
    )


def _middle(router: MoMARouter, texts: Sequence[str]) -> str:
    vectors = router.encoder.encode(texts)
    return texts[int(np.argmax(vectors @ vectors.sum(axis=0)))]


def _won(copy: MoMARouter, name: str, example: str, others: Sequence[str]) -> int:
    """Return how many more queries an agent takes with one more example."""
    if name not in copy.agents:
        return 0
    card = copy.agents[name]
    before = Counter(ranking.fits and ranking.names[0] == name for ranking in copy.rank(others))
    copy.agents.update(replace(card, examples=(*card.examples, example)))
    after = Counter(ranking.fits and ranking.names[0] == name for ranking in copy.rank(others))
    copy.agents.update(card)
    return after[True] - before[True]


def page(found: dict[str, Any]) -> str:
    """Return the page around what `explore` found.

    The JSON holds no ``<``, ``>`` or ``&``, so no text of a query can end the element it is in.

    Example:
        >>> "</script><b>" in page({"about": "</script><b>"})
        False
    """
    template = resources.files("moma_core.packaged").joinpath("report.html").read_text("utf-8")
    script = re.search(r'<script>("use strict".*?)</script>', template, re.S)
    assert script is not None  # noqa: S101 - the packaged file has it
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    data = json.dumps(found, ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        data = data.replace(character, f"\\u{ord(character):04x}")
    before, after = template.replace("@HASH@", f"sha256-{digest}").split("@DATA@")
    return before + data + after


def write_report(found: dict[str, Any], path: str | Path) -> None:
    """Write the page.

    Raises:
        ArtifactError: The file cannot be written.
    """
    write_whole(Path(path), page(found).encode())
