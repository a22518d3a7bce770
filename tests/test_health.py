"""Circuit breakers: when they open, half-open and close, from one thread and from many."""

import threading

import pytest

from moma_core import AgentCard, InvalidInputError, MoMARouter
from moma_core.health import Health


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    return Health(failures=3, cooldown=30, clock=clock, window=60)


def fail(health, times=3, name="a"):
    for _ in range(times):
        health.report_failure(name)


def test_failures_in_a_row_open_a_circuit(health):
    fail(health, 2)
    assert health.circuit("a") == "closed"
    fail(health, 1)
    assert health.circuit("a") == "open"
    assert health.is_open("a")
    assert health.unhealthy() == {"a"}
    assert not health.is_open("b")


def test_a_success_between_starts_the_count_again(health):
    fail(health, 2)
    health.report_success("a")
    fail(health, 2)
    assert health.circuit("a") == "closed"


def test_failures_spread_over_more_than_the_window_do_not_open(health, clock):
    for _ in range(9):
        fail(health, 1)
        clock.now += 31
    assert health.circuit("a") == "closed"
    fail(health, 2)
    assert health.circuit("a") == "open"


def test_after_the_cool_down_one_report_decides(health, clock):
    fail(health)
    clock.now = 29.9
    assert health.circuit("a") == "open"
    clock.now = 30
    assert (health.circuit("a"), health.unhealthy()) == ("half-open", frozenset())
    fail(health, 1)
    assert health.circuit("a") == "open"
    clock.now = 60
    health.report_success("a")
    assert health.circuit("a") == "closed"
    fail(health, 2)
    assert health.circuit("a") == "closed"


def test_late_failures_do_not_prolong_an_open_circuit(health, clock):
    fail(health)
    clock.now = 20
    fail(health, 5)
    clock.now = 30
    assert health.circuit("a") == "half-open"


def test_a_success_closes_at_any_time(health):
    fail(health)
    health.report_success("a")
    assert health.circuit("a") == "closed"


def attempt(health, error=None, inside=lambda: None):
    with health.attempt("a"):
        inside()
        if error is not None:
            raise error


def test_attempts_report_themselves(health):
    for _ in range(3):
        with pytest.raises(TimeoutError):
            attempt(health, TimeoutError())
    assert health.circuit("a") == "open"
    attempt(health)
    assert health.circuit("a") == "closed"


def test_one_attempt_at_a_time_probes_a_half_open_circuit(health, clock):
    fail(health)
    clock.now = 30
    seen = []
    attempt(health, inside=lambda: seen.append(health.is_open("a")))
    assert seen == [True]
    assert not health.is_open("a")


def test_a_probe_that_hangs_or_is_cancelled_blocks_nobody(health, clock):
    fail(health)
    clock.now = 30

    def hang():
        clock.now += 31
        seen.append(health.is_open("a"))

    seen = []
    with pytest.raises(KeyboardInterrupt):
        attempt(health, KeyboardInterrupt(), hang)
    assert seen == [False]
    assert health.circuit("a") == "half-open"
    assert not health.is_open("a")


def test_a_failed_probe_opens_again(health, clock):
    fail(health)
    clock.now = 30
    with pytest.raises(OSError, match="down"):
        attempt(health, OSError("down"))
    assert health.circuit("a") == "open"
    clock.now = 60
    assert health.circuit("a") == "half-open"


@pytest.mark.parametrize(
    "arguments",
    [{"failures": 0}, {"cooldown": -1}, {"window": 0}, {"cooldown": float("nan")}],
    ids=str,
)
def test_numbers_out_of_bounds(arguments):
    with pytest.raises(InvalidInputError, match="circuit"):
        Health(**arguments)


def test_many_threads():
    health = Health(failures=400, cooldown=1000)
    barrier = threading.Barrier(4)

    def work():
        barrier.wait()
        for _ in range(100):
            health.report_failure("a")
            health.unhealthy()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert health.circuit("a") == "open"
    health.report_success("a")
    fail(health, 399)
    assert health.circuit("a") == "closed"


def test_a_router_asks_nobody_who_fails(hashing, clock):
    cards = [
        AgentCard("weather", "rain snow", examples=("rain", "snow")),
        AgentCard("sums", "add numbers", examples=("add", "plus")),
    ]
    router = MoMARouter.from_cards(cards, encoder=hashing, llms=None)
    router.agent_router.health = Health(failures=1, cooldown=10, clock=clock)
    assert router.route("rain snow").target == "weather"
    router.health.report_failure("weather")
    router.health.report_failure("nobody")
    found = router.rank(["rain snow", "add plus"])
    assert all(c.name != "weather" for ranking in found for c in ranking)
    clock.now = 10
    assert router.route("rain snow").target == "weather"


def test_a_name_that_asks_to_be_left_alone_is(health, clock):
    health.leave_alone("a", 20)
    assert not health.may_be_asked("a")
    assert health.may_be_asked("b")
    assert (health.circuit("a"), health.unhealthy()) == ("closed", frozenset())
    clock.now = 19.9
    assert not health.may_be_asked("a")
    clock.now = 20
    assert health.may_be_asked("a")
    fail(health)
    assert not health.may_be_asked("a")
    for over in (lambda: health.leave_alone("a", 0), lambda: health.report_success("a")):
        health.report_success("a")
        health.leave_alone("a", 20)
        over()
        assert health.may_be_asked("a")
