"""The first impression: real agents, a real graph, and what the router makes of them."""
