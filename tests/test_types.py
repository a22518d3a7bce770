"""Cards, queries, preferences and decisions: what is let in, and the trip through JSON."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import (
    AgentCard,
    Auto,
    Candidate,
    Cost,
    InvalidInputError,
    LLMCard,
    Query,
    RoutingDecision,
    RoutingState,
    ScoreTable,
)
from moma_core._checks import MAX_NAME_CHARS
from moma_core.decision import TraceStep
from moma_core.errors import InvalidCardError, InvalidPreferenceError, InvalidQueryError, ScoreError
from moma_core.types import MAX_DESCRIPTION_CHARS, MAX_EXAMPLE_CHARS, Topsis

GOOD_NAMES = (
    "a",
    "\u0646\u200c\u0645",
    "👨\u200d👩",
    "weather_forecast",
    "get user v2",
    "天气",
    "погода",
    "🌧️",
    "x" * MAX_NAME_CHARS,
)
BAD_NAMES = (
    "",
    " ",
    " a",
    "a ",
    "a\n",
    "a\nb",
    "a\tb",
    "\x00",
    "a\x00",
    "\x00a",
    "a\x1bb",
    "\u200b",
    "\u200b\u200d\ufeff",
    "\ufeffweather",
    "weather\u200b",
    "\u202eweather",
    "\u3164",
    "\u00a0a",
    "\x7f",
    "\ud800",
    "x" * (MAX_NAME_CHARS + 1),
    "x" * 1_000_000,
    None,
    3,
    b"bytes",
    ["list"],
)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_of_any_script_are_fine(name):
    assert AgentCard(name, "does it").name == LLMCard(name, 0, 0).name == name


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name)[:20])
def test_unfit_names_are_refused(name):
    with pytest.raises(InvalidCardError, match="name"):
        AgentCard(name, "does it")
    with pytest.raises(InvalidCardError, match="name"):
        LLMCard(name, 1.0, 1.0)


@pytest.mark.parametrize(
    "description",
    [
        "",
        " \n\t",
        "\u200b \ufeff",
        None,
        3,
        b"bytes",
        "x" * (MAX_DESCRIPTION_CHARS + 1),
        "\ud800 half a character",
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_unfit_descriptions_are_refused(description):
    with pytest.raises(InvalidCardError, match="'agent7'"):
        AgentCard("agent7", description)


def test_a_long_description_just_fits():
    assert AgentCard("a", "x" * MAX_DESCRIPTION_CHARS).description


@pytest.mark.parametrize(
    "examples",
    [
        "one text",
        ("",),
        ("ok", "  "),
        (None,),
        (3,),
        ("x" * (MAX_EXAMPLE_CHARS + 1),),
        ("\ud800",),
        None,
        5,
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_unfit_examples_are_refused(examples):
    with pytest.raises(InvalidCardError, match="'agent7'"):
        AgentCard("agent7", "does it", examples=examples)


@pytest.mark.parametrize("categories", ["travel", ("",), (" x",), (None,), None, 5])
def test_unfit_categories_are_refused(categories):
    with pytest.raises(InvalidCardError, match="'agent7'"):
        AgentCard("agent7", "does it", categories=categories)


@pytest.mark.parametrize("field", ["input_schema", "output_schema", "metadata"])
@pytest.mark.parametrize("value", [None, 3, "text", ["list"], {"set": {1}}, {"f": object()}])
def test_schemas_and_metadata_must_be_json_objects(field, value):
    with pytest.raises(InvalidCardError, match="'agent7'"):
        AgentCard("agent7", "does it", **{field: value})


@pytest.mark.parametrize("enabled", ["no", None, 0, 1.0])
def test_enabled_is_true_or_false(enabled):
    with pytest.raises(InvalidCardError, match="'agent7'"):
        AgentCard("agent7", "does it", enabled=enabled)


def test_lists_become_tuples():
    card = AgentCard("a", "does it", examples=["one"], categories=["two"])
    assert (card.examples, card.categories) == (("one",), ("two",))
    assert card == AgentCard("a", "does it", examples=("one",), categories=("two",))


@pytest.mark.parametrize("price", [-1, -1e-9, math.nan, math.inf, "1", None])
def test_unfit_prices_are_refused(price):
    with pytest.raises(InvalidCardError, match="'llm7'"):
        LLMCard("llm7", price, 1.0)
    with pytest.raises(InvalidCardError, match="'llm7'"):
        LLMCard("llm7", 1.0, price)


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t ", None, 3, b"bytes", ["list"], "\ud800"], ids=ascii
)
def test_unfit_queries_are_refused(text):
    with pytest.raises(InvalidQueryError):
        Query(text)
    with pytest.raises(InvalidQueryError):
        Query.of(text)


@pytest.mark.parametrize("text", ["?", "\x00 nul", "天气", "🌧️", "x" * 1_000_000])
def test_odd_queries_are_fine(text):
    assert Query.of(text).text == text
    assert Query.of(Query(text)).text == text


@pytest.mark.parametrize("field", ["history", "events"])
@pytest.mark.parametrize("value", ["one text", None, (3,)])
def test_history_and_events_are_lists_of_texts(field, value):
    with pytest.raises(InvalidQueryError, match=field):
        Query("and then?", **{field: value})


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, math.inf, "half"])
def test_unfit_weights_are_refused(weight):
    for kind in (Auto, Topsis):
        with pytest.raises(InvalidPreferenceError):
            kind(weight)


@pytest.mark.parametrize("budget", [-1, math.nan, "cheap"])
def test_unfit_budgets_are_refused(budget):
    with pytest.raises(InvalidPreferenceError):
        Cost(budget)


@pytest.mark.parametrize(
    ("scores", "costs"),
    [([math.nan, 1], [1, 1]), ([1, 1], [1, math.inf]), ([1], [1, 1]), ([[1, 1]], [1, 1])],
)
def test_tables_hold_finite_numbers_of_one_shape(scores, costs):
    with pytest.raises(ScoreError):
        ScoreTable(("a", "b"), np.array(scores), np.array(costs))


def test_input_errors_are_value_errors():
    assert issubclass(InvalidInputError, ValueError)


texts = st.text(max_size=20)
numbers = st.floats(0, 1)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10)
decisions = st.builds(
    RoutingDecision,
    kind=st.sampled_from(["agent", "llm"]),
    targets=st.lists(names, min_size=1, max_size=3).map(tuple),
    probability=numbers,
    candidates=st.lists(st.builds(Candidate, names, numbers, st.none() | numbers), max_size=3).map(
        tuple
    ),
    preference=st.sampled_from(["performance", "auto", "cost"]),
    reason=texts,
    state=st.builds(
        RoutingState, st.lists(names, max_size=2).map(tuple), st.integers(0, 9), st.none() | names
    ),
    trace=st.lists(st.builds(TraceStep, texts, numbers, texts), max_size=3).map(tuple),
    cost=st.none() | numbers,
)


@given(decisions)
def test_decisions_survive_json(decision):
    assert RoutingDecision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
    assert decision.target == decision.targets[0]


def test_repeated_examples_count_once() -> None:
    card = AgentCard("weather", "Forecast", examples=("rain?", "snow?", "rain?"))
    assert card.examples == ("rain?", "snow?")
