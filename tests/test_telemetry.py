"""What is counted, and that OpenTelemetry gets the same where it is set up."""

import copy
import pickle

import pytest

from moma_core import AgentCard, MoMARouter, NoTargetError
from moma_core.telemetry import Counts
from moma_core.testing import HashEncoder

CARDS = [AgentCard("weather", "rain snow forecast"), AgentCard("bank", "money account")]


@pytest.fixture
def router():
    return MoMARouter.from_cards(CARDS, encoder=HashEncoder(), llms=None, cache=True)


def test_gate_cache_registry_and_health_are_counted(router):
    for _ in range(3):
        router.route("rain snow forecast", min_probability=1e-6)
    router.agents.disable("bank")
    router.agents.remove("bank")
    router.health.report_failure("weather")
    counts = router.counts()
    assert counts["gate"] == {"taken": 1}
    assert counts["cache"] == {"made": 1, "same words": 2}
    assert counts["registry"] == {"written": 2, "disabled": 1, "removed": 1}
    assert counts["health"] == {"failure": 1}
    router.agents.disable("weather")
    with pytest.raises(NoTargetError):
        router.route("snow")
    assert router.counts()["gate"]["nobody eligible"] == 1


def test_a_copy_counts_anew(router):
    router.rank("rain")
    for again in (copy.deepcopy(router), pickle.loads(pickle.dumps(router))):  # noqa: S301
        assert again.counts()["gate"] == {}
    assert router.counts()["gate"]


def test_opentelemetry_gets_the_same(monkeypatch):
    """The API's own counter stands in for an exporter: the SDK is not ours to need."""
    seen = []

    class Events:
        def add(self, times, attributes):
            seen.append((times, attributes))

    monkeypatch.setattr("moma_core.telemetry._events", Events)
    Counts("cache").add("made", 2)
    assert seen == [(2, {"part": "cache", "event": "made"})]


def test_nothing_is_needed_of_opentelemetry(python):
    done = python(
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from moma_core.telemetry import Counts\n"
        "counts = Counts('gate'); counts.add('taken'); print(dict(counts))\n"
    )
    assert done.stdout.strip() == "{'taken': 1}", done.stderr
