"""MoMA's main loop: encode once, agents first, an LLM when none fits (method.md, sect. 1).

`MoMARouter` composes an encoder, an `AgentRouter` and an `LLMRouter`. It decides; adapters invoke.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np

from moma_core._checks import is_finite, slip_of
from moma_core._directory import (
    check_parts,
    checked,
    open_pool,
    open_reranker,
    read_parts,
    saved_encoder,
    write_parts,
)
from moma_core._html import html_table
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.categories import Category, Taxonomy
from moma_core.agents.compound import Ranked, divided
from moma_core.agents.conversation import EncodedTurns, Reading
from moma_core.agents.gate import Negatives
from moma_core.agents.rank import K
from moma_core.agents.reranker import Reranker
from moma_core.agents.router import AgentRouter, Choice
from moma_core.agents.states import StateMachine
from moma_core.decision import (
    AgentOutcome,
    Candidate,
    Deferred,
    Handled,
    Part,
    Ranking,
    RoutingDecision,
    ScoreTable,
    Trace,
)
from moma_core.encoder import encoder_of, open_encoder
from moma_core.errors import DuplicateNameError, InvalidInputError, InvalidQueryError, NoTargetError
from moma_core.health import Health
from moma_core.llms.costs import Sent
from moma_core.llms.feedback import Learning
from moma_core.llms.router import LLMRouter, pool_of
from moma_core.protocols import Encoder, FinalDecider, Progress
from moma_core.registry import open_registry
from moma_core.registry.location import ChromaServer
from moma_core.teams.router import TeamRouter, team_instead
from moma_core.types import (
    AgentCard,
    FloatArray,
    LLMCard,
    Preference,
    Query,
    RoutingState,
    parse_preference,
    preference_name,
)

if TYPE_CHECKING:
    from moma_core.route_cache import RouteCache

__all__ = ["MoMARouter"]

_REMEMBERED = 1_000  # unknown names that were looked at already


class MoMARouter:
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
        encoder: Encoder | None = None,
        agents: AgentRouter | None = None,
        llms: LLMRouter | None = None,
        teams: TeamRouter | None = None,
    ) -> None:
        if encoder is None or not isinstance(agents, AgentRouter):
            raise InvalidInputError(
                "a router is made of cards or opened: MoMARouter.from_cards([AgentCard('weather', "
                "'Weather forecast for a place')]), or MoMARouter.load('DIR')."
            )
        check_parts(llms, teams)
        if llms is not None:
            agents.catalog.reserve(llms.names)
        self._encoder = encoder
        self._llm_encoder = _encoder_for(llms, encoder)
        self._agent_router = agents
        self._llms, self._teams = llms, teams
        self._learning: Learning | None = None
        self._unknown: frozenset[str] = frozenset()
        self._cache: RouteCache | None = None

    @classmethod
    def from_cards(
        cls,
        agents: Iterable[AgentCard] = (),
        *,
        llms: LLMRouter | Iterable[LLMCard | str] | Literal["packaged"] | None = "packaged",
        path: str | Path | ChromaServer | None = None,
        states: StateMachine | str | Path | None = None,
        encoder: Encoder | Literal["routing", "minilm", "multilingual"] | None = None,
        negatives: Sequence[str] = (),
        max_wrong_agent_rate: float | None = None,
        decider: FinalDecider | None = None,
        categories: Taxonomy | Sequence[Category] | None = None,
        teams: TeamRouter | None = None,
        reranker: Reranker | Literal["packaged"] | None = "packaged",
        substitutes: bool = False,
        refresh_every: float | None = 1.0,
        cache: RouteCache | bool | int | str = False,
    ) -> MoMARouter:
        """Build a router from agent cards.

        Args:
            agents: Cards to register.
            llms: Your own LLMs as cards, or as names in litellm's table of prices; a trained pool;
                the packaged one; or None. See `LLMRouter.from_cards`.
            path: Where Chroma keeps the agents: a router's directory; a server's URL, with user,
                password and ``?tenant=`` where there are; or a `ChromaServer` with headers. None
                keeps them in memory.
            states: A state machine, TOML text, or a ``.toml`` file.
            encoder: An encoder, or the name of a packaged one (docs/encoders.md). By default
                ``"routing"``, which is for English; ``"multilingual"`` where most cards are not
                English and that extra is installed.
            negatives: Queries that no agent should take; they sharpen the gate.
            max_wrong_agent_rate: Largest share of all queries that may go to a wrong agent, say
                0.05: promised with 90 % confidence, at the price of more queries to LLMs.
            categories: What categories there are and what they are for, beside those that cards
                name; see docs/concepts.md. A `Taxonomy` says more of how they are used.
            teams: Plans teams of the LLMs where they are worth their cost; None: never.
            decider: Has the last word on the ranker's shortlist, before the gate, as an LLM may
                (docs/decisions.md); None: the ranker's order stands.
            reranker: Reads query and card together where few examples are known; None: nobody
                does. The packaged one goes with the packaged encoder: beside another encoder it
                is asked only if it is given.
            substitutes: Whether a neighbour may take what is meant for an agent that is disabled,
                unhealthy or excluded; by default such a query is deferred, and the reason says so.
            refresh_every: Mean seconds between looks for what other processes changed at ``path``;
                what one of them disabled is chosen no longer after twice that. None: never.
            cache: Decide equal queries, and those that mean the same, once (docs/caching.md): True,
                how many decisions to keep, a Redis URL to share them, or a `RouteCache`.

        Agents that ``path`` holds already stay; the texts of those of the same names are brought up
        to date, and whether they are enabled stays as `disable` and `enable` left it.

        Raises:
            InvalidCardError: A card or category is unfit.
            InvalidInputError: A part is something else than what it is for.
            DuplicateNameError: Two cards share a name.
            RegistryError: Chroma does not answer or cannot write.
        """
        cards = checked(agents, decider)
        encoder = open_encoder(encoder, cards)
        reader = open_reranker(reranker, encoder)
        if not isinstance(states, StateMachine):
            states = StateMachine() if states is None else StateMachine.from_toml(states, encoder)
        catalog = AgentCatalog(encoder, open_registry(path, encoder), refresh_every)
        agent_router = AgentRouter(
            catalog,
            states,
            Negatives.of(negatives, encoder),
            max_wrong_agent_rate=max_wrong_agent_rate,
            decider=decider,
            reranker=reader,
            taxonomy=Taxonomy.from_given(categories, encoder),
            substitutes=substitutes,
        )
        router = cls(encoder, agent_router, open_pool(pool_of(llms)), teams)
        router.cache = cache
        catalog.put(*cards)  # last: what fails above leaves nothing registered
        return router

    def __repr__(self) -> str:
        llms = 0 if self._llms is None else len(self._llms.names)
        return f"<MoMARouter of {len(self.agents)} agents and {llms} LLMs>"

    def _repr_html_(self) -> str:
        cards = () if self._llms is None else self._llms.cards
        rows = [(card.name, f"{card.input_price:g}", f"{card.output_price:g}") for card in cards]
        head = ["LLM", "USD per million in", "out"]
        return self.agents._repr_html_() + html_table(f"{len(rows)} LLMs", head, rows)

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
        """The LLM pool, or None; pools are values: ``router.llms = router.llms.add(card)``."""
        return self._llms

    @llms.setter
    def llms(self, llms: LLMRouter | None) -> None:
        """Take another pool from the next route on.

        Raises:
            InvalidInputError: It is no pool, or this router's teams are of the one it has.
            ArtifactError: It was trained with another encoder.
            DuplicateNameError: An agent has the name of an LLM.
        """
        if self._teams is not None:
            raise InvalidInputError("this router's teams are of its LLMs. Build a new router.")
        check_parts(llms, None)
        encoder = _encoder_for(llms, self._encoder)
        try:
            self.agents.reserve(llms.names if llms is not None else ())
        except DuplicateNameError:
            self.agents.reserve(self._llms.names if self._llms is not None else ())
            raise
        self._llms, self._llm_encoder = llms, encoder

    def with_llms(self, llms: LLMRouter) -> MoMARouter:
        """Return a router over the same agents and these LLMs; this one keeps its own.

        Raises:
            InvalidInputError: It is no pool, or this router's teams are of the one it has.
            ArtifactError: It was trained with another encoder.
            DuplicateNameError: An agent has the name of an LLM.

        Example:
            >>> tools = MoMARouter.from_cards([AgentCard("clock", "Tells the time")], llms=None)
            >>> pool = LLMRouter.from_cards([LLMCard("small", 0.1, 0.4)])
            >>> tools.with_llms(pool).llms.names, tools.llms
            (('small',), None)
        """
        return MoMARouter(self._encoder, self._agent_router, llms, self._teams)

    @property
    def cache(self) -> RouteCache | None:
        """What keeps decisions of `route`; None while every query is decided anew."""
        return self._cache

    @cache.setter
    def cache(self, cache: RouteCache | bool | int | str | None) -> None:
        """Keep decisions from now on, as ``cache`` of `from_cards` says, or stop with False.

        Raises:
            InvalidInputError: It is nothing of that.
            MissingExtraError: Redis is wanted and its client is not installed.
        """
        if cache is None or cache is False:
            self._cache = None
            return
        from moma_core.route_cache import open_cache

        self._cache = open_cache(cache)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return what happened so far, by part: gate, cache, registry, health.

        Where the program has set up OpenTelemetry's metrics they get the same, as ``moma.events``.

        Example:
            >>> router = MoMARouter.from_cards([AgentCard("clock", "Tells the time")], llms=None)
            >>> router.rank("what time is it?").names, router.counts()["registry"]
            (('clock',), {'written': 1})
        """
        cache = {} if self._cache is None else {"cache": dict(self._cache.counts)}
        return {
            "gate": dict(self._agent_router.counts),
            **cache,
            "registry": dict(self.agents.counts),
            "health": dict(self.health.counts),
        }

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
        exclude: Collection[str] | str = (),
        several: bool = False,
        max_latency: float | None = None,
        min_probability: float | None = None,
    ) -> RoutingDecision:
        """Decide for one query.

        Args:
            query: The user's words, or a `Query` with history and events.
            preference: ``"performance"``, ``"auto"`` (default), ``"cost"`` or ``"cost:0.002"``
                (USD a query), or a `Preference`.
            state: The ``state`` of the conversation's previous decision, or its plain dict.
            exclude: Agents and LLMs that may not be chosen this time; a text is one name.
            several: Whether a query that asks for several things may go to several agents:
                ``targets`` then lists them in order, ``parts`` what each is asked. A part that no
                agent takes goes to an LLM.
            max_latency: Most seconds that an LLM may take, by `LLMCard.latency`.
            min_probability: Least probability that an agent is right, from which it takes the
                query; by default the gate's own, which balances wrong agents and missed ones.

        Raises:
            InvalidQueryError: The query is empty.
            InvalidPreferenceError: No such preference.
            InvalidInputError: ``exclude`` is no collection of names, or ``min_probability`` no
                probability.
            NoTargetError: No agent fits and no LLM may be chosen.
        """
        wish = Wish(parse_preference(preference), self._names(exclude, "exclude"), max_latency)
        choice = Choice(wish.exclude, min_probability=_probability(min_probability))
        asked = _Asked(Query.of(query), RoutingState.of(state), wish, choice, several)
        if self._cache is None:
            trace = Trace()
            return self._decided(asked, self._read(asked, trace), trace)
        return self._through_cache(self._cache, asked)

    def _read(self, asked: _Asked, trace: Trace) -> EncodedTurns:
        with trace.timed("encode"):
            return self.states.encode([asked.query], self._encoder, asked.state)

    def _decided(self, asked: _Asked, turns: EncodedTurns, trace: Trace) -> RoutingDecision:
        query, state, wish, choice, several = asked
        [reading] = turns.readings
        outcome, following = self._agent_router.route(query, turns, state, choice, trace)
        parts = self._divided(turns, outcome, choice, trace) if several else ()
        match outcome:
            case _ if parts:
                decision = self._to_several(parts, wish)
            case Handled():
                decision = to_agent(outcome, wish.preference)
            case Deferred():
                with trace.timed("score"):
                    read = [Sent.of(query, state.last_target)]
                    whole = self._for_llms([reading.whole], turns.whole)
                    table = score_deferred(self._llms, [reading.whole], whole, [outcome], read)[0]
                text, wish = (reading.whole, whole[0]), wish.with_room(self._llms, read[0])
                decision = self._to_llm(table, text, wish, outcome, trace)
        following = _left_by(reading, decision.target, outcome, state, following)
        return replace(decision, state=following, trace=trace.done())

    def _through_cache(self, cache: RouteCache, asked: _Asked) -> RoutingDecision:
        from moma_core.route_cache import Asked

        query, state, wish, choice, several = asked
        excluded = tuple(sorted(wish.exclude))
        said = wish.preference, excluded, wish.max_latency, choice.min_probability
        parts = self._agent_router, self._llms, (self._teams, self._learning)
        decide = partial(self._decided, asked)
        return cache.decide(Asked(query, state, said, several, *parts, decide))

    def _divided(
        self, turns: EncodedTurns, whole: AgentOutcome, choice: Choice, trace: Trace
    ) -> tuple[Ranked, ...]:
        with trace.timed("several") as detail:
            read = turns.readings[0].text, turns.alone[0]
            parts = divided(*read, whole, self._agent_router, self._encoder, choice)
            detail.append(f"{len(parts)} parts" if parts else "asks for one thing")
        return parts

    def _to_several(self, parts: Sequence[Ranked], wish: Wish) -> RoutingDecision:
        """Return the decision for the parts of a query, some of which no agent may take."""
        taken = [self._to_part(part, wish) for part in parts]
        outcomes = [part.outcome for part in parts if part.agent]
        candidates = {c.name: c for o in outcomes for c in sorted(o.candidates, key=_score)}
        names = tuple(dict.fromkeys(part.target for part in taken if part.target))
        return RoutingDecision(
            kind="agent",
            targets=names,
            probability=min(outcome.probability for outcome in outcomes),
            candidates=tuple(sorted(candidates.values(), key=_score, reverse=True)),
            preference=preference_name(wish.preference),
            reason=f"asks for {len(parts)} things: {' then '.join(map(repr, names))}",
            parts=tuple(taken),
        )

    def _to_part(self, part: Ranked, wish: Wish) -> Part:
        if part.agent is not None:
            return Part(part.text, "agent", part.agent, part.outcome.probability)
        if self._llms is None:
            return Part(part.text, "nobody", "")
        llm = self.choose_llm(
            part.text, None, wish.preference, max_latency=wish.max_latency, exclude=wish.exclude
        )
        return Part(part.text, "llm", llm.target, llm.probability)

    def route_batch(
        self,
        queries: Sequence[str | Query],
        preference: str | Preference | None = None,
        *,
        exclude: Collection[str] | str = (),
        max_latency: float | None = None,
        min_probability: float | None = None,
    ) -> list[RoutingDecision]:
        """Decide for many independent queries together, several times faster than one by one.

        Raises:
            InvalidQueryError: A query is empty.
            InvalidPreferenceError: No such preference.
            NoTargetError: For some query no agent fits and no LLM may be chosen.
        """
        asked, turns = self._encode(queries, "route_batch")
        wish = Wish(parse_preference(preference), self._names(exclude, "exclude"), max_latency)
        outcomes = self._agent_router.route_batch(
            asked, turns, Choice(wish.exclude, min_probability=_probability(min_probability))
        )
        deferred = {i: o for i, o in enumerate(outcomes) if isinstance(o, Deferred)}
        rows = list(deferred)
        texts = [turns.readings[i].whole for i in rows]
        whole = self._for_llms(texts, turns.whole[rows])
        read = [Sent.of(asked[i]) for i in rows]
        tables = (
            score_deferred(self._llms, texts, whole, [*deferred.values()], read) if rows else []
        )
        by_row = dict(
            zip(rows, zip(tables, zip(texts, whole, strict=True), strict=True), strict=True)
        )
        return [
            to_agent(outcome, wish.preference)
            if isinstance(outcome, Handled)
            else self._to_llm(
                *by_row[i], wish.with_room(self._llms, Sent.of(asked[i])), outcome, Trace()
            )
            for i, outcome in enumerate(outcomes)
        ]

    @overload
    def rank(  # type: ignore[overload-overlap] # a str is a Sequence[str], and one query
        self,
        query: str | Query,
        k: int = K,
        among: Collection[str] | str | None = None,
        *,
        state: RoutingState | Mapping[str, Any] | None = None,
        exclude: Collection[str] | str = (),
    ) -> Ranking: ...
    @overload
    def rank(
        self,
        query: Sequence[str | Query],
        k: int = K,
        among: Collection[str] | str | None = None,
        *,
        exclude: Collection[str] | str = (),
    ) -> list[Ranking]: ...
    def rank(
        self,
        query: str | Query | Sequence[str | Query],
        k: int = K,
        among: Collection[str] | str | None = None,
        *,
        state: RoutingState | Mapping[str, Any] | None = None,
        exclude: Collection[str] | str = (),
    ) -> Ranking | list[Ranking]:
        """Return the k best agents for a query, whether or not the best one fits well enough.

        Args:
            query: The user's words or a `Query`; or a list of independent ones.
            k: How many agents to return at most.
            among: The only agents asked about; None: all. A text is one name.
            state: The conversation's state, for one query: as in `route`.
            exclude: Agents that are left out this time; a text is one name.

        Returns:
            A `Ranking`, best first, empty where no agent may be chosen; of a list, a list of them.
            With p the calibrated probability that some agent fits and s the softmax over the
            agents asked about, each candidate's score is p * s: they add up to at most p.

        Raises:
            InvalidQueryError: A query is empty.
            InvalidInputError: k is less than 1, or ``among`` or ``exclude`` holds no names.

        Example:
            >>> router = MoMARouter.from_cards([
            ...     AgentCard("weather", "Weather forecast for a place"),
            ...     AgentCard("translator", "Translates text between languages"),
            ... ], llms=None)
            >>> router.rank("is it going to rain tomorrow?", k=2).names
            ('weather', 'translator')
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InvalidInputError(f"k is how many agents to return, 1 or more, got {k!r:.40}.")
        only = None if among is None else self._names(among, "among")
        choice = Choice(self._names(exclude, "exclude"), only, k, substitutes=True)
        if isinstance(query, str | Query):
            asked, before = Query.of(query), RoutingState.of(state)
            turns = self.states.encode([asked], self._encoder, before)
            outcome, following = self._agent_router.route(asked, turns, before, choice)
            ranking = to_ranking(outcome)
            if ranking:
                [reading], first = turns.readings, ranking.names[0]
                following = _left_by(reading, first, outcome, before, following)
            return replace(ranking, state=following)
        queries, turns = self._encode(query, "rank")
        return [to_ranking(each) for each in self._agent_router.route_batch(queries, turns, choice)]

    def choose_llm(
        self,
        query: str | Query | FloatArray,
        among: Collection[str] | str | None = None,
        preference: str | Preference | None = None,
        *,
        max_latency: float | None = None,
        exclude: Collection[str] | str = (),
    ) -> RoutingDecision:
        """Choose an LLM for a query without asking whether an agent fits.

        Args:
            query: The user's words, a `Query`, or its unit vector of shape (d,) by the pool's
                encoder; a vector tells nothing of the query's length or letters. The costs hold
                for all that is sent: ``Query.tokens``, or the text with its history.
            among: The only LLMs that may be chosen; None: all. A text is one name.
            preference: As in `route`.
            max_latency: Most seconds that it may take, by `LLMCard.latency`.
            exclude: LLMs that may not be chosen this time; a text is one name.

        Returns:
            A decision of kind ``"llm"`` with candidates, cost and reason; `feedback` takes it.

        Raises:
            InvalidQueryError: The query is empty.
            InvalidPreferenceError: No such preference.
            NoTargetError: There are no LLMs, or none may be chosen.

        Example:
            >>> router = MoMARouter.from_cards()
            >>> router.choose_llm("Prove it.", preference="performance").kind
            'llm'
        """
        wish = Wish(parse_preference(preference), self._names(exclude, "exclude"), max_latency)
        if isinstance(query, str | Query):
            turns = self.states.encode([Query.of(query)], self._encoder)
            text, read = turns.readings[0].whole, [Sent.of(Query.of(query))]
            vector = self._for_llms([text], turns.whole)[0]
        else:
            text, vector, read = "", np.asarray(query, np.float32), None
        outcome = Deferred("no agent was asked for")
        table = score_deferred(self._llms, [text], vector[None], [outcome], read)[0]
        if among is not None:
            wish = replace(
                wish, exclude=wish.exclude.union(set(table.names) - self._names(among, "among"))
            )
        wish = wish if read is None else wish.with_room(self._llms, read[0])
        return self._learnt(to_llm(self._llms, table, wish, outcome), vector, wish.preference)

    @property
    def learning(self) -> Learning | None:
        """What learns from use; None while that is off."""
        return self._learning

    def learn(self, learning: Learning | None) -> None:
        """Learn from use from the next route on, or stop with None.

        Raises:
            InvalidInputError: There are no LLMs to learn about.
        """
        if learning is not None and self._llms is None:
            raise InvalidInputError("this router has no LLMs to learn about. Give it llms=....")
        self._learning = learning

    def feedback(self, decision: RoutingDecision, reward: float) -> bool:
        """Learn how good the answer of a decision's LLM was.

        Args:
            decision: From `route` or `choose_llm`, also rebuilt from its dict after a restart.
            reward: In [0, 1], 1 for the best answer.

        Returns:
            Whether it counts; a second feedback on the same decision does not.

        Raises:
            InvalidInputError: Learning is off, the decision is no LLM's or was made before, or the
                reward is out of bounds.
            ArtifactError: The log cannot be written.
        """
        if self._learning is None:
            raise InvalidInputError(
                "this router does not learn from use. Type router.learn(Learning(log="
                "'feedback.jsonl')) first, from moma_core import Learning."
            )
        return self._learning.feedback(decision, reward)

    def close(self) -> None:
        """Let go of threads and connections; a closed router still routes from memory."""
        self.agents.close()

    def __enter__(self) -> MoMARouter:
        """Return itself: ``with MoMARouter.load(dir) as router``."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def save(self, directory: str | Path) -> None:
        """Write everything that `load` needs into ``directory``: JSON, TOML, safetensors, Chroma.

        All files change at once: whenever the process dies, `load` finds the old router or the new.

        Raises:
            ArtifactError: The directory cannot be written.
            RegistryError: The agents cannot be written.
        """
        folder = Path(directory).expanduser().absolute()
        parts = self._agent_router, self._llms, self._teams, self._learning
        write_parts(folder, self._encoder, *parts)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        encoder: Encoder | Literal["routing", "minilm", "multilingual"] | None = None,
        server: str | ChromaServer | None = None,
        refresh_every: float | None = 1.0,
        cache: RouteCache | bool | int | str = False,
    ) -> MoMARouter:
        """Open what `save` wrote; changes to the agents are kept in ``directory`` from then on.

        Args:
            directory: Where it was saved.
            encoder: By default the packaged one that it was saved with. With another one the
                agents are encoded anew, and a warning says so.
            server: The Chroma server, where its agents are on one: with the credentials, which
                were not saved. By default the URL that was saved.
            refresh_every: As in `from_cards`.
            cache: As in `from_cards`; it is not saved.

        Raises:
            ArtifactError: A file is missing, truncated or changed.
            RegistryError: The agents cannot be read.
        """
        folder = Path(directory).expanduser().absolute()
        encoder = saved_encoder(folder) if encoder is None else open_encoder(encoder)
        agents, llms, teams, learning = read_parts(folder, encoder, server, refresh_every)
        router = cls(encoder, agents, llms, teams)
        router._learning = learning
        router.cache = cache
        return router

    def _names(self, names: object, parameter: str) -> frozenset[str]:
        """Return names; what nobody bears, and is nearly a name, is warned of once."""
        given = names_of(names, parameter)
        if not given:
            return given
        llms = () if self._llms is None else self._llms.names
        unknown = {n for n in given - self._unknown if n not in self.agents and n not in llms}
        if not unknown:
            return given
        self._unknown = frozenset([*self._unknown, *unknown][-_REMEMBERED:])
        for name in sorted(unknown):
            meant = slip_of(name, (*self.agents.names, *llms))
            if meant is not None:
                warnings.warn(
                    f"{parameter} names {name!r}, which nobody is called. Did you mean {meant!r}?",
                    UserWarning,
                    stacklevel=3,
                )
        return given

    def _encode(
        self, queries: Sequence[str | Query], verb: str
    ) -> tuple[list[Query], EncodedTurns]:
        if isinstance(queries, str):
            raise InvalidQueryError(f"{verb} takes a list of queries, got one text. Write [text].")
        asked = [Query.of(query) for query in queries]
        return asked, self.states.encode(asked, self._encoder)

    def _for_llms(self, texts: Sequence[str], vectors: FloatArray) -> FloatArray:
        """Return what the LLMs' scores are made of: the vectors, or those of the pool's encoder."""
        return vectors if self._llm_encoder is None else self._llm_encoder.encode(texts)

    def _to_llm(
        self,
        table: ScoreTable,
        asked: tuple[str, FloatArray],
        wish: Wish,
        outcome: Deferred,
        trace: Trace,
    ) -> RoutingDecision:
        """Return the decision for the LLM that is worth its price, or for a team worth its."""
        text, vector = asked
        with trace.timed("select") as detail:
            decision = to_llm(self._llms, table, wish, outcome)
            decision = self._learnt(decision, vector, wish.preference)
            detail.append(decision.target)
        if self._teams is None:
            return decision
        with trace.timed("team") as detail:
            decision = team_instead(
                self._teams, decision, text, vector, wish.preference, wish.exclude
            )
            detail.append(decision.team.mode if decision.team else "one LLM is enough")
        return decision

    def _learnt(
        self, decision: RoutingDecision, vector: FloatArray, preference: Preference
    ) -> RoutingDecision:
        if self._learning is None or self._llms is None:
            return decision
        wanted = self._llms.resolved(preference)
        return self._learning.instead(decision, vector, wanted, self._llms.best_single)


class _Asked(NamedTuple):
    """One call of `route`, checked."""

    query: Query
    state: RoutingState
    wish: Wish
    choice: Choice
    several: bool


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller wants of an LLM.

    Args:
        preference: Quality against money.
        exclude: Names that may not be chosen.
        max_latency: Most seconds; None: no limit.
    """

    preference: Preference
    exclude: frozenset[str] = frozenset()
    max_latency: float | None = None

    def with_room(self, llms: LLMRouter | None, sent: Sent) -> Wish:
        """Return the wish without LLMs whose window is too small for what is sent."""
        small = frozenset() if llms is None else llms.too_small(sent.tokens)
        if llms is None or not small or small | self.exclude >= set(llms.names):
            return self
        return replace(self, exclude=self.exclude | small)


def names_of(names: object, parameter: str) -> frozenset[str]:
    """Return names given one by one, or as one text that is one name.

    Raises:
        InvalidInputError: They are no collection of names.

    Example:
        >>> sorted(names_of(["weather", "news"], "exclude")), sorted(names_of("a-b", "among"))
        (['news', 'weather'], ['a-b'])
    """
    if isinstance(names, str):
        return frozenset([names])
    found = tuple(names) if isinstance(names, Iterable) else (names,)
    if not all(isinstance(name, str) for name in found):
        raise InvalidInputError(
            f"{parameter} takes names, got {names!r:.60}. Write {parameter}=['weather'], or leave "
            "it out."
        )
    return frozenset(found)


def _probability(least: float | None) -> float | None:
    if least is not None and not (is_finite(least) and 0.0 <= least <= 1.0):
        raise InvalidInputError(
            f"min_probability lies in [0, 1], got {least!r:.40}. Leave it out for the gate's own."
        )
    return least


def _encoder_for(llms: LLMRouter | None, encoder: Encoder) -> Encoder | None:
    """Return the packaged encoder that a pool was trained on, where the router has another one.

    Raises:
        ArtifactError: The pool was trained on an encoder that is not at hand.
    """
    if llms is None or llms.encoder_fingerprint == encoder.fingerprint:
        return None
    own = encoder_of(llms.encoder_fingerprint)
    if own is None:
        llms.check_encoder(encoder.fingerprint)
    return own


def _left_by(
    reading: Reading,
    target: str,
    outcome: AgentOutcome,
    before: RoutingState,
    following: RoutingState,
) -> RoutingState:
    """Return the state that a turn leaves for the next one, once it is known who takes it."""
    same = isinstance(outcome, Deferred) or before.last_target in (None, target)
    topic = reading.next_topic(before.topic, same_target=same, stays=outcome.goes_on)
    return replace(following, last_target=target, topic=topic)


def score_deferred(
    llms: LLMRouter | None,
    texts: Sequence[str],
    vectors: FloatArray,
    deferred: Sequence[Deferred],
    sent: Sequence[Sent] | None = None,
) -> list[ScoreTable]:
    """Return the LLMs' scores for n queries that no agent takes.

    Args:
        llms: The pool.
        texts: n queries.
        vectors: Theirs, shape (n, d).
        deferred: Why no agent takes them.
        sent: What an LLM would read with each; None: the query alone.

    Raises:
        NoTargetError: There are no LLMs.
    """
    if llms is None:
        raise NoTargetError(
            f"{deferred[0].reason}, and this router has no LLMs. Add an agent with "
            "router.agents.add(...), or give LLMs: MoMARouter.from_cards(agents, llms='packaged')."
        )
    return llms.score_batch(texts, vectors, sent)


def to_llm(
    llms: LLMRouter | None, table: ScoreTable, wish: Wish, outcome: Deferred
) -> RoutingDecision:
    """Return the decision for the LLM that a preference picks.

    Raises:
        NoTargetError: No LLM may be chosen.
    """
    assert llms is not None  # noqa: S101 - score_deferred raised otherwise
    name, candidates = llms.select(table, wish.preference, wish.exclude, wish.max_latency)
    best: Candidate = candidates[0]
    return RoutingDecision(
        kind="llm",
        targets=(name,),
        probability=best.score,
        candidates=candidates,
        preference=preference_name(wish.preference),
        reason=f"{outcome.reason}; {llms.reason(best, wish.preference)}",
        cost=best.cost,
        nearest=outcome.candidates,
        nearest_probability=outcome.probability,
    )


def _score(candidate: Candidate) -> float:
    return candidate.score


def to_ranking(outcome: AgentOutcome) -> Ranking:
    """Return the agents of an outcome with the probability that each is the one."""
    candidates = tuple(
        replace(each, score=each.score * outcome.some_fits) for each in outcome.candidates
    )
    reason = outcome.reason if isinstance(outcome, Deferred) else ""
    handled = isinstance(outcome, Handled)
    return Ranking(candidates, outcome.some_fits, outcome.probability, handled, reason)


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
