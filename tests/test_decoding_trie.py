"""The trie, who is eligible, and the prior along it: numpy only, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import InvalidInputError, NoTargetError, UnknownNameError, decoding
from moma_core.decoding.trie import ROOT, Eligibility, NamePrior, NameTrie
from moma_core.errors import DuplicateNameError, ScoreError

END = 0
SEQUENCES = st.lists(
    st.lists(st.integers(1, 5), min_size=1, max_size=5), min_size=1, max_size=25, unique_by=tuple
)


class Letters:
    """Tokenises a text into its characters, lower-cased: some names become twins."""

    eos_token_id = END

    def __call__(self, text, *, add_special_tokens):
        return {"input_ids": [[ord(c) for c in one.lower()] for one in text]}


def brute_live(sequences, chosen, path):
    """Tokens that follow ``path`` in an eligible sequence."""
    closed = [[*seq, END] for seq, yes in zip(sequences, chosen, strict=True) if yes]
    depth = len(path)
    return sorted({seq[depth] for seq in closed if seq[:depth] == path and len(seq) > depth})


@given(SEQUENCES, st.data())
def test_liveness_is_that_of_brute_force_through_toggles(sequences, data):
    trie = NameTrie(sequences, END)
    eligible = Eligibility(trie)
    chosen = np.ones(len(sequences), dtype=bool)
    for _ in range(4):
        if data.draw(st.booleans()):
            chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(trie)))[: len(trie)])
            eligible.only_where(chosen.copy())
        else:
            i = data.draw(st.integers(0, len(trie) - 1))
            chosen[i] = not chosen[i]
            (eligible.enable if chosen[i] else eligible.disable)(str(i))
        for node in range(trie.token.size):
            expected = brute_live(sequences, chosen, trie.path(node))
            assert trie.token[eligible.live(node)].tolist() == expected
        assert len(eligible) == chosen.sum()
        assert eligible.where().tolist() == chosen.tolist()
        assert eligible.names() == [str(i) for i in np.flatnonzero(chosen)]


@given(SEQUENCES)
def test_numbering(sequences):
    trie = NameTrie(sequences, END)
    assert (np.diff(trie.depth) >= 0).all()  # breadth-first
    for node in range(trie.token.size):
        here = trie.children(node)
        assert (trie.parent[here] == node).all()
        assert (np.diff(trie.token[here]) > 0).all()
        if trie.is_leaf(node):
            assert trie.hi[node] - trie.lo[node] == 1
        else:  # the children's intervals, side by side, are the node's
            assert trie.lo[here].tolist() == [trie.lo[node], *trie.hi[here][:-1]]
            assert trie.hi[here][-1] == trie.hi[node]
    in_order = [[*sequences[i], END] for i in trie.name_of_leaf]
    assert in_order == sorted(in_order)
    assert trie.length == max(map(len, sequences)) + 1


@given(SEQUENCES)
def test_every_name_and_nothing_else_is_matched(sequences):
    trie = NameTrie(sequences, END)
    for i, sequence in enumerate(sequences):
        assert trie.tokens_of(str(i)) == [*sequence, END]
        assert trie.match([*sequence, END, 3, END]) == str(i)  # padding is not looked at
        assert trie.match(sequence) is None
        assert trie.match([*sequence, 9, END]) is None


@given(SEQUENCES, st.data())
def test_prior_shares_are_sums_of_masses_and_telescope(sequences, data):
    trie = NameTrie(sequences, END)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(trie))))[: len(trie)]
    chosen[0] = True
    counts = Eligibility(trie, [str(i) for i in np.flatnonzero(chosen)]).counts
    masses = np.array([data.draw(st.floats(0.01, 5)) for _ in sequences])
    prior = NamePrior(trie, np.log(masses))
    total = masses[chosen].sum()
    for i in np.flatnonzero(chosen):
        node, log_share = ROOT, 0.0
        for token in trie.tokens_of(str(i)):
            children = Eligibility.live(eligibility_of(trie, counts), node)
            below = trie.child(node, token)
            log_share += prior.shares(counts, children)[children.tolist().index(below)]
            node = below
        assert np.exp(log_share) == pytest.approx(masses[i] / total)


def eligibility_of(trie, counts):
    eligible = Eligibility(trie)
    eligible.counts = counts
    return eligible


def test_a_name_that_begins_another():
    trie = NameTrie.from_names(["travel", "travel_agent", "日本 旅行", "weather now"], Letters())
    assert trie.names_below(trie.walk([ord(c) for c in "travel"])) == ["travel", "travel_agent"]
    eligible = Eligibility(trie, ["travel_agent"])
    after = eligible.live(trie.walk([ord(c) for c in "travel"]))
    assert [chr(token) for token in trie.token[after]] == ["_"]
    assert "travel" not in eligible
    assert trie.match([*map(ord, "日本 旅行"), END]) == "日本 旅行"


def test_lead_is_tokenised_with_the_name():
    trie = NameTrie.from_names(["a"], Letters(), lead=" ", terminator=7)
    assert trie.tokens_of("a") == [32, 97, 7]


def test_copy_is_apart():
    trie = NameTrie([[1], [2]], END)
    eligible = Eligibility(trie)
    twin = eligible.copy()
    twin.disable("0")
    assert (eligible.names(), twin.names()) == (["0", "1"], ["1"])
    assert eligible.live(None).size == 0


@pytest.mark.parametrize(
    ("sequences", "error", "says"),
    [
        ([], InvalidInputError, "at least one"),
        ([[1], []], InvalidInputError, "no tokens"),
        ([[1], [2, END]], InvalidInputError, "'1' holds the terminator"),
        ([[1], [-2]], InvalidInputError, "negative"),
        ([[1, 2], [3], [1, 2]], DuplicateNameError, "'0' and '2'"),
    ],
)
def test_refused_sequences(sequences, error, says):
    with pytest.raises(error, match=says):
        NameTrie(sequences, END)


def test_refused_names():
    tokenizer = Letters()
    with pytest.raises(DuplicateNameError, match="'Travel' and 'travel'"):
        NameTrie.from_names(["Travel", "travel"], tokenizer)
    with pytest.raises(InvalidInputError, match="at least one name"):
        NameTrie.from_names([], tokenizer)
    tokenizer.eos_token_id = None
    with pytest.raises(InvalidInputError, match="pass terminator"):
        NameTrie.from_names(["travel"], tokenizer)


def test_refused_eligibility_and_prior():
    trie = NameTrie([[1], [2]], END)
    eligible = Eligibility(trie, [])
    with pytest.raises(NoTargetError, match=r"eligible\.enable"):
        eligible.check()
    with pytest.raises(UnknownNameError, match="'nobody'"):
        eligible.enable("nobody")
    with pytest.raises(InvalidInputError, match="shape"):
        eligible.only_where(np.ones(3, dtype=bool))
    with pytest.raises(InvalidInputError, match="shape"):
        NamePrior(trie, [0.0])
    with pytest.raises(ScoreError, match="finite"):
        NamePrior(trie, [0.0, -np.inf])


def test_the_trie_needs_no_torch_and_the_rest_says_what_to_install(python):
    done = python(
        """
import sys
import moma_core.decoding as decoding
assert decoding.Eligibility(decoding.NameTrie([[1], [2]], 0)).names() == ["0", "1"]
assert not {"torch", "transformers"} & set(sys.modules)
assert decoding.__all__ == sorted(decoding.__all__) == dir(decoding)
sys.modules["torch"] = None  # as if it were not installed
from moma_core import MissingExtraError
try:
    from moma_core.decoding import top_k
except MissingExtraError as error:
    print(error)
"""
    )
    assert done.returncode == 0, done.stderr
    assert 'pip install "moma-router[llm]"' in done.stdout


def test_every_name_of_the_package_loads():
    pytest.importorskip("transformers")
    for name in decoding.__all__:
        assert getattr(decoding, name).__module__.startswith("moma_core.decoding")
    with pytest.raises(AttributeError):
        decoding.nothing  # noqa: B018
