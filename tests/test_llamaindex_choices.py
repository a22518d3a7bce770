"""A thousand random lists of choices: every answer is a valid position, or a typed error."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.tools import ToolMetadata

from llamaindex_moma import MoMASelector, MoMAToolMetadata
from moma_core import InvalidInputError, MoMAError, NoTargetError, UnknownNameError
from moma_core.errors import DuplicateNameError, InvalidCardError
from moma_core.testing import HashEncoder


class Remembers:
    """Hashes every text once: each new router encodes the same background again."""

    def __init__(self, dimension: int) -> None:
        self._inner = HashEncoder(dimension)
        self.fingerprint, self.dimension = self._inner.fingerprint, dimension
        self._rows: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        for text in texts:
            if text not in self._rows:
                self._rows[text] = self._inner.encode([text])[0]
        rows = [self._rows[text] for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.dimension)


ENCODER = Remembers(32)
WORDS = ("papers", "soup", "rain", "tax", "chess", "north", "bread", "law", "moon", "tram")

_names = st.one_of(
    st.none(), st.sampled_from((*WORDS, "", " ", "choice 1", "papers (1)")), st.text()
)
_descriptions = st.one_of(
    st.just(""), st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), st.text(max_size=40)
)
_choices = st.builds(ToolMetadata, _descriptions, _names)


@st.composite
def lists_of_choices(draw: st.DrawFn) -> list[ToolMetadata]:
    size = draw(st.sampled_from(("few", "few", "few", "one", "many")))
    if size == "many" and draw(st.integers(0, 19)) == 0:  # 500 choices, about ten times
        dice = random.Random(draw(st.integers()))
        return [
            ToolMetadata(" ".join(dice.choices(WORDS, k=3)), dice.choice((None, *WORDS)))
            for _ in range(500)
        ]
    return draw(st.lists(_choices, min_size=1, max_size=1 if size == "one" else 9))


@settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    choices=lists_of_choices(),
    query=st.one_of(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), st.text()
    ),
    many=st.integers(1, 12),
    fallback=st.one_of(st.none(), st.integers(-2, 12)),
    strict=st.booleans(),
)
def test_never_an_invalid_index(
    choices: list[ToolMetadata], query: str, many: int, fallback: int | None, strict: bool
) -> None:
    selector = MoMASelector(
        several=True, max_selections=many, fallback=fallback, strict=strict, encoder=ENCODER
    )
    try:
        result = selector.select(choices, query)
    except NoTargetError:
        assert strict
        assert fallback is None
        return
    except MoMAError:
        # A blank query, or a fallback that is no position: said, not guessed.
        return
    assert 1 <= len(result.inds) <= many
    assert len(set(result.inds)) == len(result.inds)
    assert all(0 <= index < len(choices) for index in result.inds)
    scores = [selection.score for selection in result.selections]
    assert scores == sorted(scores, reverse=True)
    for selection in result.selections:
        # The name leads back to this very choice.
        given_name = "".join(
            c if c.isprintable() else " " for c in choices[selection.index].name or ""
        )
        assert selection.name.startswith(given_name[:100].strip()) or not given_name.strip()
        if selection.fallback:  # the one that was asked for, or else the nearest
            assert not (strict and fallback is None)
            assert len(result.inds) == 1
            assert fallback is None or selection.index == fallback


ALL = MoMASelector(
    several=True, max_selections=99, min_share=0.0, min_probability=0.0, encoder=ENCODER
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(_choices, min_size=1, max_size=12))
def test_every_choice_has_a_name_of_its_own(choices: list[ToolMetadata]) -> None:
    found = ALL.select(choices, "papers").selections
    assert len({selection.name for selection in found}) == len(choices)


def test_names_are_made_of_position_where_they_are_missing_or_doubled() -> None:
    given_names = [
        ToolMetadata("a", "papers"),
        ToolMetadata("b", "papers"),
        ToolMetadata("c", None),
        ToolMetadata("d", "choice 3"),
    ]
    found = ALL.select(given_names, "a").selections
    names = {selection.index: selection.name for selection in found}
    assert names == {0: "papers (1)", 1: "papers (2)", 2: "choice 3'", 3: "choice 3"}


def test_five_hundred_choices_each_found_by_its_own_words() -> None:
    choices = [ToolMetadata(f"collection{i} about subject{i}", None) for i in range(500)]
    selector = MoMASelector(encoder=HashEncoder(256), min_probability=0.0)
    for i in (0, 7, 250, 499):
        assert selector.select(choices, f"collection{i} about subject{i}").ind == i


@pytest.mark.parametrize("count", [1, 9, 10, 11, 25, 30])
def test_the_scores_of_any_number_of_selections_are_probabilities(count: int) -> None:
    choices = [ToolMetadata(f"word{i}", f"tool {i}") for i in range(30)]

    def scores(count: int) -> list[float]:
        selector = MoMASelector(
            several=True, max_selections=count, min_share=0.0, min_probability=0, encoder=ENCODER
        )
        result = selector.select(choices, "word3")
        assert result.inds[0] == 3
        assert len(set(result.inds)) == count
        return [selection.score for selection in result.selections]

    every = scores(30)
    assert sum(every) <= 1.0 + 1e-6
    # The same choice has the same probability, however many are asked for.
    assert scores(count) == pytest.approx(every[:count], abs=1e-6)


def test_one_choice_can_still_be_refused() -> None:
    only = [ToolMetadata("Cooking recipes and baking", "recipes")]
    selector = MoMASelector(strict=True)
    assert selector.select(only, "recipes for baking").ind == 0
    with pytest.raises(NoTargetError, match="none of the 1 choices"):
        selector.select(only, "prove that there are infinitely many primes")


def test_examples_for_a_doubled_name_are_refused() -> None:
    choices = [ToolMetadata("weather", "records"), ToolMetadata("music", "records")]
    with pytest.raises(DuplicateNameError, match="2 choices are called 'records'"):
        MoMASelector({"records": ["will it rain"]}, encoder=ENCODER).select(choices, "rain")


def test_examples_for_other_choices_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="papers"):
        MoMASelector({"papers": ["who proved it"]}, encoder=ENCODER).select(
            [ToolMetadata("a", "paper")], "who proved it"
        )
    # A list may be a part of what there are examples for.
    selector = MoMASelector(
        {"papers": ["who proved it"], "news": ["today"]}, encoder=ENCODER, min_probability=0.0
    )
    assert selector.select([ToolMetadata("a", "papers")], "who proved it").ind == 0


def test_examples_come_with_the_metadata_too() -> None:
    choices = [
        MoMAToolMetadata("Shelf one", "first", examples=("who proved the theorem",)),
        ToolMetadata("Shelf two", "second"),
    ]
    selector = MoMASelector({"first": ["which lemma is cited"]}, encoder=ENCODER)
    for asked in ("who proved the theorem", "which lemma is cited"):
        [selection] = selector.select(choices, asked).selections
        assert (selection.index, selection.fallback) == (0, False)


def test_one_text_for_a_list_of_examples_is_refused_at_once() -> None:
    with pytest.raises(InvalidCardError, match=r"Write \['who proved it'\]"):
        MoMASelector({"papers": "who proved it"})
    with pytest.raises(InvalidInputError, match="by name, got list"):
        MoMASelector(["who proved it"])  # type: ignore[arg-type]


def test_a_misspelt_key_beside_a_right_one_is_refused() -> None:
    choices = [ToolMetadata("Papers", "papers"), ToolMetadata("Recipes", "recipes")]
    given = {"papers": ["who proved it"], "recepies": ["how long to bake"]}
    with pytest.raises(UnknownNameError, match=r"'recepies'.*'recipes'\. Did you mean that"):
        MoMASelector(given, encoder=ENCODER).select(choices, "how long to bake bread")
    # Each has its own examples, or another number: for another list, not a slip.
    both = {**given, "recipes": ["bread"]}
    assert MoMASelector(both, encoder=ENCODER).select(choices, "bread").ind == 1
    years = [ToolMetadata("Papers", "papers"), ToolMetadata("Sales", "sales_2024")]
    other = {"papers": ["who proved it"], "sales_2023": ["how much"]}
    assert MoMASelector(other, encoder=ENCODER).select(years, "who proved it").selections
