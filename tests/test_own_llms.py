"""Your own LLMs, known by their cards alone: on a scale of abilities, routed by difficulty."""

import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import moma_core
from moma_core import (
    AgentCard,
    ArtifactError,
    InvalidInputError,
    LLMCard,
    LLMDataset,
    LLMRouter,
    MoMARouter,
    UnknownNameError,
)
from moma_core.cli.main import app
from moma_core.errors import DuplicateNameError, InvalidCardError
from moma_core.llms.abilities import AbilityScale
from moma_core.llms.prices import listed_card
from moma_core.testing import HashEncoder

SMALL = LLMCard("small", 0.1, 0.4, quality={"mmlu_pro": 0.5, "math": 0.55})
MIDDLE = LLMCard("middle", 0.6, 2.4, quality={"mmlu_pro": 0.7, "math": 0.8})
LARGE = LLMCard("large", 5.0, 20.0, quality={"mmlu_pro": 0.87, "math": 0.97})
EASY = "Which gas do plants take in?\nA) oxygen B) carbon dioxide C) helium D) argon"
HARD = (
    "Let G be a finite group of order 2024 that acts transitively on a set of 44 elements. Prove "
    "or refute that a point stabiliser has a normal complement, and compute the number of its "
    "orbits on pairs. Options: A) 2 B) 3 C) 4 D) 5 E) 6 F) 7 G) 8 H) 9 I) 10 J) 11"
)


@pytest.fixture(scope="module")
def scale():
    return AbilityScale.packaged()


@pytest.fixture(scope="module")
def router():
    return MoMARouter.from_cards(llms=[SMALL, MIDDLE, LARGE])


def tables(pool, encoder, texts=(EASY, HARD)):
    return pool.score_batch(texts, encoder.encode(texts))


def test_a_pool_of_cards_routes_by_difficulty_on_the_first_day(router):
    easy, hard = tables(router.llms, router.encoder)
    assert (np.diff(easy.scores) > 0).all()
    assert (np.diff(hard.scores) > 0).all()
    assert hard.scores[2] - hard.scores[0] > easy.scores[2] - easy.scores[0] + 0.1
    assert router.route(EASY).target != "large"
    assert router.choose_llm(HARD).target == "large"
    assert router.llms.best_single == "large"
    assert "by its card alone; halving" in router.choose_llm(HARD).reason
    packaged = MoMARouter.from_cards(llms=LLMRouter.packaged())
    assert "by its card" not in packaged.choose_llm(HARD).reason


def test_a_subject_counts_where_it_is_asked(scale, minilm):
    maths = LLMCard("maths", 1.0, 1.0, quality={"math": 0.9, "law": 0.3})
    law = LLMCard("law", 1.0, 1.0, quality={"math": 0.4, "law": 0.7})
    texts = (
        "Natalia sold 48 clips in April and half as many in May. How many in total?",
        "A defendant moves to exclude hearsay evidence under the excited utterance rule. "
        "How should the court rule? A. admit B. exclude C. limit D. strike",
    )
    sums, courts = tables(LLMRouter.from_cards([maths, law], scale), minilm, texts)
    assert sums.scores[0] > sums.scores[1]
    assert courts.scores[0] < courts.scores[1]


def test_like_stands_near_the_llm_it_names_and_less_surely(scale, minilm):
    pool = LLMRouter.from_cards(
        [
            LARGE,
            LLMCard("twin", 1.0, 1.0, like="large"),
            LLMCard("known", 1.0, 1.0, like="gpt-4o-2024-08-06"),
        ],
        scale,
    )
    [table] = tables(pool, minilm, [HARD])
    doubt = pool.spread([HARD], minilm.encode([HARD]))[0]
    assert table.scores[1] == pytest.approx(table.scores[0], abs=0.1)
    assert doubt[1] > doubt[0] > 0


def test_what_is_known_makes_it_surer(scale, minilm):
    names = ("price", "number", "one", "many")
    told = (None, 0.7, {"mmlu_pro": 0.7}, {"mmlu_pro": 0.7, "math": 0.8, "code": 0.7})
    cards = [LLMCard(n, 1.0, 1.0, quality=q) for n, q in zip(names, told, strict=True)]
    doubt = LLMRouter.from_cards(cards, scale).spread([HARD], minilm.encode([HARD]))[0]
    assert (np.diff(doubt) < 0).all()


def test_of_two_unknown_llms_the_dearer_is_held_to_be_abler(scale, minilm):
    pool = LLMRouter.from_cards([LLMCard("a", 0.1, 0.1), LLMCard("b", 5.0, 20.0)], scale)
    assert all(np.diff(table.scores) > 0 for table in tables(pool, minilm))


@given(
    low=st.floats(0.0, 1.0),
    high=st.floats(0.0, 1.0),
    name=st.sampled_from(["mmlu_pro", "math", "law", "human_eval", "gpqa"]),
)
def test_a_higher_published_score_never_lowers_an_ability(low, high, name):
    scale = AbilityScale.packaged()
    low, high = sorted((low, high))
    weak, strong = (
        scale.place(LLMCard("x", 1.0, 1.0, quality={name: each})) for each in (low, high)
    )
    expected = [
        scale.exams.score(each.mean, scale.exams.weights(name))[0] for each in (weak, strong)
    ]
    assert expected[0] <= expected[1] + 1e-6
    assert np.isfinite(weak.mean).all()
    assert (np.linalg.eigvalsh(strong.covariance) > 0).all()


def test_the_scale_is_small_and_saved_whole(scale, minilm, tmp_path):
    scale.save(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1_000_000
    inputs = scale.features.join([EASY, HARD], minilm.encode([EASY, HARD]))
    for one, two in zip(
        scale.model.read(inputs), scale.reading(scale.features).model.read(inputs), strict=True
    ):
        assert two == pytest.approx(one)


def test_published_scores_are_met(scale):
    for name in ("mmlu_pro", "math", "gsm8k", "law"):
        for score in (0.35, 0.6, 0.85):
            placed = scale.place(LLMCard("x", 1.0, 1.0, quality={name: score}))
            met = scale.exams.score(placed.mean, scale.exams.weights(name))[0]
            assert met == pytest.approx(score, abs=0.06), name


def test_a_well_known_name_is_placed_by_its_published_score(scale):
    weights = scale.exams.weights("mmlu_pro")

    def score(name, **known):
        return scale.exams.score(scale.place(LLMCard(name, 1.0, 4.0, **known)).mean, weights)[0]

    assert score("anthropic/claude-sonnet-4-20250514") == pytest.approx(0.837, abs=0.03)
    assert score("claude-opus-4") > score("gpt-4.1") > score("llama-4-scout") > score("unknown")
    assert score("gpt-4.1", quality={"mmlu_pro": 0.5}) < 0.55  # the card's own word counts
    sources = (Path(moma_core.__file__).parent / "packaged/llms/published.toml").read_text()
    for source in tomllib.loads(sources)["source"]:
        assert source["address"].startswith("https://")
        assert source["date"] >= "2025"
        assert all(0.0 < value < 1.0 for value in source["scores"].values())


def test_what_an_llm_was_not_asked_is_told_by_its_other_subjects(scale):
    weights = scale.exams.weights("mmlu_pro")  # of these the scale saw mathematics and code only
    for name, published in (("Llama-3.1-405B-Inst", 0.734), ("claude-3-5-sonnet-20241022", 0.78)):
        told = scale.exams.score(scale.population.measured(name).mean, weights)[0]
        assert told == pytest.approx(published, abs=0.08)


def test_pools_change_and_survive_a_restart(router, tmp_path):
    pool = router.llms.add(LLMCard("new", 0.3, 1.0, like="middle")).remove("middle")
    pool = pool.reprice("large", 1.0, 4.0)
    assert pool.names == ("small", "large", "new")
    pool.save(tmp_path)
    back = LLMRouter.load(tmp_path)
    assert back.cards == pool.cards
    for before, after in zip(
        tables(pool, router.encoder), tables(back, router.encoder), strict=True
    ):
        assert after.scores == pytest.approx(before.scores, abs=1e-6)
        assert after.costs == pytest.approx(before.costs, rel=1e-5)
    again = back.add(LLMCard("late", 1.0, 2.0, quality={"mmlu_pro": 0.8}))
    assert again.names == ("small", "large", "new", "late")
    assert again.spread([HARD], router.encoder.encode([HARD]))[0].min() > 0


def test_scored_queries_sharpen_a_pool_of_cards(router, minilm, tmp_path):
    texts = tuple(f"{EASY if n % 2 else HARD} {n}" for n in range(40))
    easy = np.arange(40) % 2
    scored = LLMDataset(texts, ("mine",), easy[:, None].astype(float), np.full((40, 1), 0.002))
    pool = router.llms.add(LLMCard("mine", 0.6, 2.4), scored, minilm)
    pool.save(tmp_path)
    for each in (pool, LLMRouter.load(tmp_path)):
        simple, hard = tables(each, minilm)
        assert simple.scores[-1] > hard.scores[-1] + 0.5
        assert (simple.costs[-1] + hard.costs[-1]) / 2 == pytest.approx(0.002, rel=0.2)
        assert each.spread([HARD], minilm.encode([HARD]))[0, -1] == 0.0
        known = each.remove("small").add(LLMCard("late", 1.0, 2.0, like="large"))
        assert known.spread([HARD], minilm.encode([HARD]))[0, -1] > 0.0
        assert tables(known, minilm)[1].scores[-1] > 0.8


def test_a_pool_without_its_best_has_another(router):
    left = router.llms.remove("large")
    assert left.best_single == "middle"
    assert left.add(LLMCard("cheap", 0.01, 0.01)).names == ("small", "middle", "cheap")


def test_a_card_joins_trained_llms(minilm):
    pool = LLMRouter.packaged()
    grown = pool.add(LLMCard("new", 0.25, 2.0, quality={"mmlu_pro": 0.86, "math": 0.97}))
    grown = grown.add(LLMCard("weak", 0.05, 0.1, quality={"mmlu_pro": 0.25, "math": 0.2}))
    before, after = (tables(each, minilm) for each in (pool, grown))
    for old, new in zip(before, after, strict=True):
        assert new.scores[: len(old.scores)] == pytest.approx(old.scores, abs=1e-6)
        assert new.scores[-2] > new.scores[-1] + 0.1
    alone = LLMRouter.from_cards(
        [LLMCard("new", 0.25, 2.0, quality={"mmlu_pro": 0.86, "math": 0.97})]
    )
    for joined, own in zip(after, tables(alone, minilm), strict=True):
        assert joined.scores[-2] == pytest.approx(own.scores[0], abs=0.02)  # same scale


def test_a_changed_joined_pool_is_saved(minilm, tmp_path):
    grown = LLMRouter.packaged().add(LLMCard("new", 0.25, 2.0, quality={"mmlu_pro": 0.8}))
    grown = grown.remove(grown.names[0])
    grown.save(tmp_path)
    for a, b in zip(tables(grown, minilm), tables(LLMRouter.load(tmp_path), minilm), strict=True):
        assert b.scores == pytest.approx(a.scores, abs=1e-6)


def test_a_router_takes_another_pool(router):
    mine = MoMARouter.from_cards([AgentCard("taken", "Tells the time")], llms=[SMALL])
    mine.llms = mine.llms.add(LARGE)
    assert mine.choose_llm(HARD, preference="performance").target == "large"
    with pytest.raises(DuplicateNameError, match="taken"):
        mine.llms = mine.llms.add(LLMCard("taken", 1.0, 1.0))
    assert mine.llms.names == ("small", "large")
    with pytest.raises(InvalidInputError, match="pool"):
        mine.llms = [SMALL]
    with pytest.raises(DuplicateNameError):
        mine.agents.add(AgentCard("large", "An agent of an LLM's name"))


def test_refusals(scale):
    with pytest.raises(InvalidCardError, match=r"nonsense.*knows.*mmlu_pro"):
        LLMRouter.from_cards([LLMCard("x", 1.0, 1.0, quality={"nonsense": 0.5})])
    with pytest.raises(InvalidCardError, match=r"like 'nobody', which is unknown.*gpt-4o"):
        LLMRouter.from_cards([LLMCard("x", 1.0, 1.0, like="nobody")])
    with pytest.raises(InvalidCardError, match="unknown"):
        LLMRouter.packaged().add(LLMCard("x", 1.0, 1.0, like="nobody"))
    with pytest.raises(DuplicateNameError, match="two LLMs"):
        LLMRouter.from_cards([SMALL, SMALL])
    for nothing in ([], [1]):
        with pytest.raises(InvalidInputError, match=r"llms=\[LLMCard"):
            MoMARouter.from_cards(llms=nothing)
    assert MoMARouter.from_cards(llms=[SMALL], encoder=HashEncoder()).llms is not None
    for quality in (1.5, {"math": -0.1}, {}, {"math": "good"}, {3: 0.5}, True):
        with pytest.raises(InvalidCardError, match="quality of LLM 'x'"):
            LLMCard("x", 1.0, 1.0, quality=quality)
    with pytest.raises(InvalidCardError, match="like of LLM"):
        LLMCard("x", 1.0, 1.0, like="")
    with pytest.raises(InvalidCardError, match="reasoning_tokens"):
        LLMCard("x", 1.0, 1.0, reasoning_tokens=-1)
    with pytest.raises(InvalidCardError, match="cached_input_price"):
        LLMCard("x", 1.0, 1.0, cached_input_price=-1)
    with pytest.raises(ArtifactError, match="does not hold together"):
        AbilityScale.from_parts({"features": {"names": []}}, {})


@pytest.fixture
def litellm(tmp_path, monkeypatch):
    """A package of that name with a table of three entries."""
    folder = tmp_path / "litellm"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    table = {
        "gpt-5-mini": {
            "input_cost_per_token": 2.5e-07,
            "output_cost_per_token": 2e-06,
            "cache_read_input_token_cost": 2.5e-08,
            "max_input_tokens": 272000,
        },
        "free": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
        "unpriced": {"max_input_tokens": 8000},
    }
    (folder / "model_prices_and_context_window_backup.json").write_text(json.dumps(table))
    from moma_core.llms.prices import price_table

    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "litellm", raising=False)
    price_table.cache_clear()
    yield
    price_table.cache_clear()


def test_prices_and_windows_come_from_litellms_table(litellm):
    card = listed_card("gpt-5-mini", quality={"mmlu_pro": 0.83})
    assert (card.input_price, card.output_price, card.cached_input_price) == (0.25, 2.0, 0.025)
    assert card.context_window == 272000
    pool = LLMRouter.from_cards(["free", card])
    assert pool.names == ("free", "gpt-5-mini")
    assert LLMRouter.packaged().add("gpt-5-mini").card("gpt-5-mini").output_price == 2.0
    for name in ("unpriced", "nowhere"):
        with pytest.raises(InvalidCardError, match="table has none"):
            listed_card(name)


def test_without_the_table_a_name_is_not_enough(monkeypatch):
    from moma_core.llms import prices

    monkeypatch.setattr(prices, "find_spec", lambda name: None)
    prices.price_table.cache_clear()
    with pytest.raises(InvalidCardError, match=r"litellm is not installed.*LLMCard\('gpt-5-mini'"):
        MoMARouter.from_cards(llms=["gpt-5-mini"])
    prices.price_table.cache_clear()


def test_the_command_line_places_llms(minilm, tmp_path, litellm):
    LLMRouter.from_cards([SMALL]).save(tmp_path)

    def add(*words):
        return CliRunner().invoke(app, ["llms", "add", *words, "--router", str(tmp_path)])

    priced = ("large", "--input", "5", "--output", "20", "--quality", "mmlu_pro=0.87")
    assert add(*priced, "--quality", "math=0.97").exit_code == 0
    assert add("gpt-5-mini", "--like", "large").exit_code == 0
    for bad in (("--quality", "good"), ("--quality", "0.5", "--quality", "math=0.5")):
        assert isinstance(add("x", *bad).exception, InvalidCardError)
    pool = LLMRouter.load(tmp_path)
    assert pool.card("large").quality == {"mmlu_pro": 0.87, "math": 0.97}
    assert pool.card("gpt-5-mini").output_price == 2.0
    [table] = tables(pool, minilm, [HARD])
    assert table.scores[0] < table.scores[2] < table.scores[1] + 0.05


def test_real_costs_correct_later_ones(router):
    pool = LLMRouter.from_cards([SMALL, LARGE])
    mine = MoMARouter.from_cards(llms=pool)
    first = mine.choose_llm(EASY, "small")
    for _ in range(40):
        decision = mine.choose_llm(EASY, "small")
        mine.llms.observe(decision.target, decision.cost, 3.0 * first.cost)
    assert mine.choose_llm(EASY, "small").cost == pytest.approx(3.0 * first.cost, rel=0.15)
    assert mine.choose_llm(EASY, "large").cost == pytest.approx(
        router.choose_llm(EASY, "large").cost
    )
    with pytest.raises(UnknownNameError):
        mine.llms.observe("nobody", 1.0, 1.0)
    with pytest.raises(InvalidInputError, match="USD"):
        mine.llms.observe("small", 1.0, float("nan"))
