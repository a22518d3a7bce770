"""The graph's LLM node: says which LLM was chosen and, when asked to and able to, lets one answer.

The router chooses among LLMs of several providers; the user may hold the key of one. So the answer
comes from that provider's LLM, and the text says so.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig

from langchain_moma import MoMAState, decision_in
from langchain_moma.messages import query_of

__all__ = ["ASK", "Provider", "how_to_set_a_key", "llm_node", "provider_at_hand"]

ASK = "ask_llm"
"""Key under ``config["configurable"]``: let a real LLM answer, when there is a key."""

_OVERRIDE = "MOMA_DEMO_LLM"
_SECONDS = 20


class Provider(NamedTuple):
    """Where an answer can come from: its key, its package, its LLMs' first letters, a cheap one."""

    key: str
    package: str
    name: str
    prefixes: tuple[str, ...]
    default: str


_PROVIDERS = (
    Provider("OPENAI_API_KEY", "langchain_openai", "openai", ("gpt-", "o1", "o3"), "gpt-4o-mini"),
    Provider(
        "ANTHROPIC_API_KEY", "langchain_anthropic", "anthropic", ("claude",), "claude-haiku-4-5"
    ),
)


def provider_at_hand() -> Provider | None:
    """Return the first provider with both its key set and its package installed."""
    for provider in _PROVIDERS:
        if os.environ.get(provider.key) and importlib.util.find_spec(provider.package):
            return provider
    return None


def how_to_set_a_key() -> str:
    """Say what to type so that a real LLM answers."""
    lines = [
        f"  pip install {provider.package.replace('_', '-')} && export {provider.key}=..."
        for provider in _PROVIDERS
    ]
    return "To have a real LLM answer, type one of these and run the demo again:\n" + "\n".join(
        lines
    )


def llm_node(state: MoMAState, config: RunnableConfig) -> dict[str, Any]:
    """Take a query that no agent took: the graph's one node for all LLMs."""
    decision = decision_in(state["moma"])
    chosen = decision.target if decision else ""
    provider = provider_at_hand()
    if provider is None or not config.get("configurable", {}).get(ASK):
        cost = f" for about ${decision.cost:.5f}" if decision and decision.cost else ""
        return {"messages": [AIMessage(f"(would be answered by {chosen}{cost})")]}
    question = query_of({"messages": state["messages"]}).text
    return {"messages": [AIMessage(_answer(provider, chosen, question))]}


def _answer(provider: Provider, chosen: str, question: str) -> str:
    from langchain.chat_models import init_chat_model

    own = chosen if chosen.lower().startswith(provider.prefixes) else provider.default
    name = os.environ.get(_OVERRIDE, f"{provider.name}:{own}")
    try:
        chat = init_chat_model(name, timeout=_SECONDS, max_retries=0)
        return f"{name} answers: {chat.invoke(question).text}"
    except Exception as error:  # noqa: BLE001  # any provider's own error; the demo goes on
        return (
            f"{name} did not answer ({type(error).__name__}: {error!s:.120}). To take another: "
            f"export {_OVERRIDE}=provider:name"
        )
