"""What an LLM is shown of agents and queries (eq. 26: query and each agent's metadata).

Plain texts, tokenised elsewhere. The wording was chosen among five on agents that no figure is
reported for (benchmarks/LOG.md); an LLM of another kind may want another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moma_core.types import AgentCard
from moma_core.words import readable

__all__ = [
    "agent_prompt",
    "arguments_prompt",
    "choice_prompt",
    "list_prompt",
    "parameters",
]

_MOST_CHARS = 400  # of a description; what follows seldom tells one agent from another
_MOST_LISTED = 160  # the same where all agents of a shortlist are shown at once


def agent_prompt(card: AgentCard) -> str:
    """Return what comes before a query under one agent: the noisy channel's condition.

    Example:
        >>> print(agent_prompt(AgentCard("weather_now", "Forecast for a place")))
        Tool: weather now
        Description: Forecast for a place
        User request:
    """
    name = readable(card.name) or card.name
    lines = [f"Tool: {name}", f"Description: {_clipped(card.description, _MOST_CHARS)}"]
    if inputs := parameters(card):
        lines.append(f"Inputs: {inputs}")
    return "\n".join([*lines, "User request:"])


def choice_prompt(query: str | None) -> str:
    """Return what comes before an agent's name, with a query or, for its base rate, without.

    Example:
        >>> print(choice_prompt("will it rain?"))
        User request: will it rain?
        Tool:
    """
    return "Tool:" if query is None else f"User request: {query}\nTool:"


def list_prompt(query: str, cards: Sequence[AgentCard]) -> str:
    """Return the paper's prompt: every eligible agent with its metadata, then the query.

    Example:
        >>> cards = [AgentCard("radar", "Rain now"), AgentCard("clock", "The time")]
        >>> print(list_prompt("will it rain?", cards))
        Tools:
        - radar: Rain now
        - clock: The time
        <BLANKLINE>
        User request: will it rain?
        Tool:
    """
    lines = [f"- {card.name}: {_clipped(card.description, _MOST_LISTED)}" for card in cards]
    return "\n".join(["Tools:", *lines, "", choice_prompt(query)])


def arguments_prompt(query: str, card: AgentCard) -> str:
    """Return what comes before an agent's argument object."""
    return (
        f"Fill in the arguments of the tool {card.name!r} ({_clipped(card.description, 400)}).\n"
        f"Parameters: {parameters(card) or 'none'}\n"
        f"User request: {query}\n"
        "Answer with one JSON object and take every value from the request."
    )


def parameters(card: AgentCard) -> str:
    """Return an agent's input parameters in a line; empty where it has none.

    Example:
        >>> schema = {"properties": {"city": {"type": "string", "description": "Where"}, "n": {}}}
        >>> parameters(AgentCard("weather", "Forecast", input_schema=schema))
        'city (string, Where), n'
    """
    properties = card.input_schema.get("properties", {})
    if not isinstance(properties, Mapping):
        return ""
    shown = []
    for name, schema in properties.items():
        about = schema if isinstance(schema, Mapping) else {}
        notes = [str(about[key]) for key in ("type", "description") if about.get(key)]
        shown.append(f"{name} ({', '.join(notes)})" if notes else str(name))
    return _clipped(", ".join(shown), _MOST_CHARS)


def _clipped(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most].rsplit(" ", 1)[0] + " ..."
