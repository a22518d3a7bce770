"""Soak: threads that route, others that change agents and prices, with the cache on.

    OMP_NUM_THREADS=1 python benchmarks/soak.py [SECONDS]

Eight threads route a few hundred queries through one router with a cache; two change it every few
seconds: disable and enable, add and remove, reprice, failures and recoveries. Counted are errors,
decisions for an agent that was disabled during all of the route, times of hits and of decisions,
memory and descriptors over time: its growth counts from the first minute on, in which the cache
fills (``cached`` says how far), and from the first sample. Writes benchmarks/results/soak.json.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import threading
import time
from pathlib import Path

import numpy as np
from growth import rss_mb

from moma_core import AgentCard, MoMARouter
from moma_core.route_cache import RouteCache

OUT = Path("benchmarks/results/soak.json")
SECONDS = 180
WARM, SAMPLE = 60.0, 10.0  # seconds
TOPICS = ("weather", "bank", "music", "travel", "recipes", "sports", "mail", "calendar")
SWITCHED = "extra"


class Soak:
    """One router under load."""

    def __init__(self) -> None:
        cards = [AgentCard(name, f"Does all about {name}") for name in TOPICS]
        cards.append(AgentCard(SWITCHED, "Tells jokes about cats"))
        self.router = MoMARouter.from_cards(cards, cache=RouteCache(2_000))
        self.stop = threading.Event()
        self.errors: list[str] = []
        self.hits: list[float] = []
        self.made: list[float] = []
        self.switches = 0
        self.stale = 0
        self.off = False  # whether the agent is disabled, set before enabling, after disabling

    def route(self, seed: int) -> None:
        """Route until it is stopped."""
        rng = random.Random(seed)  # noqa: S311
        while not self.stop.is_set():
            what = rng.choice((*TOPICS, "jokes about cats"))
            text = f"tell me {rng.choice(('more', 'all', 'news'))} of {what} {rng.randrange(12)}"
            switches, off = self.switches, self.off
            start = time.perf_counter()
            try:
                decision = self.router.route(text, rng.choice((None, "cost")))
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                self.errors.append(f"{type(error).__name__}: {error}")
                continue
            seconds = time.perf_counter() - start
            words = decision.trace[0].detail.startswith("same words")
            (self.hits if words else self.made).append(seconds)
            if off and self.off and self.switches == switches and decision.target == SWITCHED:
                self.stale += 1

    def change(self, seed: int) -> None:
        """Change agents and prices until it is stopped; threads of odd seeds switch one agent."""
        rng, n = random.Random(seed), 0  # noqa: S311
        while not self.stop.wait(rng.uniform(0.5, 3.0)):
            n += 1
            try:
                if seed % 2:
                    self.switch()
                    continue
                name = f"new{n % 3}"
                if name in self.router.agents:
                    self.router.agents.remove(name)
                else:
                    self.router.agents.add(AgentCard(name, f"Plays game number {n}"))
                self.router.health.report_failure(rng.choice(TOPICS))
                self.router.health.report_success(rng.choice(TOPICS))
                pool = self.router.llms
                price = rng.choice((0.5, 5.0))
                self.router.llms = pool.reprice(pool.names[0], price, price)
            except Exception as error:  # noqa: BLE001
                self.errors.append(f"{type(error).__name__}: {error}")

    def switch(self) -> None:
        """Disable or enable the agent; ``off`` is never true while it is enabled."""
        self.switches += 1
        if self.off:
            self.off = False
            self.router.agents.enable(SWITCHED)
        else:
            self.router.agents.disable(SWITCHED)
            self.off = True


def main() -> None:
    seconds = float(sys.argv[1]) if sys.argv[1:] else SECONDS
    soak = Soak()
    threads = [threading.Thread(target=soak.route, args=(i,), daemon=True) for i in range(8)]
    threads += [threading.Thread(target=soak.change, args=(i,), daemon=True) for i in (100, 101)]
    for thread in threads:
        thread.start()
    seen, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(SAMPLE, max(end - time.monotonic(), 0.01)))
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        seen.append((round(rss_mb(), 1), descriptors, len(soak.router.cache)))
    soak.stop.set()
    for thread in threads:
        thread.join(30)
    gc.collect()
    end_mb, half = rss_mb(), seen[len(seen) // 2 :]
    report = {
        "seconds": seconds,
        "load": os.getloadavg()[0],
        "errors": len(soak.errors),
        "error_kinds": sorted(set(soak.errors))[:5],
        "hangs": sum(thread.is_alive() for thread in threads),
        "stale": soak.stale,
        "switches": soak.switches,
        "routes": len(soak.hits) + len(soak.made),
        "cache": dict(soak.router.cache.counts),
        "hit_ms": quantiles(soak.hits),
        "made_ms": quantiles(soak.made),
        "all_ms": quantiles(soak.hits + soak.made),
        "rss_mb_descriptors_cached": seen,
        "rss_growth_after_a_minute": end_mb / seen[min(int(WARM / SAMPLE), len(seen)) - 1][0] - 1.0,
        "rss_growth_after_the_first_sample": end_mb / seen[0][0] - 1.0,
        "rss_mb_a_minute_in_the_second_half": slope([row[0] for row in half]) * 60.0 / SAMPLE,
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def slope(values: list[float]) -> float:
    """Return the least squares' rise from one value to the next."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


def quantiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    found = np.quantile(seconds, (0.5, 0.99)) * 1e3
    return {"p50": float(found[0]), "p99": float(found[1]), "p99_over_p50": found[1] / found[0]}


if __name__ == "__main__":
    main()
