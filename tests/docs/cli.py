"""The reader's own agents, tables, and a router that is there already."""

import json
from pathlib import Path

from moma_core import AgentCard, MoMARouter

MoMARouter.from_cards(
    [
        AgentCard("bank", "Balances and transfers", examples=("what is my balance?",)),
        AgentCard("music", "Plays songs", examples=("play some jazz",)),
    ]
).save(".moma")
Path("agents.csv").write_text("name,description\nweather,Weather forecast\nnews,Reads the news\n")
Path("examples.csv").write_text("query,agents\nwill it rain?,weather\nwhat happened today?,news\n")
rows = [f"balance of account {n},bank" for n in range(20)]
rows += [f"play song number {n},music" for n in range(20)] + [
    f"who was king {n}?," for n in range(20)
]
Path("labelled.csv").write_text("\n".join(["query,agents", *rows]) + "\n")
asked = ("what is on my account?", "play something", "who are you?")
Path("queries.jsonl").write_text("\n".join(json.dumps({"query": text}) for text in asked) + "\n")
