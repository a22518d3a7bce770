"""Fusing evidence with the ranker: never worse on held-out examples, never a name off the list."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import (
    AgentCard,
    ArtifactError,
    InvalidInputError,
    MoMARouter,
    Query,
    UnknownNameError,
)
from moma_core.agents.router import Choice
from moma_core.agents.training import held_out_lists, ranked_lists
from moma_core.decoding.decider import (
    DEFAULT_WEIGHTS,
    Case,
    FusedDecider,
    FusionWeights,
    fit_weights,
    fuse,
)
from moma_core.errors import ScoreError

CARDS = [
    AgentCard("weather", "Forecasts rain, snow and wind for any place"),
    AgentCard("travel", "Books flights and hotels between two cities"),
    AgentCard("travel_agent", "Plans whole journeys with a human at the phone"),
]


class Told:
    """Evidence that says what it is told, and counts how often it is asked."""

    def __init__(self, scores, name="told"):
        self.fingerprint = name
        self.asked = []
        self._scores = scores

    def scores(self, query, cards):
        self.asked.append(query)
        return np.array([self._scores(query, card) for card in cards], dtype=np.float64)


@dataclass(frozen=True)
class Listed:
    query: str
    names: tuple[str, ...]
    log_prior: tuple[float, ...]
    wanted: str


def cases(n, helps, seed=0, k=4):
    """Cases in which the ranker is right half the time and the evidence ``helps`` so much."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        wanted = int(rng.integers(k))
        prior = rng.normal(size=k) + 0.7 * (np.arange(k) == wanted)
        noisy = rng.normal(size=k) + helps * (np.arange(k) == wanted)
        made.append(Case(prior, noisy, np.zeros(k), wanted))
    return made


def accuracy(made, weights):
    hits = [
        int(fuse(weights, c.log_prior, c.noisy_channel, c.choice).argmax()) == c.wanted
        for c in made
    ]
    return float(np.mean(hits))


def test_evidence_that_helps_gets_a_weight_and_generalises():
    weights = fit_weights(cases(300, helps=1.5))
    assert weights.noisy_channel > 0
    assert weights.gain > 0
    fresh = cases(1000, helps=1.5, seed=1)
    assert accuracy(fresh, weights) > accuracy(fresh, FusionWeights()) + 0.1


@pytest.mark.parametrize("helps", [0.0, -1.0])
def test_evidence_that_does_not_help_gets_none(helps):
    chosen = [fit_weights(cases(200, helps, seed)) for seed in range(12)]
    asking = sum(weights.asks for weights in chosen)
    assert asking <= 1  # noise passes one time in twenty
    if helps < 0:
        assert asking == 0


def test_a_little_help_is_found():
    """Evidence by which one answer in twenty more is right."""
    found = 0
    for seed in range(12):
        weights = fit_weights(cases(200, helps=0.5, seed=seed))
        fresh = cases(1000, helps=0.5, seed=seed + 100)
        gain = accuracy(fresh, weights) - accuracy(fresh, FusionWeights())
        found += weights.asks
        assert gain >= 0.0
    assert found >= 9


def test_what_is_likelier_and_never_first_gets_no_weight():
    rng = np.random.default_rng(0)
    made = []
    for _ in range(200):  # the second is wanted and stays the second, whatever the weight
        prior = np.array([4.0, 0.0, -1.0]) + rng.normal(size=3) * 0.01
        made.append(Case(prior, np.array([0.0, 0.4, -0.4]), np.zeros(3), 1))
    assert not fit_weights(made).asks


def test_few_cases_tell_nothing():
    assert not fit_weights(cases(20, helps=5.0)).asks


def test_a_case_without_a_right_answer_counts_for_nobody():
    lost = [Case(np.zeros(2), np.ones(2), np.zeros(2), None) for _ in range(50)]
    assert not fit_weights(lost).asks


@given(
    st.lists(st.floats(-50, 0), min_size=1, max_size=8),
    st.floats(0, 10),
    st.randoms(use_true_random=False),
)
def test_fused_probabilities_sum_to_one_and_zero_weights_change_nothing(prior, weight, random):
    noisy = np.array([random.uniform(-10, 0) for _ in prior])
    fused = fuse(FusionWeights(weight), np.array(prior), noisy, np.zeros(len(prior)))
    assert np.exp(fused).sum() == pytest.approx(1.0)
    alone = fuse(FusionWeights(), np.array(prior), noisy, np.zeros(len(prior)))
    assert alone == pytest.approx(np.array(prior) - np.logaddexp.reduce(prior))
    # A constant in the evidence says nothing: it could be a longer query.
    assert fuse(FusionWeights(weight), np.array(prior), noisy - 3.0, np.zeros(len(prior))) == (
        pytest.approx(fused, abs=1e-9)
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(ScoreError, match="finite"):
        fuse(FusionWeights(1.0), np.zeros(2), np.array([0.0, bad]), np.zeros(2))
    with pytest.raises(ScoreError, match="finite"):
        FusedDecider(Told(lambda *_: 0.0)).decide("rain?", CARDS, [0.0, bad, 0.0])


def test_weights_survive_a_file(tmp_path):
    weights = FusionWeights(0.75, 0.05, "noisy-channel-abc", 120, 0.031)
    weights.save(tmp_path / "weights.json")
    assert FusionWeights.load(tmp_path / "weights.json") == weights


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 9}', '{"format": 1, "noisy_channel": -1}', "\xff"]
)
def test_damaged_weights_are_refused(tmp_path, text):
    path = tmp_path / "weights.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match="Fit them again"):
        FusionWeights.load(path)
    with pytest.raises(ArtifactError):
        FusionWeights.load(tmp_path / "missing.json")
    with pytest.raises(ArtifactError):
        FusionWeights().save(path / "weights.json")  # a file is no folder


def test_unknown_keys_are_refused(tmp_path):
    path = tmp_path / "weights.json"
    FusionWeights(1.0).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "bonus": 3}))
    with pytest.raises(ArtifactError):
        FusionWeights.load(path)


def test_a_decision_weighs_the_llm_against_the_ranker():
    told = Told(lambda _query, card: 2.0 if card.name == "travel" else 0.0)
    chances = FusedDecider(told, weights=FusionWeights(1.0)).decide("fly", CARDS, [0.0, -0.5, -3.0])
    assert chances.sum() == pytest.approx(1.0)
    assert chances.argmax() == 1
    quiet = FusedDecider(told, weights=FusionWeights()).decide("fly", CARDS, [0.0, -0.5, -3.0])
    assert quiet.argmax() == 0


def test_a_sure_ranker_a_lone_agent_and_zero_weights_ask_nobody():
    told = Told(lambda *_: 0.0)
    FusedDecider(told, sure=0.9).decide("rain?", CARDS, [0.0, -9.0, -9.0])
    FusedDecider(told).decide("rain?", CARDS[:1], [-0.1])
    FusedDecider(told, weights=FusionWeights()).decide("rain?", CARDS, [0.0, 0.0, 0.0])
    assert told.asked == []
    FusedDecider(told, sure=0.9).decide("rain?", CARDS, [0.0, -1.0, -1.0])
    assert told.asked == ["rain?"]


def test_default_weights_ask_and_were_fitted_on_nothing_of_the_users():
    told = Told(lambda *_: 0.0)
    FusedDecider(told).decide("rain?", CARDS, [0.0, 0.0, 0.0])
    assert told.asked == ["rain?"]
    assert (DEFAULT_WEIGHTS.n_cases, DEFAULT_WEIGHTS.evidence) == (0, "")


def test_fitting_a_decider():
    rng = np.random.default_rng(0)
    names = tuple(card.name for card in CARDS)
    rows = []
    for i in range(120):
        wanted = names[i % 3]
        rows.append(Listed(f"{wanted} {i}", names, tuple(rng.normal(size=3)), wanted))
    helpful = Told(lambda query, card: 4.0 * (query.split()[0] == card.name))
    seen = []
    cards = {card.name: card for card in CARDS}
    fitted = FusedDecider(helpful).fit(rows, cards, lambda *step: seen.append(step))
    assert fitted.weights.noisy_channel > 0
    assert fitted.weights.evidence == "told"
    assert fitted.weights.n_cases == len(seen) == 120
    assert fitted.decide("travel 1", CARDS, [0.0, 0.0, 0.0]).argmax() == 1
    useless = Told(lambda _query, card: len(card.name))
    assert not FusedDecider(useless).fit(rows, cards).weights.asks
    with pytest.raises(UnknownNameError, match="travel"):
        FusedDecider(helpful).fit(rows, {"weather": CARDS[0]})


def test_the_order_of_several_agents():
    told = Told(lambda _query, card: len(card.name) / 10)
    decider = FusedDecider(told, weights=FusionWeights(1.0))
    assert decider.order("trip", CARDS, [0.0, 0.0, 0.0], 2) == ("travel_agent", "weather")
    assert len(decider.order("trip", CARDS, [0.0, 0.0, 0.0], 9)) == 3
    with pytest.raises(InvalidInputError, match="count"):
        decider.order("trip", CARDS, [0.0, 0.0, 0.0], 0)


def test_what_cannot_be_decided_is_refused():
    told = Told(lambda *_: 0.0)
    decider = FusedDecider(told)
    for cards, prior in [([], []), (CARDS, [0.0]), (CARDS, [[0.0, 0.0, 0.0]])]:
        with pytest.raises(InvalidInputError, match="shortlist"):
            decider.decide("rain?", cards, prior)
    with pytest.raises(InvalidInputError, match="Fit them again"):
        FusedDecider(told, weights=FusionWeights(1.0, evidence="another LLM", n_cases=50))
    with pytest.raises(InvalidInputError, match="choice"):
        FusedDecider(told, weights=FusionWeights(1.0, choice=0.1))
    with pytest.raises(InvalidInputError, match="sure"):
        FusedDecider(told, sure=0.0)
    with pytest.raises(InvalidInputError, match="weights"):
        FusionWeights(float("nan"))


class Always:
    """A decider that wants one agent, and notes what it was shown."""

    def __init__(self, name):
        self.shown = []
        self._name = name

    def decide(self, query, cards, log_prior):
        names = [card.name for card in cards]
        self.shown.append((query, names))
        assert len(log_prior) == len(cards)
        if self._name not in names:
            return np.exp(log_prior) / np.exp(log_prior).sum()
        return np.array([0.9 if name == self._name else 0.1 / (len(names) - 1) for name in names])


@pytest.fixture(scope="module")
def quick(word_cards, hashing):
    def build(decider=None):
        return MoMARouter.from_cards(word_cards, llms=None, encoder=hashing, decider=decider)

    return build


QUERY = "rain snow wind"


def shares(outcome):
    return {candidate.name: candidate.score for candidate in outcome.candidates}


def routed(router, query=QUERY, exclude=()):
    agents, encoder, choice = router.agent_router, router.encoder, Choice(exclude)
    return agents.route_batch(
        [Query(query)], agents.states.encode([Query(query)], encoder), choice
    )[0]


def test_a_router_follows_its_decider_and_the_mass_stays(quick):
    plain, told = routed(quick()), routed(quick(Always("translator")))
    assert plain.candidates[0].name == "weather"
    assert told.candidates[0].name == "translator"
    assert sum(shares(told).values()) == pytest.approx(sum(shares(plain).values()), rel=1e-3)
    assert shares(told)["translator"] == pytest.approx(0.9 * sum(shares(told).values()), rel=1e-3)


def test_a_decider_never_sees_who_is_not_eligible(quick):
    decider = Always("translator")
    router = quick(decider)
    router.agents.disable("translator")
    assert routed(router).candidates[0].name == "weather"
    routed(router, exclude={"weather"})
    assert [set(names) for _, names in decider.shown] == [{"weather", "calculator"}, {"calculator"}]
    assert router.route("rain snow wind", exclude={"calculator"}).target == "weather"


def test_a_decider_that_echoes_the_ranker_changes_nothing(quick):
    echo, plain = shares(routed(quick(Always("nobody")))), shares(routed(quick()))
    assert echo == pytest.approx(plain, rel=1e-4)


def test_a_decider_that_gives_nonsense_is_an_error(quick):
    class Broken:
        def __init__(self, value):
            self.value = value

        def decide(self, query, cards, log_prior):
            return self.value

    for value in (np.array([np.nan] * 3), np.array([1.0]), None):
        with pytest.raises(ScoreError, match="decider"):
            routed(quick(Broken(value)))


def test_held_out_examples_are_listed_by_a_ranker_that_had_not_seen_them(quick):
    snapshot = quick().agents.snapshot
    lists = held_out_lists(snapshot, most=20)
    assert len(lists) == 20
    examples = {text: r.card.name for r in snapshot.records for text in r.card.examples}
    assert all(len(row.names) == len(row.log_prior) == 3 for row in lists)
    assert all(examples[row.query] for row in lists)
    assert all(list(row.log_prior) == sorted(row.log_prior, reverse=True) for row in lists)
    right = np.mean([row.names[0] == row.wanted for row in lists])
    assert right > 0.8
    assert np.exp(lists[0].log_prior).sum() == pytest.approx(1.0, rel=1e-3)


def test_new_queries_are_listed_best_first(quick):
    router = quick()
    vectors = router.encoder.encode([QUERY])
    (row,) = ranked_lists(router.agents.snapshot, [QUERY], vectors, router.agent_router.trained)
    assert row.names[0] == "weather"
    assert row.wanted == ""
    assert row.log_prior[0] == max(row.log_prior)
