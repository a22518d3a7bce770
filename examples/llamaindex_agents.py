"""An AgentWorkflow: the right agent first, and few of many tools. Runs offline.

pip install "moma-router[llamaindex]" && python examples/llamaindex_agents.py
"""

import asyncio

from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import FunctionTool

from llamaindex_moma import MoMAToolRetriever, MoMAWorkflowRouter

ROOMS = ("kitchen", "garage", "garden", "cellar", "attic", "office", "hall", "bathroom")
DEVICES = ("lamp", "heater", "camera", "door", "window blinds")


def tools() -> list[FunctionTool]:
    def make(room: str, device: str) -> FunctionTool:
        return FunctionTool.from_defaults(
            lambda: f"the {device} in the {room} is switched",
            name=f"{room}_{device.replace(' ', '_')}",
            description=f"Switch the {device} in the {room}.",
        )

    return [make(room, device) for room in ROOMS for device in DEVICES]


def scripted(_: list[ChatMessage], **kwargs: list[FunctionTool]) -> ChatMessage:
    """Stands for a function-calling LLM: names the tools that it was offered."""
    offered = ", ".join(tool.metadata.get_name() for tool in kwargs.get("tools", ()))
    return ChatMessage(f"I was offered: {offered or 'no tool'}", role="assistant")


async def main() -> None:
    llm = MockFunctionCallingLLM(response_generator=scripted)  # your OpenAI(...) in its place
    retriever = MoMAToolRetriever(tools(), top_k=3)
    host = FunctionAgent(
        name="host", description="Greets guests, small talk", llm=llm, streaming=False
    )
    house = FunctionAgent(
        name="house",
        description="Switches lamps, heaters, cameras and doors in the rooms of the house",
        tool_retriever=retriever,
        llm=llm,
        streaming=False,
    )
    router = MoMAWorkflowRouter(AgentWorkflow([host, house], root_agent="host"))
    router.route_handoffs()
    for message in ("turn on the heater in the cellar", "good evening to you"):
        result = await (await router.start(message))
        print(f"{message} -> {result.current_agent_name}: {result}")


if __name__ == "__main__":
    asyncio.run(main())
