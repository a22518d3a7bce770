"""A process is killed in the middle of a graph; the next one goes on from the checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

SCRIPT = '''
import json, os, pickle, signal, sys, threading
from collections import defaultdict
from pathlib import Path

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from langchain_moma import MoMAState, as_node
from moma_core import AgentCard, MoMARouter, State, StateMachine

FILE, LIFE = Path(sys.argv[1]), sys.argv[2]


class FileSaver(InMemorySaver):
    """Keeps every checkpoint in a file, as a database would."""

    def __init__(self):
        super().__init__()
        if FILE.exists():
            storage, self.blobs, writes = pickle.loads(FILE.read_bytes())
            for thread, spaces in storage.items():
                self.storage[thread].update(spaces)
            self.writes.update(writes)

    def put(self, *args, **kwargs):
        return self._kept(super().put(*args, **kwargs))

    def put_writes(self, *args, **kwargs):
        return self._kept(super().put_writes(*args, **kwargs))

    def _kept(self, result):
        storage = {thread: dict(spaces) for thread, spaces in self.storage.items()}
        part = FILE.with_suffix(f".{threading.get_ident()}")  # so FILE is always whole
        part.write_bytes(pickle.dumps((storage, self.blobs, dict(self.writes))))
        part.replace(FILE)
        return result


def weather(state):
    if LIFE == "first":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"messages": [("ai", "sunny")]}


examples = ("will it rain tomorrow?", "weather in Paris", "is there snow in Oslo?")
card = AgentCard("weather", "Weather forecast for a place", examples=examples)
states = StateMachine([State("OUTSIDE", keywords=("rain", "weather"), sticky=3)])
router = MoMARouter.from_cards([card], llms=None, states=states)
builder = StateGraph(MoMAState)
builder.add_node(as_node(router, ["weather"])).add_node("weather", weather)
graph = builder.add_edge(START, "router").compile(FileSaver())
thread = {"configurable": {"thread_id": "1"}}
value = {"messages": [("human", "will it rain in Paris?")]} if LIFE == "first" else None
end = graph.invoke(value, thread, durability="sync")
again = graph.invoke({"messages": [("human", "and in Oslo?")]}, thread)
print(json.dumps([end["messages"][-1].text, end["moma"]["state"], again["moma"]["state"]]))
'''


def test_a_killed_process_is_taken_up_by_the_next(tmp_path: Path) -> None:
    script = tmp_path / "life.py"
    script.write_text(SCRIPT, encoding="utf-8")

    def live(life: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603  # our own words
            [sys.executable, str(script), str(tmp_path / "checkpoints"), life],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )

    assert live("first").returncode == -signal.SIGKILL
    second = live("second")
    assert second.returncode == 0, second.stderr
    answer, state, following = json.loads(second.stdout)
    assert answer == "sunny"
    assert state["active"] == ["OUTSIDE"]
    assert state["last_target"] == "weather"
    assert following["active"] == ["OUTSIDE"]  # by its stickiness: no keyword in that turn
