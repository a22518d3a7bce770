"""``moma agents lint`` and ``moma agents tune``: what they find, and that figures are held out."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from moma_core import AgentCard, LLMRouter, MoMARouter, RoutingEncoder
from moma_core._tables import write_table
from moma_core.agents.data import LabelledQueries
from moma_core.errors import InvalidDataError
from moma_core.testing import HashEncoder
from moma_core.training.lint import lint
from moma_core.training.tune import figures, tune

WORDS = {
    "weather": "rain snow wind storm cloud fog hail sun",
    "calendar": "meeting date monday appointment reminder slot invite week",
    "music": "song album play tune band concert guitar melody",
}
FOREIGN = ["proof", "prime", "theorem", "poem", "essay", "lemma", "verse", "sonnet"]


def sentence(rng, words, mix=2):
    return " ".join([*rng.sample(words, mix), f"w{rng.randrange(40)}", f"v{rng.randrange(40)}"])


@pytest.fixture(scope="module")
def router():
    rng = random.Random(0)
    cards = [
        AgentCard(name, f"takes care of {words}",
                  examples=tuple(sentence(rng, words.split()) for _ in range(6)))
        for name, words in WORDS.items()
    ]  # fmt: skip
    return MoMARouter.from_cards(cards, llms=None, encoder=HashEncoder())


def labelled(n, seed=1, none=0.5):
    rng = random.Random(seed)
    texts, agents = [], []
    for _ in range(n):
        if rng.random() < none:
            near = rng.choice(list(WORDS.values())).split()
            texts.append(" ".join([*rng.sample(FOREIGN, 2), rng.choice(near)]))
            agents.append(())
        else:
            name = rng.choice(list(WORDS))
            texts.append(sentence(rng, WORDS[name].split(), 1))
            agents.append((name,))
    return LabelledQueries(tuple(texts), tuple(agents))


def distinct(rows):
    kept = dict(zip(rows.texts, rows.agents, strict=True))
    return LabelledQueries(tuple(kept), tuple(kept.values()))


def kinds(cards, encoder=None):
    router = MoMARouter.from_cards(cards, llms=None, encoder=encoder or HashEncoder())
    return {(each.kind, each.agent, each.other) for each in lint(router)}


GOOD = [
    AgentCard("weather", "rain and snow and wind tomorrow", examples=("rain at noon", "snow?")),
    AgentCard("sums", "adds and divides numbers for you", examples=("add 3 and 4",)),
]


def test_good_cards_have_no_findings():
    assert kinds(GOOD) == set()
    assert lint(MoMARouter.from_cards([], llms=None, encoder=HashEncoder())) == []


def test_each_kind_of_finding():
    twin = AgentCard("forecast", "rain and snow and wind tomorrow")
    assert ("duplicate", "weather", "forecast") in kinds([*GOOD, twin])
    near = AgentCard("sky", "rain and snow and clouds tomorrow")
    assert any(kind == "overlap" and {"weather", "sky"} == {a, b}
               for kind, a, b in kinds([*GOOD, near]))  # fmt: skip
    bare = AgentCard("dice_roller", "dice roller")
    assert ("says nothing", "dice_roller", "") in kinds([*GOOD, bare])
    shared = replace(GOOD[1], examples=("add 3 and 4", "Rain at noon"))
    found = kinds([GOOD[0], shared])
    assert ("shared example", "sums", "weather") in found
    assert {("stolen example", "sums", "weather"), ("stolen example", "weather", "sums")} & found
    off = replace(twin, enabled=False)
    assert kinds([*GOOD, off]) == set()


def test_verbs():
    safe = {"annotations": {"readOnlyHint": True}}
    cards = [
        *GOOD,
        AgentCard("delete_invoice", "clears invoice and payment", metadata=safe),
        AgentCard("get_user", "Deletes accounts of somebody"),
        AgentCard("list_rooms", "Finds free rooms", metadata=safe),
        AgentCard("drop_rate", "... packets lost on a line", metadata={"annotations": "odd"}),
    ]
    found = {agent for kind, agent, other in kinds(cards) if kind == "verb" and not other}
    assert found == {"delete_invoice", "get_user"}
    alike = [
        AgentCard("remove_file", "the file of a user"),
        AgentCard("file", "the file of a user"),
    ]
    assert ("verb", "file", "remove_file") in kinds([*GOOD, *alike])
    both = [alike[0], AgentCard("erase_file", "the file of a user")]
    assert not any(kind == "verb" for kind, *_ in kinds([*GOOD, *both]))


def test_a_language_that_the_encoder_does_not_read():
    cards = [AgentCard("天气", "查询某地的天气预报和降雨概率"), GOOD[0]]
    assert ("language", "天气", "") in kinds(cards, RoutingEncoder())


def test_tuning_pays_and_tells_the_truth_about_rows_it_did_not_see(router):
    rows = labelled(150)
    before = router.agent_router.negatives
    found = tune(router, rows)
    assert router.agent_router.negatives is before
    assert found.rows + found.known == len(set(rows.texts))
    assert found.held_out == found.rows - round(found.rows * 2 / 3)
    assert found.pays
    assert json.loads(json.dumps(found.to_dict()))["pays"]
    assert found.gain == pytest.approx(found.after.right - found.before.right)
    assert (found.min_probability is None) != (not found.negatives)
    for each in (found.before, found.after):
        assert each.right + each.wrong_agent <= 1.0
    # Fresh queries of the same kind: what was promised holds within its error.
    fresh = labelled(300, seed=9)
    if found.negatives:
        router.agent_router.set_negatives(before.also(found.negatives, router.encoder))
    measured = figures(router.rank(fresh.texts), fresh.agents, found.min_probability)
    router.agent_router.set_negatives(before)
    assert measured.right == pytest.approx(found.after.right, abs=0.15)


def test_nothing_is_chosen_by_the_rows_that_are_reported(router):
    rows = distinct(labelled(90))
    found = tune(router, rows, seed=3)
    order = np.random.default_rng(3).permutation(len(rows))
    held_out = set(order[found.rows - found.held_out :].tolist())
    flipped = tuple(
        (("weather",) if not names else ()) if row in held_out else names
        for row, names in enumerate(rows.agents)
    )
    other = tune(router, LabelledQueries(rows.texts, flipped), seed=3)
    assert (other.min_probability, other.negatives) == (found.min_probability, found.negatives)
    assert other.curve == found.curve
    assert other.after != found.after


def test_a_threshold_does_in_route_what_was_counted(router):
    rows = labelled(40, seed=4)
    counted = figures(router.rank(rows.texts), rows.agents, 0.3)
    llm = MoMARouter(router.encoder, router.agent_router, LLMRouter.packaged())
    routed = llm.route_batch(rows.texts, min_probability=0.3)
    right = sum(
        each.target in names if each.kind == "agent" else not names
        for each, names in zip(routed, rows.agents, strict=True)
    )
    assert counted.right == right / len(rows)


def test_too_little_or_strange(router):
    with pytest.raises(InvalidDataError, match="30 are needed"):
        tune(router, labelled(10))
    rows = labelled(60)
    with pytest.raises(InvalidDataError, match="'nobody'"):
        tune(router, LabelledQueries(rows.texts, (("nobody",), *rows.agents[1:])))


@pytest.fixture
def moma(run_moma, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOMA_ROUTER", raising=False)

    def moma(*words):
        status, out, err = run_moma(*words)
        assert status == 0, err
        return out

    return moma


def test_on_the_command_line(moma, router, tmp_path):
    (tmp_path / "agents.csv").write_text(
        "name,description\nrain,Will it rain\nwet,Will it rain\nx,x\n"
    )
    found = json.loads(moma("agents", "lint", "--from", "agents.csv", "--json"))["findings"]
    assert {"duplicate", "says nothing"} <= {each["kind"] for each in found}
    said = moma("agents", "lint", "--from", "agents.csv")
    assert f"{len(found)} findings in 3 agents" in said
    english = [
        AgentCard("weather", "Weather forecast for a place", examples=("will it rain in Oslo?",)),
        AgentCard("news", "Reads the latest news", examples=("what happened today?",)),
    ]
    MoMARouter.from_cards(english, path=tmp_path / "r").save(tmp_path / "r")
    rows = [(f"will it rain in {place}?", ["weather"]) for place in "ABCDEFGHIJKLMNOP"]
    rows += [(f"write a poem about {what}", []) for what in "ABCDEFGHIJKLMNOP"]
    columns = {"query": [text for text, _ in rows], "agents": [names for _, names in rows]}
    write_table(tmp_path / "labelled.tsv", columns)
    command = ("agents", "tune", "labelled.tsv", "--router", "r")
    assert "11 rows held out" in moma(*command, "--picture", "tune.png")
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
