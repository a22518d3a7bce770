"""Modes, roles and signals: what is counted, read and refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import InvalidInputError, NoTargetError, UnknownNameError
from moma_core.errors import DuplicateNameError, InvalidCardError
from moma_core.teams.cards import (
    MODES,
    ModeCard,
    RoleCard,
    TeamOptions,
    calls,
    calls_by_member,
    packaged_roles,
    read_roles,
)
from moma_core.teams.router import Signal

ANY_TEAM = st.sampled_from(MODES).flatmap(
    lambda mode: st.tuples(
        st.just(mode), st.integers(mode.min_members, mode.max_members), st.integers(1, 4)
    )
)


@pytest.mark.parametrize(
    ("mode", "members", "rounds", "expected"),
    [
        ("io", 1, 1, 1),
        ("cot", 1, 3, 1),
        ("chain", 3, 1, 3),
        ("full", 3, 2, 3 * 2 + 1),
        ("debate", 3, 2, 3 * (1 + 2) + 1),
        ("debate", 2, 1, 2 * 2 + 1),
        ("reflection", 2, 1, 3),
        ("reflection", 2, 2, 5),
    ],
)
def test_calls(mode, members, rounds, expected):
    assert calls(mode, members, rounds) == expected


@given(ANY_TEAM)
def test_every_member_speaks_and_the_shares_sum_to_the_calls(team):
    mode, members, rounds = team
    shares = calls_by_member(mode, members, rounds)
    assert len(shares) == members
    assert min(shares) >= 1
    assert sum(shares) == calls(mode.name, members, rounds)


@pytest.mark.parametrize(("mode", "members"), [("io", 2), ("chain", 1), ("reflection", 3)])
def test_a_team_that_the_mode_does_not_take(mode, members):
    with pytest.raises(InvalidInputError, match=f"mode '{mode}' takes"):
        calls(mode, members)


def test_an_unknown_mode():
    with pytest.raises(UnknownNameError, match="no mode 'swarm'; there are"):
        calls("swarm", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_members": 0}, "needs a member and a round"),
        ({"max_members": 0}, "needs a member and a round"),
        ({"max_rounds": 0}, "needs a member and a round"),
        ({"each": 0}, "makes no call"),
        ({"description": " "}, "needs a description"),
        ({"length": 0.0}, "cost of a call"),
        ({"length": float("inf")}, "cost of a call"),
        ({"name": ""}, "mode name"),
    ],
)
def test_a_mode_that_cannot_be(change, message):
    fields = {"name": "pair", "description": "Two in turn", "each": 1, **change}
    with pytest.raises(InvalidCardError, match=message):
        ModeCard(**fields)


def test_the_packaged_roles_are_many_distinct_and_complete():
    roles = packaged_roles()
    assert len(roles) >= 25
    assert {role.domain for role in roles} == {"maths", "code", "commonsense", "business"}
    for domain in ("maths", "code", "commonsense", "business"):
        duties = {role.duty for role in roles if role.domain == domain}
        assert duties == {"plan", "solve", "check", "judge"}
    assert len({role.prompt for role in roles}) == len(roles)
    assert all(len(role.prompt.split()) >= 30 and "  " not in role.prompt for role in roles)


def test_roles_are_read_from_toml(tmp_path):
    path = tmp_path / "roles.toml"
    path.write_text(
        '[[role]]\nname = "poet"\ndescription = "Writes verse"\nprompt = "Rhyme."\n'
        'domain = "writing"\n'
    )
    assert read_roles(path) == (RoleCard("poet", "Writes verse", "Rhyme.", "writing"),)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("not toml", InvalidInputError, "holds no roles"),
        ("x = 1", InvalidInputError, "holds no roles"),
        ('[[role]]\nname = "a"', InvalidInputError, "holds no roles"),
        (
            '[[role]]\nname = "a"\ndescription = ""\nprompt = "p"\ndomain = "d"',
            InvalidCardError,
            "needs a description",
        ),
        (
            '[[role]]\nname = "a"\ndescription = "x"\nprompt = "p"\ndomain = "d"\nduty = "sing"',
            InvalidCardError,
            "duty of role 'a'",
        ),
        (
            '[[role]]\nname = "a"\ndescription = "x"\nprompt = "p"\ndomain = "d"\n' * 2,
            DuplicateNameError,
            "two roles are called 'a'",
        ),
    ],
)
def test_roles_that_cannot_be_read(tmp_path, text, error, message):
    path = tmp_path / "roles.toml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        read_roles(path)


def test_a_roles_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot read roles"):
        read_roles(tmp_path / "none.toml")


def test_options_need_a_mode_and_a_role(hashing):
    with pytest.raises(NoTargetError, match="0 modes"):
        TeamOptions.embed(hashing, modes=())
    with pytest.raises(NoTargetError, match="0 roles"):
        TeamOptions.embed(hashing, roles=())
    with pytest.raises(DuplicateNameError, match="two modes share"):
        TeamOptions.embed(hashing).adding(hashing, MODES[0])


def test_a_signal_says_what_is_wrong():
    assert Signal().trouble == ""
    assert Signal(agreement=1.0, confidence=0.9, passed=True).trouble == ""
    assert "67 %" in Signal(agreement=2 / 3).trouble
    assert "0.30" in Signal(confidence=0.3).trouble
    assert Signal(agreement=0.1, passed=False).trouble == "a check failed"
    assert Signal(agreement=0.1).doubt == 1.0
    assert Signal(passed=False).doubt == Signal(agreement=0.1, confidence=0.2).doubt < 1.0
    with pytest.raises(InvalidInputError, match="agreement lies in"):
        Signal(agreement=1.5)
    with pytest.raises(InvalidInputError, match="confidence lies in"):
        Signal(confidence=float("nan"))
