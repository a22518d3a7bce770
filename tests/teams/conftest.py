"""A tiny world for team tests: queries of two domains, three LLMs, a fake LLM router."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from moma_core.teams.cards import RoleCard, TeamOptions
from moma_core.teams.features import TeamInputs
from moma_core.teams.simulator import TeamSimulator
from moma_core.testing import HashEncoder

NAMES = ("small", "medium", "large")
COSTS = np.array([1e-4, 5e-4, 2e-3])

ROLES = (
    RoleCard("solver", "solves equation number sum", "Solve.", "maths", "solve"),
    RoleCard("checker", "checks equation number proof", "Check.", "maths", "check"),
    RoleCard("coder", "writes python function code", "Code.", "code", "solve"),
    RoleCard("reviewer", "reviews python code bugs", "Review.", "code", "check"),
)


@dataclass
class FakePool:
    """Predicts the same quality and cost of each LLM for every query."""

    quality: tuple[float, ...] = (0.5, 0.7, 0.9)
    names: tuple[str, ...] = NAMES
    costs: tuple[float, ...] = tuple(COSTS)
    points: float = 0.02

    def predict(self, texts, vectors):
        rows = len(texts)
        return np.tile(self.quality, (rows, 1)), np.tile(self.costs, (rows, 1))


def build_world(n: int = 240, seed: int = 0):
    """Inputs, simulator, domains and texts of n queries."""
    encoder, rng = HashEncoder(32), np.random.default_rng(seed)
    words = {
        "maths": ["equation", "number", "sum", "proof", "angle"],
        "code": ["python", "function", "code", "bugs", "loop"],
    }
    domains = [("maths", "code")[i % 2] for i in range(n)]
    texts = [" ".join(rng.choice(words[domain], 3)) for domain in domains]
    probability = np.array([0.5, 0.7, 0.9])
    scores = (rng.random((n, 3)) < probability).astype(float)
    quality = np.clip(probability + 0.1 * (scores - probability), 0, 1)
    costs = np.tile(COSTS, (n, 1))
    options = TeamOptions.embed(encoder, roles=ROLES)
    inputs = TeamInputs(encoder.encode(texts).astype(np.float64), quality, costs)
    return encoder, options, inputs, TeamSimulator(scores, costs, domains, options), domains


@pytest.fixture(scope="session")
def build():
    return build_world


@pytest.fixture(scope="session")
def fake_pool():
    return FakePool
