"""The route cache: what is served, what never is, what it costs, where it is kept."""

import copy
import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import threading
import time
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from moma_core import (
    AgentCard,
    InvalidInputError,
    LLMCard,
    LLMRouter,
    MoMARouter,
    NoTargetError,
    Query,
    RoutingState,
)
from moma_core.health import Health
from moma_core.route_cache import RouteCache, normalised, pool_fingerprint
from moma_core.testing import HashEncoder

LLMS = (LLMCard("small", 0.1, 0.4), LLMCard("large", 2.0, 8.0))


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Kept:
    """A store in memory that several routers share."""

    def __init__(self):
        self.values = {}

    def get(self, key):
        return self.values.get(key)

    def set(self, key, value, seconds):
        self.values[key] = value


@pytest.fixture
def make(word_cards, pool, hashing):
    def make(cache=True, **given):
        given = {"llms": pool, "encoder": hashing, **given}
        return MoMARouter.from_cards(word_cards, cache=cache, **given)

    return make


def how(decision):
    [step] = [step for step in decision.trace if step.name == "cache"]
    return step.detail.split(",")[0].split(" '")[0]


def plain(decision):
    return replace(decision, trace=())


def test_off_by_default_and_not_imported(python, make):
    assert make(cache=False).cache is None
    code = (
        "import sys\nfrom moma_core import AgentCard, MoMARouter\n"
        "from moma_core.testing import HashEncoder\n"
        "r = MoMARouter.from_cards([AgentCard('a', 'adds')], llms=None, encoder=HashEncoder())\n"
        "r.rank('adds')\ntry: r.route('adds')\nexcept LookupError: pass\n"
        "print('moma_core.route_cache' in sys.modules)"
    )
    assert python(code).stdout == "False\n"


def test_same_words_are_decided_once(make):
    router = make()
    first = router.route("rain snow wind")
    again = router.route("  Rain SNOW  wind ")
    assert (how(first), how(again)) == ("not known", "same words")
    assert [step.name for step in again.trace] == ["cache"]
    assert again.target == first.target
    assert again.state.topic == "  Rain SNOW  wind "  # what a follow-up leans on: its own words
    assert plain(router.route("rain snow wind")) == plain(first)
    assert router.cache.counts == {"made": 1, "same words": 2}


def test_the_same_meaning_is_decided_once(make):
    router = make()  # to the test's encoder the order of words means nothing
    first = router.route("rain snow wind")
    again = router.route("wind snow rain")
    assert how(again) == "means"
    assert "'rain snow wind'" in again.trace[-1].detail
    assert (again.target, again.state.topic) == (first.target, "wind snow rain")
    assert how(router.route("wind snow rain")) == "same words"
    assert how(router.route("french german")) == "not known"
    router.cache = RouteCache(near=None)
    router.route("rain snow wind")
    assert how(router.route("wind snow rain")) == "not known"


def test_an_llms_cost_is_of_the_very_text(make):
    router = make()
    assert router.route("why prove   this poem").kind == "llm"
    assert how(router.route("Why prove this poem")) == "not known"
    assert how(router.route("poem this prove why")) == "not known"
    assert how(router.route("poem this prove why")) == "same words"


@pytest.mark.parametrize(
    "other",
    [
        {"preference": "cost"},
        {"state": RoutingState(last_target="translator", topic="say hello in french")},
        {"exclude": ["weather"]},
        {"several": True},
        {"min_probability": 0.99},
        {"max_latency": 3.0},
        {"query": Query("rain snow wind", history=("hello",))},
        {"query": Query("rain snow wind", events=("file_uploaded",))},
        {"query": Query("rain snow wind", tokens=9_000)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_all_that_was_asked_is_in_the_key(make, other):
    router = make()
    router.route("rain snow wind")
    asked = {"query": "rain snow wind", **other}
    decision = router.route(**asked)
    assert how(decision) == "not known"
    router.cache = False
    assert plain(router.route(**asked)) == plain(decision)


def test_each_change_is_seen_at_once(make, pool):
    router = make()

    def changed(change, text="rain snow wind"):
        router.route(text)
        change()
        decision = router.route(text)
        return how(decision), decision.target

    found = changed(lambda: router.agents.disable("weather"))
    assert found[0] == "not known"
    assert found[1] in pool.names
    kinds = [
        changed(lambda: router.agents.enable("weather"))[0],  # as it was: known again
        changed(lambda: router.health.report_failure("weather"))[0],  # not yet failing: known
        changed(lambda: [router.health.report_failure("weather") for _ in range(2)])[0],
        changed(lambda: router.health.report_success("weather"))[0],
        changed(lambda: router.agents.add(AgentCard("new", "rain snow wind")))[0],
    ]
    known, new = "same words", "not known"
    assert kinds == [known, known, new, known, new]
    of_llms = (
        lambda: setattr(router, "llms", pool.reprice(pool.names[0], 9.0, 9.0)),
        lambda: router.llms.observe(pool.names[0], 0.001, 0.002),
        lambda: router.llms.observe(pool.names[0], 0.0, 0.0),  # nothing learnt
    )
    assert [changed(each, "why prove this poem")[0] for each in of_llms] == [new, new, known]
    assert [changed(each)[0] for each in of_llms] == [known] * 3


def test_what_is_learnt_from_is_never_kept(make):
    from moma_core import Learning

    router = make()
    router.learn(Learning())
    trials = {router.route("why prove this poem").trial for _ in range(3)}
    assert len(trials) == 3
    assert len(router.cache) == 0
    router.route("rain snow wind")
    assert how(router.route("rain snow wind")) == "same words"


class Stale(RuleBasedStateMachine):
    """Whatever changed, the cache answers as a router without one would."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        cards = [
            AgentCard("weather", "rain snow wind", examples=("will it rain",)),
            AgentCard("climate", "rain snow warm", examples=("is snow expected",)),
            AgentCard("translator", "french german spanish"),
        ]
        self.router = MoMARouter.from_cards(
            cards, llms=LLMRouter.from_cards(LLMS), reranker=None, encoder=ENCODER
        )
        self.router.agent_router.health = Health(1, 10.0, self.clock)
        self.cache = RouteCache(6, ttl=30.0, near=None, clock=self.clock)

    names = st.sampled_from(["weather", "climate", "translator"])

    @rule(
        text=st.sampled_from(["rain snow", "Rain  snow", "french german", "why prove", "warm"]),
        preference=st.sampled_from([None, "cost"]),
        exclude=st.sampled_from([(), ("weather",), ("small",)]),
        after=st.sampled_from([None, "weather"]),
    )
    def route(self, text, preference, exclude, after):
        state = RoutingState(last_target=after, topic="rain") if after else None
        answers = []
        for cache in (self.cache, None):
            self.router.cache = cache
            try:
                answer = plain(self.router.route(text, preference, state, exclude=exclude))
            except NoTargetError as error:
                answer = str(error)
            answers.append(answer)
        if not isinstance(answers[0], str) and answers[0].kind == "agent":
            answers = [replace(a, state=RoutingState()) for a in answers]  # compared below
        assert answers[0] == answers[1]

    @rule(name=names)
    def disable(self, name):
        self.router.agents.disable(name)

    @rule(name=names)
    def enable(self, name):
        self.router.agents.enable(name)

    @rule(price=st.sampled_from([0.1, 5.0]))
    def reprice(self, price):
        self.router.llms = self.router.llms.reprice("small", price, price)

    @rule(seconds=st.sampled_from([1.0, 11.0, 31.0]))
    def expire(self, seconds):
        self.clock.now += seconds

    @rule(name=names)
    def fail(self, name):
        self.router.health.report_failure(name)

    @rule(name=names, words=st.sampled_from(["rain snow", "french", "warm why"]))
    def rewrite(self, name, words):
        self.router.agents.update(replace(self.router.agents.get(name), description=words))


ENCODER = HashEncoder()
Stale.TestCase.settings = settings(max_examples=10, stateful_step_count=12, deadline=None)
TestStale = Stale.TestCase


def test_what_an_agent_took_is_known_without_llms_too(make):
    router = make()
    router.route("rain snow wind")
    router.llms = None
    assert how(router.route("rain snow wind")) == "same words"
    with pytest.raises(NoTargetError):
        router.route("why prove this poem")


def test_a_change_while_it_is_decided_is_not_kept(make):
    router = make()

    class Decider:
        def decide(self, query, cards, log_prior):
            router.agents.disable("translator")
            router.agents.enable("translator")
            return [1.0 / len(cards)] * len(cards)

    router.agent_router.decider = Decider()
    router.route("rain snow wind")
    router.agent_router.decider = None
    router.route("hello")
    assert len(router.cache) == 1


def test_equal_queries_at_once_are_decided_once(make):
    router, calls, gate = make(), [], threading.Event()

    class Slow:
        def decide(self, query, cards, log_prior):
            calls.append(query)
            gate.wait(5)
            return [1.0 / len(cards)] * len(cards)

    router.agent_router.decider = Slow()
    router.fit()
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(router.route("rain snow wind")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    while len(calls) < 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    gate.set()
    for thread in threads:
        thread.join(5)
    assert len(calls) == 1
    assert len({plain(decision) for decision in found}) == 1
    assert len(found) == 8


def test_those_who_wait_are_not_left_when_the_first_fails(make):
    router, tries = make(), []

    class Fails:
        def decide(self, query, cards, log_prior):
            tries.append(query)
            time.sleep(0.05)
            if len(tries) == 1:
                raise RuntimeError("the decider is down")
            return [1.0 / len(cards)] * len(cards)

    router.agent_router.decider = Fails()
    router.fit()
    ends = []

    def ask():
        try:
            ends.append(router.route("rain snow wind").kind)
        except RuntimeError:
            ends.append("failed")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert ends.count("failed") == 1
    assert len(ends) == 4


def test_a_decider_may_ask_its_own_router(make):
    router, depth = make(), []

    class Asks:
        def decide(self, query, cards, log_prior):
            if not depth:
                depth.append(1)
                router.route(query)
            return [1.0 / len(cards)] * len(cards)

    router.agent_router.decider = Asks()
    assert router.route("rain snow wind").targets


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 5))
@settings(max_examples=10)
def test_entries_are_bounded(shared_router, asked, most):
    shared_router.cache = cache = RouteCache(most, near=None)
    for number in asked:
        shared_router.route(f"rain number {number}")
        assert how(shared_router.route(f"rain number {number}")) == "same words"
    assert len(cache) == min(most, len(set(asked)))


@pytest.fixture(scope="module")
def shared_router():
    cards = [AgentCard("weather", "rain snow wind"), AgentCard("translator", "french german")]
    return MoMARouter.from_cards(cards, encoder=ENCODER, llms=LLMS, reranker=None)


def test_bytes_are_bounded_and_about_right(shared_router):
    shared_router.cache = cache = RouteCache(near=None)
    shared_router.route("rain")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(80):
        shared_router.route(f"rain number {number} {'or so ' * (number % 20)}")
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert used / 2 < cache.used_bytes < 3 * used  # rather too much than too little
    shared_router.cache = small = RouteCache(near=None, max_bytes=20_000)
    for number in range(50):
        shared_router.route(f"rain number {number}")
    assert 0 < small.used_bytes <= 20_000
    shared_router.route("rain " * 9_000)
    assert small.used_bytes <= 20_000


def test_decisions_expire(shared_router):
    clock = Clock()
    shared_router.cache = RouteCache(ttl=5.0, clock=clock)
    shared_router.route("rain snow")
    clock.now = 4.0
    assert how(shared_router.route("rain snow")) == "same words"
    assert how(shared_router.route("snow rain")) == "means"
    clock.now = 6.0
    assert how(shared_router.route("snow rain")) == "not known"  # as old as what it was taken from
    assert how(shared_router.route("rain snow")) == "means"


def test_states_patterns_see_the_very_letters(make):
    states = '[[states]]\nname = "A"\npatterns = ["SNOW"]\nagents = ["translator"]\n'
    router = make(states=states)
    assert router.route("rain snow wind").state.active == ()
    loud = router.route("rain SNOW wind")
    assert (how(loud), loud.state.active) == ("not known", ("A",))


def test_copies_start_empty_with_the_same_settings(make):
    router = make(cache=RouteCache(7, ttl=9.0))
    router.route("rain snow wind")
    for again in (copy.deepcopy(router), pickle.loads(pickle.dumps(router))):  # noqa: S301
        assert len(again.cache) == 0
        assert how(again.route("rain snow wind")) == "not known"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_wait_for_its_parents_threads(make):
    router, inside = make(), threading.Event()
    parent = os.getpid()

    class Hangs:
        def decide(self, query, cards, log_prior):
            if os.getpid() == parent:
                inside.set()
                time.sleep(1)
            return [1.0 / len(cards)] * len(cards)

    router.agent_router.decider = Hangs()
    router.fit()
    thread = threading.Thread(target=router.route, args=("rain snow wind",))
    thread.start()
    inside.wait(5)
    child = multiprocessing.get_context("fork").Process(
        target=router.route, args=("rain snow wind",)
    )
    start = time.monotonic()
    child.start()
    child.join(10)
    assert child.exitcode == 0
    assert time.monotonic() - start < 0.95
    thread.join()


def test_processes_share_by_a_store_and_never_what_is_stale(make):
    store = Kept()
    one, other = make(RouteCache(store=store)), make(RouteCache(store=store))
    first = one.route("rain snow wind")
    again = other.route("Rain snow wind")
    assert how(again) == "same words"
    assert again.targets == first.targets
    other.agents.disable("weather")
    assert how(other.route("rain snow wind")) == "not known"
    assert how(one.route("rain snow wind")) == "same words"
    for key in store.values:
        store.values[key] = store.values[key].replace(b'"weather"', b'"another"')
    fresh = make(RouteCache(store=store))
    assert how(fresh.route("rain snow wind")) == "not known"  # names nobody here


@pytest.mark.parametrize(
    "value", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000, b'{"decision": {"targets": []}}']
)
def test_what_a_store_holds_is_not_trusted(make, value):
    class Foreign(Kept):
        def get(self, key):
            return value

    router = make(RouteCache(store=Foreign()))
    assert router.route("rain snow wind").target == "weather"


def test_a_store_that_fails_is_left_alone(make, caplog):
    class Down:
        asked = 0

        def get(self, key):
            self.asked += 1
            raise ConnectionError("redis://user:secret@host")

        set = get

    down = Down()
    router = make(RouteCache(store=down))
    for number in range(5):
        assert router.route(f"rain snow wind {number}").targets
    assert down.asked == 1
    assert "secret" not in caplog.text
    assert caplog.text.count("does not answer") == 1


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    pytest.importorskip("redis")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs Debian's redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.02)
    yield f"redis://127.0.0.1:{port}/0", server
    server.kill()
    server.wait()


def test_redis_by_one_line(make, redis_server):
    url, server = redis_server
    one, other = make(url), make(url)
    first = one.route("rain snow wind")
    again = other.route("rain snow wind")
    assert (how(first), how(again)) == ("not known", "same words")
    assert plain(again) == plain(first)
    again = pickle.loads(pickle.dumps(make(url)))  # noqa: S301
    assert how(again.route("rain snow wind")) == "same words"
    short = make(RouteCache(ttl=0.05, store=url))
    short.route("snow wind forecast")
    time.sleep(0.06)
    assert how(make(RouteCache(ttl=0.05, store=url)).route("snow wind forecast")) == "not known"
    server.kill()
    server.wait()
    start = time.monotonic()
    assert make(url).route("rain snow wind").target == first.target
    assert time.monotonic() - start < 1.0


@pytest.mark.parametrize(
    ("cache", "says"),
    [
        ("http://host", "redis://localhost"),
        ("redis://:secret@host:notaport/0", "cache='redis://"),
        (0, "more than 0"),
        (3.5, "RouteCache"),
        ([], "RouteCache"),
    ],
)
def test_bad_caches_say_what_to_write(make, cache, says):
    with pytest.raises(InvalidInputError, match=says) as raised:
        make(cache)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("given", [{"ttl": 0}, {"near": 1.5}, {"near": 0.0}, {"max_bytes": -1}])
def test_settings_out_of_bounds(given):
    with pytest.raises(InvalidInputError):
        RouteCache(**given)


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text):
    once = normalised(text)
    assert normalised(once) == once


def test_a_pool_that_learnt_is_another_one():
    pool = LLMRouter.from_cards(LLMS)
    before = pool_fingerprint(pool)
    pool.observe("small", 0.001, 0.002)
    assert pool_fingerprint(pool) != before


def test_langgraphs_caches_share_decisions(make, tmp_path):
    memory = pytest.importorskip("langgraph.cache.memory")
    from langchain_moma.route_cache import GraphCacheStore

    store = GraphCacheStore(memory.InMemoryCache())
    first = make(RouteCache(store=store)).route("rain snow wind")
    again = make(RouteCache(store=store)).route("rain snow wind")
    assert (how(first), how(again)) == ("not known", "same words")
    assert plain(again) == plain(first)
