"""What the tests share: one encoder, tiny cards, a small LLM pool, one Chroma server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from moma_core import AgentCard, RoutingEncoder, encoder
from moma_core.cli.main import main
from moma_core.testing import HashEncoder

settings.register_profile(
    "moma",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("fuzz", settings.get_profile("moma"), derandomize=False)
settings.load_profile("moma")

ROOT = Path(__file__).parent.parent
collect_ignore_glob = ["docs/*"]  # run by test_docs.py


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process that sees this checkout."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread():
    """More threads than free cores spin: fitting small catalogs takes six times as long."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session")
def python():
    return run_python


@pytest.fixture
def run_moma(monkeypatch, capsys):
    """Run the program as its entry point does: exit status, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["moma", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


@pytest.fixture(scope="module")
def one_session():
    """Read the encoder's weights once, not once a command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "open_session", cache(encoder.open_session))
        yield


@pytest.fixture(scope="session")
def minilm():
    return RoutingEncoder()


@pytest.fixture(scope="session")
def hashing():
    return HashEncoder()


CARDS = (
    AgentCard(
        "weather",
        "Weather forecast for a place",
        categories=("outside",),
        examples=(
            "will it rain tomorrow",
            "weather forecast for paris",
            "how warm is it outside",
            "is snow expected in oslo",
        ),
    ),
    AgentCard(
        "translator",
        "Translates text between languages",
        categories=("language",),
        examples=(
            "say hello in french",
            "translate this text into german",
            "what is bread in spanish",
            "how do you say cat in italian",
        ),
    ),
    AgentCard(
        "calculator",
        "Works out arithmetic with numbers",
        categories=("numbers",),
        examples=(
            "what is 12 times 7",
            "add 17 and 25",
            "square root of 81",
            "divide 144 by 12",
        ),
    ),
)


@pytest.fixture(scope="session")
def cards():
    return CARDS


@pytest.fixture(scope="session")
def word_cards():
    """Agents that share no word, for the encoder that knows only words."""
    words = {
        "weather": ("outside", "rain snow wind forecast"),
        "translator": ("language", "french german spanish italian"),
        "calculator": ("numbers", "sum times root minus"),
    }
    return tuple(
        AgentCard(name, text, categories=(category,), examples=tuple(shuffled(text, 8)))
        for name, (category, text) in words.items()
    )


def shuffled(text, n):
    rng = np.random.default_rng(0)
    return [" ".join(rng.permutation(text.split())[:3]) for _ in range(n)]


@pytest.fixture(scope="session")
def scored_queries():
    """A pool in which ``big`` answers all, ``small`` half of them for a tenth of the price."""
    from moma_core import LLMDataset

    rng = np.random.default_rng(0)
    words = ("why", "how", "prove", "explain", "write", "poem", "law", "court", "prime", "essay")
    queries = tuple(" ".join(rng.choice(words, 6)) + f" {i}" for i in range(80))
    easy = np.array(["poem" in query for query in queries])
    scores = np.column_stack([np.where(easy, 0.95, 0.2), np.full(80, 0.9)])
    costs = np.column_stack([np.full(80, 1e-4), np.full(80, 1e-3)])
    return LLMDataset(queries, ("small", "big"), scores, costs)


@pytest.fixture(scope="session")
def pool(scored_queries, hashing):
    """Two LLMs scored from vectors of HashEncoder."""
    from moma_core.llms.training import train

    return train(scored_queries, hashing, head="neighbours")


class ChromaServer:
    """A real ``chroma run`` in its own process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--path"]
        self._process = subprocess.Popen(  # noqa: S603
            [*command, str(self._directory), "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{self.url}/api/v2/heartbeat"):  # noqa: S310
                    return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise RuntimeError("chroma run did not start within 30 s")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def chroma_server(tmp_path_factory):
    server = ChromaServer(tmp_path_factory.mktemp("chroma-server"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tiny():
    """Makes untrained causal LLMs of two layers: 48 tokens, of which 0 ends a text."""
    import torch
    import transformers

    def make(config_class=transformers.LlamaConfig, dtype=torch.float32, **changes):
        torch.manual_seed(0)
        config = config_class(
            vocab_size=48,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=1024,
            initializer_range=0.5,
            bos_token_id=1,
            eos_token_id=0,
            pad_token_id=0,
            **changes,
        )
        return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()

    return make
