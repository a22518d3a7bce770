"""MoMARouter end to end: what it may name, bad input, and its directory."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moma_core import (
    AgentCard,
    ArtifactError,
    Auto,
    Category,
    Cost,
    InvalidInputError,
    LLMRouter,
    MoMAError,
    MoMARouter,
    NoTargetError,
    Performance,
    Query,
    RegistryError,
    RoutingDecision,
    RoutingState,
    State,
    StateMachine,
)
from moma_core.agents.categories import Taxonomy
from moma_core.errors import (
    DuplicateNameError,
    InvalidCardError,
    InvalidPreferenceError,
    InvalidQueryError,
    InvalidStatesError,
    ScoreError,
)
from moma_core.protocols import Router
from moma_core.testing import HashEncoder

STATES = """
[[states]]
name = "OUTSIDE"
keywords = ["outside"]
categories = ["outside"]
sticky = 1

[[states]]
name = "NOBODY"
keywords = ["nobody"]
agents = ["not registered"]
"""
ASKED = (
    "rain snow wind",
    "french german spanish",
    "sum times root",
    "why prove explain poem",
    "zebra okapi",
)


@pytest.fixture(scope="session")
def shared(word_cards, pool, hashing):
    """For tests that change nothing that outlives them."""
    return MoMARouter.from_cards(word_cards, llms=pool, states=STATES, encoder=hashing)


@pytest.fixture
def make(word_cards, pool, hashing):
    def make(agents=word_cards, **given):
        return MoMARouter.from_cards(agents, **{"llms": pool, "encoder": hashing, **given})

    return make


def targets(router, texts=ASKED):
    return [router.route(text).targets for text in texts]


def same(router, other, texts=ASKED):
    for text in texts:
        ours, theirs = router.route(text), other.route(text)
        assert ours.targets == theirs.targets
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-4)
        assert ours.state == theirs.state


def test_agents_first_then_llms(shared):
    assert isinstance(shared, Router)
    kinds = [shared.route(text).kind for text in ASKED]
    assert kinds == ["agent", "agent", "agent", "llm", "llm"]
    assert shared.route("rain snow wind").targets == ("weather",)


def test_steps_are_there_with_their_times(shared):
    agent, llm = shared.route(ASKED[0]), shared.route(ASKED[3])
    common = ["encode", "categories", "state", "eligible", "rank", "gate"]
    assert [step.name for step in agent.trace] == common
    assert [step.name for step in llm.trace] == [*common, "score", "select"]
    assert all(0 <= step.ms < 5_000 for step in llm.trace)


def test_decisions_survive_json(shared):
    for text in ASKED:
        decision = shared.route(text, "cost")
        assert RoutingDecision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision


def test_preferences(shared):
    best = shared.route("why prove explain", "performance")
    cheap = shared.route("why prove explain", "cost:0.0001")
    assert (best.target, best.preference) == ("big", "performance")
    assert (cheap.target, cheap.preference) == ("small", "cost")
    assert cheap.cost < best.cost
    assert "budget" not in best.reason
    assert "budget" not in shared.route("why prove explain", "cost:1").reason
    above = shared.route("why prove explain", "cost:0.000000001")
    assert above.target == "small"
    assert above.reason.endswith("no LLM is within the budget of $1e-09, so the cheapest is taken")
    assert shared.route("why prove explain", Performance()).target == "big"
    assert shared.route("why prove explain", Cost(1e-4)).target == "small"
    assert shared.route("why").preference == shared.route("why", Auto(0.5)).preference == "auto"


@pytest.mark.parametrize("text", ["", "  \n", None, 3, b"bytes", ["list"], "\ud800"], ids=ascii)
def test_unfit_queries(shared, text):
    with pytest.raises(InvalidQueryError):
        shared.route(text)
    with pytest.raises(InvalidQueryError):
        shared.route_batch(["fine", text])


@pytest.mark.parametrize("preference", ["best", "", "cost:", "cost:-1", "cost:x", 3, ["auto"]])
def test_unknown_preferences(shared, preference):
    with pytest.raises(InvalidPreferenceError, match="performance"):
        shared.route("rain", preference)
    with pytest.raises(InvalidPreferenceError, match="performance"):
        shared.route_batch(["rain"], preference)


@pytest.mark.parametrize("text", ["x" * 1_048_576, "天气" * 350_000, "\x00" * 1_000 + "rain"])
def test_huge_and_odd_queries_get_a_decision(shared, text):
    assert shared.route(text).target in {*shared.agents.names, *shared.llms.names}
    assert shared.route_batch([text])[0].targets == shared.route(text).targets


def test_a_megabyte_with_the_real_encoder(minilm, cards):
    router = MoMARouter.from_cards(cards, encoder=minilm)
    assert router.route("will it rain tomorrow? " * 45_000).target == "weather"
    assert router.route(" \n" * 500_000 + "will it rain tomorrow?").target == "weather"
    assert router.route("Write a poem about the sea.").kind == "llm"


def test_a_batch_is_a_list_of_queries(shared):
    assert shared.route_batch([]) == []
    with pytest.raises(InvalidQueryError, match="list"):
        shared.route_batch("will it rain")


def test_one_name_may_be_excluded_as_text(shared):
    assert shared.route("rain snow wind", exclude="weather").target != "weather"
    assert shared.route_batch(["rain snow wind"], exclude="weather")[0].target != "weather"
    # A name that is part of another excludes only itself.
    assert shared.route("zebra", "performance", exclude="bigger").target == "big"


def test_excluding_from_an_iterator(shared):
    gone = iter(["weather", "translator", "calculator", "big"])
    assert shared.route("rain snow wind", exclude=gone).target == "small"


@pytest.mark.parametrize("exclude", [None, 3, [None], [["weather"]]], ids=repr)
def test_what_is_no_collection_of_names_excludes_nobody(shared, exclude):
    for call in (shared.route, lambda text, exclude: shared.route_batch([text], exclude=exclude)):
        with pytest.raises(InvalidInputError, match="exclude takes names"):
            call("rain snow wind", exclude=exclude)


@pytest.mark.parametrize("llms", ["foo", 3, object()], ids=ascii)
def test_what_is_no_pool_is_refused(make, llms):
    with pytest.raises(InvalidInputError, match=r"LLMRouter\.load"):
        make(llms=llms)


def test_nothing_to_route_to(make):
    assert make([]).route("rain").kind == "llm"
    assert make(llms=None).route("rain snow wind").target == "weather"
    for router in (make(llms=None), make([], llms=None)):
        with pytest.raises(NoTargetError, match=r"agents\.add"):
            router.route("zebra okapi")
        with pytest.raises(NoTargetError, match=r"agents\.add"):
            router.route_batch(["zebra okapi"])
    with pytest.raises(NoTargetError):
        make().route("zebra okapi", exclude=("small", "big"))


def test_an_encoder_gone_wrong():
    class Odd(HashEncoder):
        def encode(self, texts):
            return super().encode(texts) * (np.nan if texts == ["bad"] else 1)

    router = MoMARouter.from_cards([AgentCard("a", "does it")], llms=None, encoder=Odd())
    with pytest.raises(ScoreError):
        router.route("bad")


def test_the_packaged_pool_goes_with_any_encoder(cards, hashing):
    router = MoMARouter.from_cards(cards, encoder=hashing)
    assert (
        router.choose_llm("Prove it.").target
        == MoMARouter.from_cards().choose_llm("Prove it.").target
    )


def test_a_pool_of_an_encoder_that_is_not_at_hand_is_refused(cards, tmp_path, hashing):
    pool = replace(LLMRouter.packaged(), encoder_fingerprint="somebody's")
    with pytest.raises(ArtifactError, match="somebody's"):
        MoMARouter.from_cards(cards, llms=pool, path=tmp_path, encoder=hashing)
    # ... and nothing was registered on the way.
    assert not len(MoMARouter.from_cards([], llms=None, path=tmp_path, encoder=hashing).agents)


def test_broken_states_register_nothing(cards, tmp_path, hashing):
    with pytest.raises(InvalidStatesError):
        MoMARouter.from_cards(cards, llms=None, path=tmp_path, encoder=hashing, states="[[states")
    MoMARouter.from_cards(cards, llms=None, path=tmp_path, encoder=hashing)


def test_names_given_twice(make, word_cards):
    with pytest.raises(DuplicateNameError):
        make([*word_cards, word_cards[0]])


def test_a_conversation(shared):
    first = shared.route("sum times root outside")
    assert first.state.active == ("OUTSIDE",)
    assert {c.name for c in first.candidates} <= {"weather", "small", "big"}
    second = shared.route("sum times root", state=first.state)
    assert second.state.active == ("OUTSIDE",)
    assert second.target != "calculator"
    assert second.state.last_target == second.target
    again = RoutingDecision.from_dict(json.loads(json.dumps(second.to_dict()))).state
    third = shared.route("sum times root", state=again)
    assert third.state.active == ()
    assert third.target == "calculator"


def test_events_reach_the_states(make):
    states = StateMachine([State("FILE", events=("file_uploaded",), agents=("translator",))])
    router = make(states=states)
    query = Query("sum times root", events=("file_uploaded:pdf",))
    assert router.route("sum times root").target == "calculator"
    assert router.route(query).state.active == ("FILE",)
    assert router.route(query).target != "calculator"
    assert router.route_batch([query])[0].target == router.route(query).target


words = ["rain", "snow", "french", "german", "sum", "root", "outside", "nobody", "zebra", "?"]
queries = st.lists(st.sampled_from(words), min_size=1, max_size=5).map(" ".join)
agent_names = st.sampled_from(["weather", "translator", "calculator"])
llm_names = st.sampled_from(["small", "big", "nobody knows"])


@settings(max_examples=60)
@given(
    st.lists(queries, min_size=1, max_size=4),
    st.sets(agent_names),
    st.sets(agent_names | llm_names),
    st.sampled_from(["performance", "auto", "cost", "cost:0"]),
    st.sampled_from([RoutingState(), RoutingState(("OUTSIDE",), 0), RoutingState(("GONE",), 3)]),
)
def test_a_decision_never_names_who_may_not_answer(
    shared, texts, disabled, excluded, preference, state
):
    shared.agents.enable(*shared.agents.names)
    shared.agents.disable(*disabled)
    agents = set(shared.agents.names) - disabled - excluded
    llms = set(shared.llms.names) - excluded
    for text in texts:
        try:
            decision = shared.route(text, preference, state, exclude=excluded)
        except NoTargetError:
            assert not llms
            continue
        finally:
            shared.agents.enable(*shared.agents.names)
            shared.agents.disable(*disabled)
        allowed = set(agents) if decision.kind == "agent" else llms
        if "OUTSIDE" in decision.state.active and decision.kind == "agent":
            allowed &= {"weather"}
        assert set(decision.targets) <= allowed
        assert {c.name for c in decision.candidates} <= allowed
        assert 0 <= decision.probability <= 1
        assert decision.candidates[0].name == decision.target
    shared.agents.enable(*shared.agents.names)


@settings(max_examples=40)
@given(st.lists(queries, min_size=1, max_size=6), st.sets(agent_names))
def test_batch_and_single_agree(shared, texts, excluded):
    batch = shared.route_batch(texts, "cost", exclude=excluded)
    alone = [shared.route(text, "cost", exclude=excluded) for text in texts]
    assert [d.targets for d in batch] == [d.targets for d in alone]
    assert [d.kind for d in batch] == [d.kind for d in alone]
    assert np.allclose([d.probability for d in batch], [d.probability for d in alone], atol=1e-4)


@pytest.fixture(scope="session")
def saved(shared, tmp_path_factory):
    """A router's directory; copy it before changing it."""
    shared.agents.enable(*shared.agents.names)
    directory = tmp_path_factory.mktemp("saved") / "router"
    shared.save(directory)
    return directory


def test_save_and_load_decide_alike(shared, saved, tmp_path, hashing):
    shutil.copytree(saved, tmp_path / "router")
    loaded = MoMARouter.load(tmp_path / "router", encoder=hashing)
    same(shared, loaded)
    assert loaded.states.states == shared.states.states
    assert list(loaded.agents) == list(shared.agents)
    assert loaded.route("sum times root outside").state.active == ("OUTSIDE",)


def test_load_fits_nothing(saved, tmp_path, hashing):
    shutil.copytree(saved, tmp_path / "router")
    before = json.loads((saved / "ranker.json").read_text())
    loaded = MoMARouter.load(tmp_path / "router", encoder=hashing)
    assert loaded.agent_router.trained.sources == before["sources"]
    assert loaded.agent_router.trained.gate.threshold == before["gate"]["threshold"]


def test_changes_after_load_survive_another_load(saved, tmp_path, hashing):
    directory = tmp_path / "router"
    shutil.copytree(saved, directory)
    loaded = MoMARouter.load(directory, encoder=hashing)
    loaded.agents.add(AgentCard("zoo", "zebra okapi", examples=("feed the zebra",)))
    loaded.agents.disable("weather")
    loaded.agents.remove("translator")
    again = MoMARouter.load(directory, encoder=hashing)
    assert again.agents.names == loaded.agents.names == ("weather", "calculator", "zoo")
    assert not again.agents.get("weather").enabled
    assert again.route("rain snow wind").target != "weather"
    same(loaded, again)


def test_saving_where_it_was_loaded(saved, tmp_path, hashing):
    directory = tmp_path / "router"
    shutil.copytree(saved, directory)
    loaded = MoMARouter.load(directory, encoder=hashing)
    loaded.agents.update(AgentCard("weather", "zebra okapi", examples=("feed the zebra",)))
    loaded.agents.remove("calculator")
    loaded.save(directory)
    loaded.save(directory)
    same(loaded, MoMARouter.load(directory, encoder=hashing))
    assert not list(directory.glob("*.new"))


def test_saving_over_another_router_replaces_it(saved, tmp_path, make, hashing):
    directory = tmp_path / "router"
    shutil.copytree(saved, directory)
    other = make([AgentCard("zoo", "zebra okapi", examples=("feed the zebra",))], llms=None)
    other.save(directory)
    loaded = MoMARouter.load(directory, encoder=hashing)
    assert loaded.agents.names == ("zoo",)
    assert loaded.llms is None
    assert loaded.states.states == ()


def test_a_router_kept_in_chroma_from_the_start(make, tmp_path, hashing):
    router = make(path=tmp_path, states=STATES)
    router.save(tmp_path)
    router.agents.disable("calculator")
    loaded = MoMARouter.load(tmp_path, encoder=hashing)
    assert not loaded.agents.get("calculator").enabled
    same(router, loaded)


def test_a_router_on_a_server(make, chroma_server, hashing):
    router = make(path=chroma_server.url)
    try:
        assert router.route("rain snow wind").target == "weather"
        shared_names = MoMARouter.from_cards(
            [], path=chroma_server.url, llms=None, encoder=hashing
        ).agents.names
        assert shared_names == router.agents.names
    finally:
        router.agents.remove(*router.agents.names)


def test_a_saved_router_remembers_its_server_and_no_password(
    make, chroma_server, hashing, tmp_path
):
    url = chroma_server.url.replace("http://", "http://someone:secret@")
    router = make(path=url, llms=None)
    try:
        router.save(tmp_path)
        assert b"secret" not in b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())
        assert not (tmp_path / "registry").exists()
        loaded = MoMARouter.load(tmp_path, encoder=hashing)
        assert loaded.route("rain snow wind").target == "weather"
        loaded.agents.add(AgentCard("zoo", "zebra okapi"))
        router.agents.refresh()
        assert "zoo" in router.agents
    finally:
        router.agents.remove(*router.agents.names)


def test_categories_reach_the_router_and_its_saved_form(make, hashing, tmp_path):
    sky = Category("sky", "rain snow wind sun")
    router = make([AgentCard("met", "rain snow wind"), AgentCard("b", "loan")], categories=[sky])
    assert router.agent_router.categories.members("sky").tolist() == [0]
    router.save(tmp_path)
    loaded = MoMARouter.load(tmp_path, encoder=hashing)
    assert loaded.agent_router.taxonomy.given == (sky,)
    assert loaded.agent_router.categories.members("sky").tolist() == [0]
    only_named = make(categories=Taxonomy((sky,), discover_from=None, restrict=True))
    assert only_named.agent_router.taxonomy.vectors.shape == (1, hashing.dimension)
    only_named.save(tmp_path / "other")
    again = MoMARouter.load(tmp_path / "other", encoder=hashing).agent_router.taxonomy
    assert (again.discover_from, again.restrict) == (None, True)


@pytest.mark.parametrize("categories", ["sky", ["sky"], [None], 3], ids=repr)
def test_unfit_categories_are_refused(make, categories):
    with pytest.raises(InvalidInputError, match=r"Category\('travel'"):
        make(categories=categories)


def test_unfit_categories_by_name(make):
    with pytest.raises(DuplicateNameError, match="'sky'"):
        make(categories=[Category("sky"), Category("sky", "again")])
    with pytest.raises(InvalidCardError, match="category's name"):
        Category(" sky")
    with pytest.raises(InvalidCardError, match="'sky'"):
        Category("sky", None)


FILES = (
    "router.json",
    "states.toml",
    "ranker.json",
    "ranker.safetensors",
    "llms/head.json",
    "llms/head.safetensors",
    "registry/agents.json",
    "registry/agents.safetensors",
)


def test_every_saved_file_is_in_the_list(saved):
    found = {str(p.relative_to(saved)) for p in saved.rglob("*") if p.is_file()}
    assert found - {"registry/.lock"} == set(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [None, 0.0, 0.5, 0.98], ids=["missing", "empty", "half", "most"])
def test_a_file_cut_short(saved, tmp_path, hashing, shared, name, share):
    directory = tmp_path / "router"
    shutil.copytree(saved, directory)
    file = directory / name
    content = file.read_bytes()
    file.unlink()
    if share is not None:
        file.write_bytes(content[: int(share * len(content))])
    with pytest.raises((ArtifactError, RegistryError)) as caught:
        MoMARouter.load(directory, encoder=hashing)
    assert str(directory) in str(caught.value) or "Chroma" in str(caught.value)


@pytest.mark.parametrize("name", ["router.json", "ranker.json", "llms/head.json"])
@pytest.mark.parametrize(
    "content", [b"null", b"[]", b"{}", b'{"format": 99}', b'"text"', b"\xff\xfe", b"3"]
)
def test_json_of_another_kind(saved, tmp_path, hashing, name, content):
    directory = tmp_path / "router"
    shutil.copytree(saved, directory)
    (directory / name).write_bytes(content)
    with pytest.raises(ArtifactError):
        MoMARouter.load(directory, encoder=hashing)


def test_a_missing_directory(tmp_path, hashing):
    with pytest.raises(ArtifactError, match=r"router\.save"):
        MoMARouter.load(tmp_path / "nowhere", encoder=hashing)


@pytest.mark.parametrize("place", [None, "chroma"])
def test_with_another_encoder_the_agents_are_encoded_anew(word_cards, tmp_path, hashing, place):
    path = place and tmp_path / place
    router = MoMARouter.from_cards(
        word_cards, llms=None, encoder=hashing, path=path, negatives=["no way"]
    )
    router.agents.disable(word_cards[0].name)
    router.save(tmp_path / "router")
    router.close()
    other = HashEncoder(32)
    with pytest.warns(UserWarning, match="encoded anew"):
        loaded = MoMARouter.load(tmp_path / "router", encoder=other)
    assert loaded.encoder.dimension == 32
    assert [card.enabled for card in loaded.agents] == [card.enabled for card in router.agents]
    assert set(loaded.rank(word_cards[1].description).names) <= set(loaded.agents.names)
    loaded.save(tmp_path / "again")
    MoMARouter.load(tmp_path / "again", encoder=other)
    # What was saved is as it was.
    assert MoMARouter.load(tmp_path / "router", encoder=hashing).encoder.dimension == 64


def test_a_router_opens_with_the_packaged_encoder_it_was_saved_with(tmp_path):
    cards = [AgentCard("weather", "Weather forecast"), AgentCard("bank", "Account balances")]
    MoMARouter.from_cards(cards, llms=None, encoder="minilm").save(tmp_path)
    loaded = MoMARouter.load(tmp_path)
    assert loaded.encoder.fingerprint.startswith("minilm")
    assert loaded.route("will it rain?").target == "weather"


def test_saving_below_a_file(shared, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "router"):
        with pytest.raises(ArtifactError, match="file"):
            shared.save(place)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("blocked", ["ranker.safetensors", "ranker.json", "router.json", "llms"])
def test_a_save_that_fails_leaves_the_old_files(saved, tmp_path, make, blocked, hashing):
    """A full directory in a file's place stands for a write that fails half way."""
    directory = tmp_path / "router"
    shutil.copytree(saved, directory)
    before = (directory / "router.json").read_bytes()
    obstacle, kept = directory / blocked, tmp_path / "kept"
    obstacle.rename(kept)
    if blocked == "llms":
        obstacle.write_text("in the way")
    else:
        obstacle.mkdir()
        (obstacle / "in the way").touch()
    router = make([AgentCard("zoo", "zebra okapi", examples=("feed the zebra",))])
    with pytest.raises(ArtifactError):
        router.save(directory)
    assert not [path for path in directory.iterdir() if path.name.startswith(".")]
    obstacle.unlink() if blocked == "llms" else shutil.rmtree(obstacle)
    kept.rename(obstacle)
    assert (directory / "router.json").read_bytes() == before
    try:
        loaded = MoMARouter.load(directory, encoder=hashing)
    except MoMAError:
        return
    assert loaded.route("rain snow wind").target


def test_order_of_cards_does_not_change_decisions(make, word_cards):
    forwards, backwards = make(word_cards), make(word_cards[::-1])
    assert targets(forwards) == targets(backwards)


def test_adding_changing_switching_takes_effect_on_the_next_route(make):
    router = make()
    zoo = AgentCard("zoo", "zebra okapi", examples=("feed the zebra",))
    assert router.route("feed the zebra").kind == "llm"
    router.agents.add(zoo)
    assert router.route("feed the zebra").target == "zoo"
    router.agents.disable("zoo")
    assert router.route("feed the zebra").target != "zoo"
    router.agents.enable("zoo")
    assert router.route("feed the zebra").target == "zoo"
    router.agents.update(replace(zoo, description="plays chess", examples=("play chess",)))
    assert router.route("play chess").target == "zoo"
    router.agents.remove("zoo")
    assert router.route("play chess").kind == "llm"


def test_fit_tells_its_progress(make):
    told = []
    make().fit(lambda *step: told.append(step))
    assert told
    assert told[-1][1] == told[-1][2]


def test_a_path_may_be_text(make, tmp_path, hashing):
    make().save(str(tmp_path / "router"))
    assert isinstance(tmp_path, Path)
    same(make(), MoMARouter.load(str(tmp_path / "router"), encoder=hashing))


def test_the_least_probability_is_the_callers(shared):
    ranking = shared.rank("will it rain in Oslo?")
    assert shared.route("will it rain in Oslo?", min_probability=0.0).target == ranking.names[0]
    assert shared.route("Prove it.", min_probability=0.0).kind == "agent"
    refused = shared.route("will it rain in Oslo?", min_probability=1.0)
    assert refused.kind == "llm"
    assert "1.00 is needed" in refused.reason
    assert [d.kind for d in shared.route_batch(["Prove it."], min_probability=0.0)] == ["agent"]
    for odd in (-0.1, 2, "high", float("nan")):
        with pytest.raises(InvalidInputError, match="min_probability"):
            shared.route("hi", min_probability=odd)
