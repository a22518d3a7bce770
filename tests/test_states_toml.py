"""States in files: errors that name the line, round trips, the diagram, ``moma states``."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from moma_core import State, StateMachine
from moma_core.agents.states import check_states, mermaid
from moma_core.cli.main import app
from moma_core.errors import InvalidStatesError
from moma_core.testing import HashEncoder


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[[states]", "not valid TOML"),
        ("states = 3", r"\[\[states\]\]"),
        ("states = [1]", r"\[\[states\]\]"),
        ("[states]\nname = 'A'", r"\[\[states\]\]"),
        ("title = 'x'\n[[states]]\nname = 'A'", "title"),
        ("[[states]]\nkeywords = ['x']", "state 1: a state needs a name"),
        ("[[states]]\nname = ''", "name"),
        ("[[states]]\nname = 3", "state 1: name"),
        ("[[states]]\nname = 'A'\n[[states]]\nname = 'B'\nkeyword = ['x']", "state 2.*'keyword'"),
        ("[[states]]\nname = 'A'\nkeywords = 'flight'", "state 1: keywords"),
        ("[[states]]\nname = 'A'\nkeywords = [3]", "state 1: keywords"),
        ("[[states]]\nname = 'A'\nkeywords = ['']", "'A'.*keywords"),
        ("[[states]]\nname = 'A'\npriority = 1.5", "state 1: priority"),
        ("[[states]]\nname = 'A'\npriority = true", "state 1: priority"),
        ("[[states]]\nname = 'A'\nsticky = 'x'", "state 1: sticky"),
        ("[[states]]\nname = 'A'\nthreshold = 'x'", "state 1: threshold"),
        ("[[states]]\nname = 'A'\nprompt = ['x']", "state 1: prompt"),
        ("[[states]]\nname = 'A'\n[[states]]\nname = 'A'", "share a name"),
        ("[[states]]\nname = 'A'\npatterns = ['(']", r"'A'.*'\('"),
        ("[[states]]\nname = 'A'\npatterns = ['(?=x)']", "'A'.*Look-around"),
        ("[[states]]\nname = 'A'\npatterns = ['(a)\\1']", "'A'"),
        ("[[states]]\nname = 'A'\npatterns = ['a{1000}{1000}']", "'A'"),
        ("[[states]]\nname = 'A'\nprompt = 'travel'", "'A' has a prompt, which needs an encoder"),
        ("[[states]]\nname = 'A'\nall_of = ['B']", "'A': no state is named 'B'"),
        ("[[states]]\nname = 'A'\nall_of = ['A']", "'A': is part of itself"),
        ("[[states]]\nname = 'A'\nall_of = ['B']\nsticky = 1", "'A': a composite state"),
        ("[[states]]\nname = 'A'\nleave = ['(']", r"'A'.*'\('"),
        ("[[states]]\nname = 'A'\nsticky = -1", "0 or more"),
        ("[[states]]\nname = 'A'\nexpires_after = 1.5", "state 1: expires_after"),
        ("cancel = 'stop'", "cancel is a list of phrases"),
        ("follow_ups = ['']", "follow_ups is a list of phrases"),
    ],
)
def test_errors_name_the_state_and_the_field(toml, says):
    with pytest.raises(InvalidStatesError, match=rf"(?s){says}"):
        StateMachine.from_toml(toml)


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(InvalidStatesError, match=r"missing\.toml"):
        StateMachine.from_toml(tmp_path / "missing.toml")
    with pytest.raises(InvalidStatesError, match=r"missing\.toml"):
        StateMachine.from_toml(str(tmp_path / "missing.toml"))
    (tmp_path / "latin.toml").write_bytes("name = 'é'".encode("latin-1"))
    with pytest.raises(InvalidStatesError, match=r"latin\.toml"):
        StateMachine.from_toml(tmp_path / "latin.toml")


def test_a_file(tmp_path):
    path = tmp_path / "states.toml"
    path.write_text("[[states]]\nname = 'TRAVEL'\nkeywords = ['Flug', '天气']\n", encoding="utf-8")
    for source in (path, str(path)):
        assert StateMachine.from_toml(source).states == (State("TRAVEL", ("Flug", "天气")),)


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


lists = st.lists(words, max_size=3).map(tuple)


states = st.builds(
    State,
    name=words.filter(str.strip),
    keywords=lists,
    patterns=st.lists(st.sampled_from([r"\d+", r"#\w{2}\\", "[\"']", "a\tb"]), max_size=2).map(
        tuple
    ),
    events=lists,
    prompt=st.text(st.characters(codec="utf-8"), max_size=12),
    threshold=st.floats(-1.0, 1.0),
    priority=st.integers(-(2**70), 2**70),
    sticky=st.integers(0, 2**70),
    expires_after=st.integers(0, 2**70),
    categories=lists,
    agents=lists,
    prefixes=lists,
)


@given(st.lists(states, max_size=4, unique_by=lambda state: state.name), lists, lists)
def test_toml_round_trip(made, follow_ups, cancel):
    encoder = HashEncoder()
    if len(made) > 1:
        made.append(State("all " + made[0].name * 2, all_of=tuple(s.name for s in made[:2])))
    phrases = [[phrase for phrase in phrases if phrase.strip()] for phrases in (follow_ups, cancel)]
    text = StateMachine(made, encoder, follow_ups=phrases[0], cancel=phrases[1]).to_toml()
    found = StateMachine.from_toml(text, encoder)
    assert found.states == tuple(made)
    assert [list(found.phrases.follow_ups), list(found.phrases.cancel)] == phrases


FILE = """# The office's states
cancel = ["vergiss es"]

[[states]]
name = "TRAVEL"
keywords = ["flight"]

[[ states ]]   # the second
name = "PAPERS"
events = [
  "file_uploaded",
]
PATTERN

[[states]]
name = "BOTH"
all_of = ["TRAVEL", "PAPERS"]
"""


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("PATTERN", "pattern = 'x'", 13),
        ("PATTERN", "patterns = ['(']", 13),
        ("PATTERN", "sticky = 'x'", 13),
        ("PATTERN", "leave = ['']", 13),
        ("PATTERN", "sticky = -1", 13),
        ("PATTERN", "sticky = ", 13),
        ('"PAPERS"\n', '"TRAVEL"\n', 9),
        ('name = "PAPERS"', "", 8),
        ('["TRAVEL", "PAPERS"]', '["TRAVEL", "PAPER"]', 17),
        ('["TRAVEL", "PAPERS"]', '["BOTH"]', 17),
        ('["TRAVEL", "PAPERS"]', '["TRAVEL"]\nkeywords = ["x"]', 18),
    ],
)
def test_errors_name_the_line(tmp_path, old, new, line):
    path = tmp_path / "office.toml"
    path.write_text(FILE.replace(old, new).replace("PATTERN", ""))
    for read in (StateMachine.from_toml, check_states):
        with pytest.raises(InvalidStatesError, match=rf"office\.toml.*line {line}\b"):
            read(path)


def test_inline_tables_have_no_line_of_their_own():
    with pytest.raises(InvalidStatesError, match="states, state 2: unknown field 'x'"):
        StateMachine.from_toml("states = [{name = 'A'}, {name = 'B', x = 1}]")


def test_the_diagram():
    drawn = mermaid(
        [
            State('A "x": 1; --> [*]\n', keywords=("#1",), priority=2, sticky=1, agents=("a",)),
            State("B", events=("up",), patterns=("a|b",), expires_after=0, leave=("bye",)),
            State("C", prompt="sums: 1+1", threshold=0.4),
            State("D", all_of=("B", "C"), prefixes=("d_",), categories=("x", "y")),
        ]
    )
    assert drawn.splitlines() == [
        "stateDiagram-v2",
        '    state "A #34;x#34;#58; 1#59; --#62; #91;#42;#93;#10;" as s1',
        "    s1 : agent a",
        '    state "B" as s2',
        '    state "C" as s3',
        '    state "D" as s4',
        "    s4 : category x or y, names from d_",
        "    [*] --> s1 : keyword #35;1, priority 2",
        "    s1 --> s1 : follow-up, up to 8 turns",
        "    s1 --> [*] : nothing speaks for it for 2 turns, or a cancel phrase",
        "    [*] --> s2 : pattern a#124;b",
        "    [*] --> s2 : event up",
        "    s2 --> [*] : nothing speaks for it, or a cancel phrase",
        "    s2 --> [*] : leave rule bye",
        "    [*] --> s3 : means sums#58; 1#43;1, cosine 0.4 or more",
        "    s3 --> s3 : follow-up, up to 8 turns",
        "    s3 --> [*] : nothing speaks for it, or a cancel phrase",
        "    s2 --> s4 : while C holds",
        "    s3 --> s4 : while B holds",
    ]


def moma(*arguments):
    return CliRunner().invoke(app, ["states", "show", *map(str, arguments)])


def test_the_command_draws_and_checks(tmp_path):
    path = tmp_path / "states.toml"
    path.write_text(FILE.replace("PATTERN", "prompt = 'papers'"))
    assert moma(path).stdout == mermaid(check_states(path)) + "\n"
    assert moma("--router", tmp_path).stdout == moma(path).stdout
    assert "3 states, 1 of them composite" in moma("--check", path).stdout
    path.write_text(FILE)
    assert isinstance(moma("--check", path).exception, InvalidStatesError)
    assert isinstance(moma(tmp_path / "missing.toml").exception, InvalidStatesError)


@pytest.mark.parametrize(("depth", "width"), [(3_000, 2), (2, 3_000)])
def test_nested_composites_are_read_in_linear_time(depth, width):
    rows = [
        f"[[states]]\nname = 'S{i}'\nall_of = {[f'S{i + 1}', *(f'A{j}' for j in range(width))]}"
        for i in range(depth)
    ]
    rows += [f"[[states]]\nname = '{n}'\nevents = ['{n}']" for n in (f"S{depth}", *_parts(width))]
    start = time.process_time()
    machine = StateMachine.from_toml("\n".join(rows))
    assert len(machine.states) == depth + 1 + width
    assert time.process_time() - start < 5


def _parts(width):
    return [f"A{j}" for j in range(width)]


def test_twins_that_hold_each_other_up_are_read_at_once():
    """Two states a level, each made of both of the next: 2 ** 40 ways down."""
    rows = [
        f"[[states]]\nname = '{a}{i}'\nall_of = ['S{i + 1}', 'T{i + 1}']"
        for i in range(40)
        for a in "ST"
    ]
    rows += [f"[[states]]\nname = '{a}40'\nkeywords = ['{a}']" for a in "ST"]
    assert len(StateMachine.from_toml("\n".join(rows)).states) == 82
