"""Saving is one step: a process that dies at any moment leaves the old router or the new one."""

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from moma_core import AgentCard, ArtifactError, MoMARouter, State, StateMachine
from moma_core._atomic import finish, replacing
from moma_core.testing import HashEncoder

ENCODER = HashEncoder()
CARDS = [AgentCard("weather", "rain"), AgentCard("bank", "money")]
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def router_of(word, pool):
    cards = [
        AgentCard(f"{word} {i}", f"{word} topic {i}", examples=(f"{word} {i}",)) for i in (1, 2)
    ]
    states = StateMachine([State(word.upper(), keywords=(word,))])
    return MoMARouter.from_cards(cards, states=states, llms=pool, encoder=ENCODER)


def seen(folder):
    """What a router's directory holds, part by part."""
    router = MoMARouter.load(folder, encoder=ENCODER)
    return (
        router.agents.names,
        tuple(state.name for state in router.states.states),
        router.agent_router.trained.ranker.names,
        router.llms is not None,
    )


def dies_at(step, folder, do):
    """Run in a child that is killed at its n-th touch of a file of the folder; say if it was."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = [step]

    def watch(event, args):
        if event in EVENTS and str(folder) in str(args[0]):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)

    sys.addaudithook(watch)
    try:
        do()
    finally:
        os._exit(0)


@pytest.mark.parametrize("other_llms", [True, False], ids=["llms", "none"])
def test_killed_at_every_touch_of_a_file(tmp_path, pool, other_llms):
    old, new = router_of("old", pool), router_of("new", pool if other_llms else None)
    for each in (old, new):
        each.fit()
    old.save(tmp_path / "old")
    new.save(tmp_path / "new")
    before, after = seen(tmp_path / "old"), seen(tmp_path / "new")
    outcomes = []
    for step in range(1_000):
        folder = tmp_path / f"at {step}"
        shutil.copytree(tmp_path / "old", folder)
        died = dies_at(step, folder, lambda folder=folder: new.save(folder))
        found = seen(folder)
        assert found in (before, after), f"at touch {step}"
        outcomes.append(found == after)
        if not died:
            break
        if step % 7 == 0:  # what is left behind is in nobody's way
            new.save(folder)
            assert seen(folder) == after
            assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]
    assert outcomes == sorted(outcomes)  # once new, always new
    assert not outcomes[0]
    assert outcomes[-1]
    assert len(outcomes) > 40


def test_a_process_that_dies_while_it_finishes_is_finished_by_the_next(tmp_path):
    def prepare(folder):
        folder.mkdir()
        (folder / "a").write_text("old")
        (folder / "gone").write_text("old")
        ready = folder / ".ready"
        (ready / "below").mkdir(parents=True)
        (ready / ".gone.json").write_text('["gone", "never there"]')
        for name in ("a", "b", "below/c"):
            (ready / name).write_text("new")

    for step in range(200):
        folder = tmp_path / f"{step}"
        prepare(folder)
        died = dies_at(step, folder, lambda folder=folder: finish(folder))
        finish(folder)
        assert {str(p.relative_to(folder)) for p in folder.rglob("*")} == {
            "a",
            "b",
            "below",
            "below/c",
        }
        assert (folder / "a").read_text() == "new"
        if not died:
            break
    assert 8 < step < 199


def test_links_are_replaced_and_not_followed(tmp_path, pool):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("not yours")
    folder = tmp_path / "router"
    folder.mkdir()
    (folder / "router.json").symlink_to(outside / "file")
    (folder / "llms").symlink_to(outside, target_is_directory=True)
    router_of("new", pool).save(folder)
    assert (outside / "file").read_text() == "not yours"
    assert [p.name for p in outside.iterdir()] == ["file"]
    assert not (folder / "router.json").is_symlink()
    assert MoMARouter.load(folder, encoder=ENCODER).llms is not None


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_modes_are_the_umasks(tmp_path, pool, mask):
    before = os.umask(mask)
    try:
        router_of("new", pool).save(tmp_path / "router")
    finally:
        os.umask(before)
    for path in (tmp_path / "router").rglob("*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~mask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_what_is_in_the_way_is_found_before_anything_changes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("old")
    with pytest.raises(ArtifactError, match="in the way"), replacing(tmp_path) as new:  # noqa: PT012
        (new / "a").write_text("new")
        (new / "b").write_text("new")
    assert (tmp_path / "b").read_text() == "old"
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b"}


def test_a_body_that_fails_changes_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(Path(tmp_path)) as new:  # noqa: PT012
        (new / "a").write_text("new")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_router_that_stopped_learning_forgets_what_was_learnt(tmp_path, pool):
    from moma_core import Learning

    router = router_of("old", pool)
    router.learn(Learning())
    router.save(tmp_path)
    assert MoMARouter.load(tmp_path, encoder=ENCODER).learning is not None
    router.learn(None)
    router.save(tmp_path)
    assert MoMARouter.load(tmp_path, encoder=ENCODER).learning is None


def test_a_database_of_no_bytes_is_not_taken_for_an_empty_one(tmp_path, pool):
    with MoMARouter.from_cards(CARDS, encoder=ENCODER, llms=pool, path=tmp_path) as router:
        router.save(tmp_path)
    (tmp_path / "registry" / "chroma.sqlite3").write_bytes(b"")
    with pytest.raises(ArtifactError, match="lost its agents"):
        MoMARouter.load(tmp_path, encoder=ENCODER)
