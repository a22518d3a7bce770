"""MoMA's main loop: encode once, agents first, an LLM when none fits (method.md, sect. 1).

`MoMARouter` composes an encoder, an `AgentRouter` and an `LLMRouter`. It decides; adapters invoke.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from moma_core._store import write_whole
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.categories import Category, Taxonomy
from moma_core.agents.compound import in_parts
from moma_core.agents.conversation import encode_readings
from moma_core.agents.gate import Negatives
from moma_core.agents.router import AgentRouter
from moma_core.agents.states import StateMachine
from moma_core.agents.training import Progress, read_trained, trained_exists, write_trained
from moma_core.encoder import MiniLMEncoder
from moma_core.errors import ArtifactError, InvalidInputError, InvalidQueryError, NoTargetError
from moma_core.health import Health
from moma_core.llms.feedback import TakesFeedback
from moma_core.llms.router import LLMRouter
from moma_core.llms.selection import parse_preference, preference_name
from moma_core.protocols import Encoder, FinalDecider, Registry
from moma_core.registry.memory import MemoryRegistry
from moma_core.teams.planner import TEAM_FILES
from moma_core.teams.router import TeamRouter, team_instead
from moma_core.types import (
    AgentCard,
    Candidate,
    Cost,
    Deferred,
    FloatArray,
    Handled,
    Preference,
    Query,
    RoutingDecision,
    RoutingState,
    ScoreTable,
    Steps,
)

__all__ = [
    "MoMARouter",
    "check_parts",
    "checked",
    "excluded",
    "open_pool",
    "open_registry",
    "read_parts",
    "score_deferred",
    "to_agent",
    "to_llm",
    "write_parts",
]


def excluded(names: object) -> frozenset[str]:
    """Return the names that may not be chosen this time, given one by one or as one text.

    Raises:
        InvalidInputError: They are no collection of names.

    Example:
        >>> sorted(excluded(["weather", "news"])), sorted(excluded("weather"))
        (['news', 'weather'], ['weather'])
    """
    if isinstance(names, str):
        return frozenset([names])
    found = tuple(names) if isinstance(names, Iterable) else (names,)
    if not all(isinstance(name, str) for name in found):
        raise InvalidInputError(
            f"exclude takes names, got {names!r:.60}. Write exclude=['weather'], or leave it out "
            "to exclude nobody."
        )
    return frozenset(found)


def score_deferred(
    llms: LLMRouter | None,
    texts: Sequence[str],
    vectors: FloatArray,
    deferred: Sequence[Deferred],
) -> list[ScoreTable]:
    """Return the LLMs' scores for n queries that no agent takes.

    Args:
        llms: The pool.
        texts: n queries.
        vectors: Theirs, shape (n, d).
        deferred: Why no agent takes them.

    Raises:
        NoTargetError: There are no LLMs.
    """
    if llms is None:
        raise NoTargetError(
            f"{deferred[0].reason}, and this router has no LLMs. Add an agent with "
            "router.agents.add(...), or give LLMs: MoMARouter.from_cards(agents, llms='packaged')."
        )
    return llms.score_batch(texts, vectors)


def to_llm(
    llms: LLMRouter | None,
    table: ScoreTable,
    preference: Preference,
    exclude: Collection[str],
    outcome: Deferred,
) -> RoutingDecision:
    """Return the decision for the LLM that a preference picks.

    Raises:
        NoTargetError: No LLM may be chosen.
    """
    assert llms is not None  # noqa: S101 - score_deferred raised otherwise
    name, candidates = llms.select(table, preference, exclude)
    best: Candidate = candidates[0]
    label = preference_name(preference)
    return RoutingDecision(
        kind="llm",
        targets=(name,),
        probability=best.score,
        candidates=candidates,
        preference=label,
        reason=f"{outcome.reason}; {label} picks {name!r}: score {best.score:.2f} at "
        f"${best.cost or 0:.6f}{_over_budget(preference, best)}",
        cost=best.cost,
    )


def _over_budget(preference: Preference, best: Candidate) -> str:
    match preference:
        case Cost(budget=float() | int() as budget) if (best.cost or 0.0) > budget:
            return f"; no LLM is within the budget of ${budget:.3g}, so the cheapest is taken"
    return ""


def to_agent(outcome: Handled, preference: Preference) -> RoutingDecision:
    """Return the decision for one agent, or for several in order."""
    verb = "is" if len(outcome.agents) == 1 else "are each"
    return RoutingDecision(
        kind="agent",
        targets=outcome.agents,
        probability=outcome.probability,
        candidates=outcome.candidates,
        preference=preference_name(preference),
        reason=f"{' then '.join(map(repr, outcome.agents))} {verb} right with probability "
        f"{outcome.probability:.2f}",
    )


_FORMAT = 1
_NO_CATEGORIES = Taxonomy().to_dict()
_ROUTER, _STATES = "router.json", "states.toml"
_REGISTRY, _LLMS, _TEAMS = "registry", "llms", "teams"


def open_pool(llms: object) -> LLMRouter | None:
    """Return a pool itself, the packaged one for its name, or None for none.

    Raises:
        InvalidInputError: It is something else.
    """
    pool: Any = LLMRouter.packaged() if llms == "packaged" else llms
    return _checked_pool(pool)


def _checked_pool(llms: Any) -> LLMRouter | None:
    if llms is not None and not isinstance(llms, LLMRouter):
        raise InvalidInputError(
            f"llms is a pool of LLMs, 'packaged' or None, got {llms!r:.60}. Load a trained pool: "
            "llms=LLMRouter.load('pool')."
        )
    return llms


def checked(agents: Any, encoder: object, decider: object) -> tuple[AgentCard, ...]:
    """Return the cards, refusing parts that could not be used once a query comes.

    Raises:
        InvalidInputError: ``agents`` is no list, ``encoder`` encodes nothing, or ``decider``
            decides nothing.

    Example:
        >>> checked(AgentCard("weather", "Forecast for a place"), None, None)
        Traceback (most recent call last):
        moma_core.errors.InvalidInputError: agents are a list of cards, got AgentCard. ...
    """
    if isinstance(agents, str) or not isinstance(agents, Iterable):
        raise InvalidInputError(
            f"agents are a list of cards, got {type(agents).__name__}. Write "
            "MoMARouter.from_cards([AgentCard(name, description)])."
        )
    for name in ("encode", "dimension", "fingerprint"):
        if not hasattr(encoder, name):
            raise InvalidInputError(
                f"an encoder has encode, dimension and fingerprint, got {encoder!r:.60} without "
                f"{name!r}. Leave it out for the packaged one."
            )
    if decider is not None and not isinstance(decider, FinalDecider):
        raise InvalidInputError(
            f"a decider has decide(query, cards, log_prior), got {decider!r:.60}. Write "
            "decider=FusedDecider(...), or leave it out."
        )
    return tuple(agents)


def check_parts(llms: object, teams: object) -> None:
    """Refuse what a router cannot ask, when it is built rather than on its first query.

    Raises:
        InvalidInputError: One of them is something else than its kind or None.
    """
    _checked_pool(llms)
    if teams is not None and not isinstance(teams, TeamRouter):
        raise InvalidInputError(
            f"teams is a TeamRouter or None, got {teams!r:.60}. Load a trained one: "
            "teams=TeamRouter.load('teams', encoder, llms)."
        )


def open_registry(path: str | Path | None, encoder: Encoder) -> Registry:
    """Open the registry of a router's directory, of a Chroma server's URL, or in memory for None.

    Raises:
        RegistryError: Chroma does not answer or cannot write.
    """
    if path is None:
        return MemoryRegistry()
    from moma_core.registry.chroma import ChromaRegistry

    location = str(path) if _is_url(path) else Path(path) / _REGISTRY
    return ChromaRegistry.open(location, encoder.fingerprint, encoder.dimension)


def write_parts(
    folder: Path,
    encoder: Encoder,
    agents: AgentRouter,
    llms: LLMRouter | None,
    teams: TeamRouter | None,
) -> None:
    """Write a router's parts.

    Raises:
        ArtifactError: The directory cannot be written.
        RegistryError: The agents cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot make {folder} ({error}). Save elsewhere.") from error
    at = getattr(agents.catalog.registry, "location", None)
    server = at if _is_url(at) else None
    if server is None:
        here = open_registry(folder, encoder)
        if getattr(here, "location", "") != at:
            # The router's own directory has every change already, perhaps other processes' too.
            _copy_agents(agents.catalog, here)
    write_trained(folder, agents.trained, agents.negatives, encoder.fingerprint)
    if llms is not None:
        llms.save(folder / _LLMS)
    states = agents.states.to_toml().encode()
    document = {
        "format": _FORMAT,
        "encoder": encoder.fingerprint,
        "llms": llms is not None,
        "states": hashlib.sha256(states).hexdigest(),
        "server": server,
        "categories": agents.taxonomy.to_dict(),
    }
    write_whole(folder / _STATES, states)
    write_whole(folder / _ROUTER, json.dumps(document, indent=1).encode())
    if teams is not None:
        teams.save(folder / _TEAMS)
    else:
        _remove_teams(folder)


def read_parts(
    folder: Path, encoder: Encoder
) -> tuple[AgentRouter, LLMRouter | None, TeamRouter | None]:
    """Read what `write_parts` wrote; a router without LLMs has no teams.

    Raises:
        ArtifactError: A file is missing, truncated, changed, or of another encoder.
        RegistryError: The agents cannot be read.
    """
    document = _document(folder)
    if document["encoder"] != encoder.fingerprint:
        raise ArtifactError(
            f"{folder} was saved with encoder {document['encoder']!r}, not "
            f"{encoder.fingerprint!r}. Pass that encoder: MoMARouter.load(dir, encoder=...)."
        )
    server = document["server"]
    if server is None and not (folder / _REGISTRY / "chroma.sqlite3").exists():
        raise ArtifactError(
            f"{folder} has lost its agents: {_REGISTRY}/chroma.sqlite3 is missing. Restore it "
            "from a backup, or register them in a new directory."
        )
    catalog = AgentCatalog(encoder, open_registry(server or folder, encoder))
    if trained_exists(folder):
        trained, negatives = read_trained(folder, encoder.fingerprint)
    else:  # deleted after damage, as the error says: fitted again on the first route
        trained, negatives = None, Negatives.of((), encoder)
    states = StateMachine.from_toml(_states(folder, document["states"]), encoder)
    llms = LLMRouter.load(folder / _LLMS) if document["llms"] else None
    taxonomy = document["categories"].encoded(encoder)
    teams = None
    if llms is not None and (folder / _TEAMS / TEAM_FILES[0]).exists():
        teams = TeamRouter.load(folder / _TEAMS, encoder, llms)
    return AgentRouter(catalog, states, negatives, trained, taxonomy=taxonomy), llms, teams


def _is_url(location: object) -> bool:
    return str(location).startswith(("http://", "https://"))


def _remove_teams(folder: Path) -> None:
    try:
        (folder / _TEAMS / TEAM_FILES[0]).unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot remove the teams in {folder} ({error}).") from error


def _copy_agents(catalog: AgentCatalog, registry: Registry) -> None:
    """Write the agents into a registry; those already there are left alone."""
    kept = {record.card.name: record.card for record in registry.load()}
    registry.put([r for r in catalog.snapshot.records if kept.get(r.card.name) != r.card])
    registry.delete([name for name in kept if name not in catalog])


def _document(folder: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((folder / _ROUTER).read_bytes())
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']}, this version reads {_FORMAT}")
        server = document.get("server")
        if server is not None and not _is_url(server):
            raise ValueError(f"server {server!r:.40} is no URL")
        return {
            "encoder": str(document["encoder"]),
            "llms": bool(document["llms"]),
            "states": str(document["states"]),
            "server": server,
            "categories": Taxonomy.from_dict(document.get("categories", _NO_CATEGORIES)),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder} is no router that this version can open: {error}. Write one with "
            "router.save(dir), or restore it from a backup."
        ) from error


def _states(folder: Path, digest: str) -> str:
    """Return the saved TOML; one cut short at the end of a line would still be valid TOML."""
    try:
        content = (folder / _STATES).read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{folder} has no {_STATES} ({error}). Save the router again."
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ArtifactError(
            f"{folder / _STATES} is truncated or changed. Restore it, or build the router with the "
            "changed states (MoMARouter.from_cards(..., states=...)) and save it."
        )
    return content.decode()


class MoMARouter(TakesFeedback):
    """Decides for each query which agent takes it or, when none fits, which LLM.

    Args:
        encoder: Turns queries into vectors, once a query.
        agents: Routes to agents.
        llms: Routes to LLMs; None when there are only agents.
        teams: Plans teams of these LLMs, which answer where that is worth its cost; by default one
            LLM answers.

    Example:
        >>> router = MoMARouter.from_cards([
        ...     AgentCard("weather", "Weather forecast for a place",
        ...               examples=("will it rain in Oslo?", "how warm is it outside?")),
        ...     AgentCard("translator", "Translates text between languages",
        ...               examples=("say hello in French", "translate this into German")),
        ... ])
        >>> router.route("is it going to rain tomorrow?").target
        'weather'
        >>> router.route("Prove that there are infinitely many primes.").kind
        'llm'
    """

    def __init__(
        self,
        encoder: Encoder,
        agents: AgentRouter,
        llms: LLMRouter | None,
        teams: TeamRouter | None = None,
    ) -> None:
        check_parts(llms, teams)
        if llms is not None:
            llms.check_encoder(encoder.fingerprint)
            agents.catalog.reserve(llms.names)
        self._encoder = encoder
        self._agent_router = agents
        self._llms, self._teams = llms, teams

    @classmethod
    def from_cards(
        cls,
        agents: Iterable[AgentCard] = (),
        *,
        llms: LLMRouter | Literal["packaged"] | None = "packaged",
        path: str | Path | None = None,
        states: StateMachine | str | Path | None = None,
        encoder: Encoder | None = None,
        negatives: Sequence[str] = (),
        max_wrong_agent_rate: float | None = None,
        decider: FinalDecider | None = None,
        categories: Taxonomy | Sequence[Category] | None = None,
        teams: TeamRouter | None = None,
    ) -> MoMARouter:
        """Build a router from agent cards.

        Args:
            agents: Cards to register.
            llms: A trained pool, the packaged one, or None.
            path: Where Chroma keeps the agents: a router's directory, or a server's URL. None
                keeps them in memory.
            states: A state machine, TOML text, or a ``.toml`` file.
            encoder: By default the packaged MiniLM.
            negatives: Queries that no agent should take; they sharpen the gate.
            max_wrong_agent_rate: Largest share of all queries that may go to a wrong agent, say
                0.05: promised with 90 % confidence, at the price of more queries to LLMs.
            categories: What categories there are and what they are for, beside those that cards
                name; see docs/categories.md. A `Taxonomy` says more of how they are used.
            teams: Plans teams of the LLMs where they are worth their cost; None: never.
            decider: Has the last word on the ranker's shortlist, before the gate, as an LLM may
                (docs/decisions.md); None: the ranker's order stands.

        Agents that ``path`` holds already stay; those of the same names are brought up to date.

        Raises:
            InvalidCardError: A card or category is unfit.
            InvalidInputError: A part is something else than what it is for.
            DuplicateNameError: Two cards share a name.
            RegistryError: Chroma does not answer or cannot write.
        """
        cards = checked(agents, encoder := encoder or MiniLMEncoder(), decider)
        if not isinstance(states, StateMachine):
            states = StateMachine() if states is None else StateMachine.from_toml(states, encoder)
        catalog = AgentCatalog(encoder, open_registry(path, encoder))
        agent_router = AgentRouter(
            catalog,
            states,
            Negatives.of(negatives, encoder),
            max_wrong_agent_rate=max_wrong_agent_rate,
            decider=decider,
            taxonomy=Taxonomy.from_given(categories, encoder),
        )
        router = cls(encoder, agent_router, open_pool(llms), teams)
        catalog.put(*cards)  # last: what fails above leaves nothing registered
        return router

    @property
    def agents(self) -> AgentCatalog:
        """The registered agents: add, update, remove, enable, disable."""
        return self._agent_router.catalog

    @property
    def agent_router(self) -> AgentRouter:
        """Routes to agents; answers `Handled` or `Deferred`, never an LLM."""
        return self._agent_router

    @property
    def states(self) -> StateMachine:
        """The conversation's state machine."""
        return self._agent_router.states

    @property
    def health(self) -> Health:
        """Which agents failed lately; tell it with ``report_failure`` and ``report_success``."""
        return self._agent_router.health

    @property
    def llms(self) -> LLMRouter | None:
        """The LLM pool, or None."""
        return self._llms

    @property
    def encoder(self) -> Encoder:
        """The encoder that every part shares."""
        return self._encoder

    def fit(self, progress: Progress | None = None) -> None:
        """Fit ranker and gate to the agents now rather than on the next route."""
        self._agent_router.fit(progress)

    def route(
        self,
        query: str | Query,
        preference: str | Preference | None = None,
        state: RoutingState | Mapping[str, Any] | None = None,
        *,
        exclude: Collection[str] = (),
        several: bool = False,
    ) -> RoutingDecision:
        """Decide for one query.

        Args:
            query: The user's words, or a `Query` with history and events.
            preference: ``"performance"``, ``"auto"`` (default), ``"cost"`` or ``"cost:0.002"``
                (USD a query), or a `Preference`.
            state: The ``state`` of the conversation's previous decision, or its plain dict.
            exclude: Agents and LLMs that may not be chosen this time.
            several: Whether a query that asks for several things may go to several agents:
                ``targets`` then lists them in order.

        Raises:
            InvalidQueryError: The query is empty.
            InvalidPreferenceError: No such preference.
            InvalidInputError: ``exclude`` is no collection of names.
            NoTargetError: No agent fits and no LLM may be chosen.
        """
        query, wanted, steps = Query.of(query), parse_preference(preference), Steps()
        exclude, state = excluded(exclude), RoutingState.of(state)
        reading = self.states.read(query, state)
        with steps.timed("encode"):
            vectors = encode_readings([reading], self._encoder)
        outcome, following = self._agent_router.route(
            query, vectors.alone[0], state, exclude, steps, vectors.joined
        )
        if several:
            outcome = in_parts(query, outcome, self._agent_router, self._encoder, exclude, steps)
        match outcome:
            case Handled():
                decision = to_agent(outcome, wanted)
            case Deferred():
                with steps.timed("score"):
                    table = score_deferred(self._llms, [reading.whole], vectors.whole, [outcome])[0]
                whole = reading.whole, vectors.whole[0]
                decision = self._to_llms(table, *whole, wanted, exclude, outcome, steps)
        same = decision.kind != "agent" or state.last_target in (None, decision.target)
        topic = reading.next_topic(same_target=same)
        following = replace(following, last_target=decision.target, topic=topic)
        return replace(decision, state=following, steps=steps.done())

    def route_batch(
        self,
        queries: Sequence[str | Query],
        preference: str | Preference | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> list[RoutingDecision]:
        """Decide for many independent queries together, several times faster than one by one.

        Raises:
            InvalidQueryError: A query is empty.
            InvalidPreferenceError: No such preference.
            NoTargetError: For some query no agent fits and no LLM may be chosen.
        """
        if isinstance(queries, str):
            raise InvalidQueryError(
                "route_batch takes a list of queries, got one text. Write [text]."
            )
        asked = [Query.of(query) for query in queries]
        readings = [self.states.read(query, RoutingState()) for query in asked]
        wanted, exclude = parse_preference(preference), excluded(exclude)
        vectors = encode_readings(readings, self._encoder)
        outcomes = self._agent_router.route_batch(asked, vectors.alone, exclude, vectors.joined)
        deferred = {i: o for i, o in enumerate(outcomes) if isinstance(o, Deferred)}
        rows = list(deferred)
        texts, whole = [readings[i].whole for i in rows], vectors.whole[rows]
        tables = score_deferred(self._llms, texts, whole, [*deferred.values()]) if rows else []
        by_row = dict(zip(rows, zip(tables, texts, whole, strict=True), strict=True))
        return [
            to_agent(outcome, wanted)
            if isinstance(outcome, Handled)
            else self._to_llms(*by_row[i], wanted, exclude, outcome, Steps())
            for i, outcome in enumerate(outcomes)
        ]

    def save(self, directory: str | Path) -> None:
        """Write everything that `load` needs into ``directory``: JSON, TOML, safetensors, Chroma.

        Raises:
            ArtifactError: The directory cannot be written.
            RegistryError: The agents cannot be written.
        """
        write_parts(Path(directory), self._encoder, self._agent_router, self._llms, self._teams)
        self._save_learning(Path(directory))

    @classmethod
    def load(cls, directory: str | Path, *, encoder: Encoder | None = None) -> MoMARouter:
        """Open what `save` wrote; changes to the agents are kept in ``directory`` from then on.

        Raises:
            ArtifactError: A file is missing, truncated, changed, or of another encoder.
            RegistryError: The agents cannot be read.
        """
        encoder = encoder or MiniLMEncoder()
        router = cls(encoder, *read_parts(Path(directory), encoder))
        return router._with_learning(Path(directory))

    def _to_llms(
        self,
        table: ScoreTable,
        text: str,
        vector: FloatArray,
        wanted: Preference,
        exclude: Collection[str],
        outcome: Deferred,
        steps: Steps,
    ) -> RoutingDecision:
        """Return the decision for the LLM that is worth its price, or for a team worth its."""
        with steps.timed("select") as detail:
            decision = to_llm(self._llms, table, wanted, exclude, outcome)
            decision = self._tried(decision, vector, wanted)
            detail.append(decision.target)
        if self._teams is None:
            return decision
        with steps.timed("team") as detail:
            decision = team_instead(self._teams, decision, text, vector, wanted, exclude)
            detail.append(decision.team.mode if decision.team else "one LLM is enough")
        return decision
