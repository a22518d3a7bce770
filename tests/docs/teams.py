"""The reader's own agents and question."""

from moma_core import AgentCard, MoMARouter

query = "Prove that there are infinitely many primes of the form 4k + 3."
agents = [AgentCard("weather", "Forecast for a place", examples=("will it rain?", "is it hot?"))]
