"""One LlamaIndex LLM that is three: each call goes to the one worth its price. Runs offline.

pip install "moma-router[llamaindex]" && python examples/llamaindex_llm.py
"""

from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.llms import ChatMessage, MockLLM

from llamaindex_moma import MoMALLM, MoMARouteEvent

ASKED = (
    "What is the capital of Norway?",
    "Prove that there are infinitely many primes of the form 4k + 3.",
)


class Watch(BaseEventHandler):
    """Prints what was routed where, and what it is expected to cost."""

    def handle(self, event: BaseEvent, **_: object) -> None:
        """Receive an event of any kind."""
        if isinstance(event, MoMARouteEvent):
            print(f"  {event.preference}: {event.reason}")


class Down(MockLLM):
    """An LLM whose provider does not answer."""

    def complete(self, *prompt: object, **_: object) -> None:
        """Fail."""
        raise ConnectionError(f"no answer to {prompt!r}")


def main() -> None:
    # Mocks keep this example offline; give OpenAI(...), Anthropic(...), Ollama(...) in their place.
    llms = {
        name: MockLLM(max_tokens=8)
        for name in ("gpt-4o-mini-2024-07-18", "gemini-1.5-pro", "claude-3-5-sonnet-20241022")
    }
    llm = MoMALLM(llms, preference="auto")
    get_dispatcher().add_event_handler(Watch())
    for question in ASKED:
        print(question)
        for preference in ("cost", "auto", "performance"):
            llm.chat([ChatMessage(question)], preference=preference)
    print("and when the cheapest is down:")
    llms["gpt-4o-mini-2024-07-18"] = Down()
    response = MoMALLM(llms, preference="cost").complete(ASKED[0])
    print(f"  answered by {response.additional_kwargs['moma_llm']}")


if __name__ == "__main__":
    main()
