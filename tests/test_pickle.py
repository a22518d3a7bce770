"""Routers and what holds one go to other processes as a recipe: settings, arrays, the place."""

import copy
import multiprocessing
import pickle
from dataclasses import replace

import numpy as np
import pytest

from moma_core import AgentCard, Category, MiniLMEncoder, MoMARouter, State, StateMachine
from moma_core.testing import HashEncoder

QUERIES = ["rain snow wind", "sum times root", "french german", "zebra"]


def by_pickle(thing):
    return pickle.loads(pickle.dumps(thing))  # noqa: S301 - our own


@pytest.fixture(params=["memory", "files", "directory", "server"])
def router(request, tmp_path, word_cards, pool):
    path = {"directory": tmp_path}.get(request.param)
    if request.param == "server":
        path = request.getfixturevalue("chroma_server").url
    router = MoMARouter.from_cards(
        word_cards,
        path=path,
        llms=pool,
        encoder=HashEncoder(),
        states=StateMachine([State("OUT", keywords=("outside",), categories=("outside",))]),
        categories=[Category("outside", "rain snow wind")],
        refresh_every=None,
    )
    if request.param == "files":
        router.save(tmp_path)
        router = MoMARouter.load(tmp_path, encoder=HashEncoder(), refresh_every=None)
    router.route("rain")
    yield router
    router.agents.remove(*router.agents.names)
    router.close()


@pytest.mark.parametrize("copied", [by_pickle, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_copy_decides_alike(router, copied):
    twin = copied(router)
    for query in QUERIES:
        ours, theirs = router.route(query), twin.route(query)
        assert replace(ours, trace=theirs.trace) == theirs
    assert twin.route("outside sum times").state.active == ("OUT",)
    assert twin.agent_router.trained.sources == router.agent_router.trained.sources


def test_copies_share_the_place_where_agents_are_kept(router):
    twin = by_pickle(router)
    twin.agents.disable("weather")
    twin.agents.add(AgentCard("zoo", "zebra okapi", examples=("feed the zebra",)))
    changes = router.agents.refresh()
    if getattr(router.agents.registry, "location", None) is None:
        assert not changes  # in memory everybody has his own
    else:
        assert (changes.added, changes.changed) == (("zoo",), ("weather",))
    assert "zoo" in twin.agents
    assert not twin.agents.get("weather").enabled
    twin.close()


def test_the_packaged_parts_open_their_weights_anew(cards):
    router = MoMARouter.from_cards(cards)
    content = pickle.dumps(router)
    assert len(content) < 20_000_000
    twin = pickle.loads(content)  # noqa: S301 - our own
    for query in ("will it rain tomorrow?", "Prove that there are infinitely many primes."):
        ours, theirs = router.route(query), twin.route(query)
        assert replace(ours, trace=theirs.trace) == theirs
    plain = MiniLMEncoder(max_tokens=16, threads=1)
    again = by_pickle(plain)
    assert again.fingerprint == plain.fingerprint
    assert np.array_equal(again.encode(["a b"]), plain.encode(["a b"]))


def _route(router, queries, answers):
    answers.put([router.route(query).targets for query in queries])


def test_a_spawned_process_routes_with_the_router_it_is_given(tmp_path, word_cards, pool):
    router = MoMARouter.from_cards(word_cards, path=tmp_path, llms=pool, encoder=HashEncoder())
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    child = context.Process(target=_route, args=(router, QUERIES, answers))
    child.start()
    found = answers.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert found == [router.route(query).targets for query in QUERIES]
    router.close()


def test_what_adapters_make_of_a_router_is_copied_too(word_cards, pool):
    pytest.importorskip("langchain_core")
    pytest.importorskip("llama_index.core")
    from langchain_core.language_models.fake_chat_models import FakeListChatModel
    from llama_index.core.llms import MockLLM

    from langchain_moma import ChatMoMA, MoMAMiddleware
    from llamaindex_moma import MoMALLM, MoMASelector

    router = MoMARouter.from_cards(word_cards, llms=pool, encoder=HashEncoder())
    chats = {name: FakeListChatModel(responses=[name]) for name in pool.names}
    chat = by_pickle(ChatMoMA(router=router, llms=chats))
    assert chat.invoke("why?").content in pool.names
    assert copy.deepcopy(chat).invoke("why?").content in pool.names
    by_pickle(MoMAMiddleware(router, llms=chats))
    llm = by_pickle(MoMALLM({name: MockLLM() for name in pool.names}, router=router))
    assert llm.complete("why?").text == "why?"
    selector = by_pickle(MoMASelector(encoder=HashEncoder()))
    assert selector.select(["rain snow", "sum times"], "sum").ind == 1
