"""MoMA's main loop: encode once, agents first, an LLM when none fits (method.md, sect. 1).

`MoMARouter` composes an encoder, an `AgentRouter` and an `LLMRouter`. It decides; adapters invoke.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from moma_core.agent_routing import AgentCatalog, AgentRouter, Negatives, StateMachine
from moma_core.agent_routing.categories import Category, Taxonomy
from moma_core.agent_routing.followups import encode_readings
from moma_core.agent_routing.health import Health
from moma_core.agent_routing.several import in_parts
from moma_core.agent_routing.steps import Steps
from moma_core.agent_routing.training import Progress
from moma_core.deciding import excluded, score_deferred, to_agent, to_llm
from moma_core.encoders import MiniLMEncoder
from moma_core.errors import InvalidQueryError
from moma_core.llm_routing import LLMRouter
from moma_core.llm_routing.learning.surface import TakesFeedback
from moma_core.protocols import Encoder, FinalDecider
from moma_core.selection import parse_preference
from moma_core.teams import TeamRouter
from moma_core.teams.outcome import team_instead
from moma_core.types import (
    AgentCard,
    Deferred,
    FloatArray,
    Handled,
    Preference,
    Query,
    RoutingDecision,
    RoutingState,
    ScoreTable,
)

__all__ = ["MoMARouter"]


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
