"""429 real tools of 24 MCP servers from the package registry: found by descriptions alone, or left.

    python benchmarks/mcp_tools.py --list FOLDER --python python3.13   # once: 3 GB, 8 minutes
    python benchmarks/mcp_tools.py --tools FOLDER/tools.json

``--list`` gives each server a virtual environment in FOLDER, starts it over stdio with dummy
settings (nothing is contacted: tools are listed, none is called), writes FOLDER/tools.json and
measures. What servers say of their tools is theirs and not kept here. Two servers need Python 3.13;
one that does not start is named and left out, and so are requests whose right tools are all
missing. Two need a line of help: docker's is given a mock client, for it wants a daemon, and ha's
prints go to stderr, for they would spoil the protocol.

The requests of mcp_requests.toml were written from the lists of tools before anything was ranked;
nothing is fitted to them, but variants have been looked at on them since. For all that a tool can
do: a right tool first, among five and ten; at the default gate, the share kept of those right
first, and of all, what goes to a wrong tool. For those that no tool can do: the share of each kind
that is caught. How well both are told apart: AUROC. Beside us, on the same cards, the plain ways of
day_one.py. Of 160 requests a share of .44 is known to .08; of a kind of twenty, one of .55 to .2.
Writes benchmarks/results/mcp_tools.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import numpy as np
from day_one import first_and_auroc, plain
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import Tool
from sklearn.metrics import roc_auc_score

from langchain_moma import agent_cards_from_mcp
from moma_core import AgentCard, MoMARouter

HERE = Path(__file__).parent
REQUESTS = HERE / "mcp_requests.toml"
DOCKER = (
    "import docker; from unittest.mock import MagicMock; docker.from_env = MagicMock(); "
    "from mcp_server_docker import main; main()"
)
HA = (
    "import builtins, functools, sys; builtins.print = functools.partial(print, file=sys.stderr); "
    "from ha_mcp.__main__ import main; main()"
)
SERVERS = {  # name: packages, command; versions of 2026-11-28, "mcp<2" where a server fails on 2
    "time": ("mcp-server-time==2026.10.19", "mcp-server-time --local-timezone UTC"),
    "fetch": ("mcp-server-fetch==2026.10.24", "mcp-server-fetch"),
    "git": ("mcp-server-git==2026.10.19", "mcp-server-git"),
    "sqlite": ("mcp-server-sqlite==2025.4.25 mcp<2", "mcp-server-sqlite --db-path a.db"),
    "redis": ("redis-mcp-server==0.5.1", "redis-mcp-server --url redis://127.0.0.1:9/0"),
    "arxiv": ("arxiv-mcp-server==0.8.2", "arxiv-mcp-server --storage-path papers"),
    "yfinance": ("mcp-yahoo-finance==0.2.0", "mcp-yahoo-finance"),
    "wikipedia": ("wikipedia-mcp==2.0.1", "wikipedia-mcp"),
    "ddg": ("duckduckgo-mcp-server==0.7.0", "duckduckgo-mcp-server"),
    "obsidian": ("mcp-obsidian==0.2.3", "mcp-obsidian"),
    "email": ("mcp-email-server==1.13.3", "mcp-email-server stdio"),
    "trello": ("trello-mcp==1.6.0 mcp<2", "trello-mcp"),
    "weather": ("mcp-weather-server==0.6.1 mcp<2", "mcp_weather_server"),
    "osm": ("osm-mcp-server==0.1.1 mcp<2", "osm-mcp-server"),
    "docker": ("mcp-server-docker==0.3.0", f"python -c {shlex.quote(DOCKER)}"),
    "plex": ("plex-mcp-server==1.5.0", "plex-mcp-server --transport stdio"),
    "youtube": ("mcp-youtube-transcript==0.3.5 mcp<2", "mcp-youtube-transcript"),
    "blender": ("mcp-for-blender==2.2.4", "mcp-for-blender"),
    "k8s": ("mcp-server-kubernetes==0.1.6 mcp<2", "mcp-server-kubernetes"),
    "cloudwatch": ("awslabs.cloudwatch-mcp-server==0.3.1", "awslabs.cloudwatch-mcp-server"),
    "ha": ("ha-mcp==3.5.1", f"python -c {shlex.quote(HA)}"),
    "anki": ("anki-mcp==0.2.0 mcp<2", "anki-mcp"),
    "pandoc": ("mcp-pandoc==0.11.1", "mcp-pandoc"),
    "jira": ("mcp-atlassian==0.23.1", "mcp-atlassian"),
}
DUMMIES = (
    "OBSIDIAN_API_KEY TRELLO_API_KEY TRELLO_TOKEN TRELLO_API_TOKEN PLEX_TOKEN AWS_ACCESS_KEY_ID "
    "AWS_SECRET_ACCESS_KEY HOMEASSISTANT_TOKEN JIRA_API_TOKEN JIRA_USERNAME"
)
SETTINGS = dict.fromkeys(DUMMIES.split(), "dummy") | {
    "AWS_REGION": "us-east-1",
    "PLEX_URL": "http://127.0.0.1:9",
    "HOMEASSISTANT_URL": "http://127.0.0.1:9",
    "JIRA_URL": "https://example.atlassian.net",
}
NAMED = ("wikipedia", "ha", "jira")
"""Servers whose tools bear its name already. What else they list is left out: second names."""


def installed(folder: Path, server: str, python: str) -> StdioServerParameters:
    """Install a server and return how it is started."""
    programs, (packages, command) = folder / server / "bin", SERVERS[server]
    subprocess.run([python, "-m", "venv", folder / server], check=True)  # noqa: S603
    subprocess.run([programs / "pip", "install", "-q", *packages.split()], check=True)  # noqa: S603
    program, *args = shlex.split(command)
    env = SETTINGS | {"HOME": str(folder), "PATH": f"{programs}:{os.environ['PATH']}"}
    return StdioServerParameters(command=str(programs / program), args=args, env=env, cwd=folder)


async def listed(started: StdioServerParameters, log: TextIO) -> list[Tool]:
    """Return what a server lists."""
    async with (
        asyncio.timeout(60),
        stdio_client(started, errlog=log) as streams,
        ClientSession(*streams) as session,
    ):
        await session.initialize()
        page = await session.list_tools()
        tools = page.tools
        while page.nextCursor:
            page = await session.list_tools(cursor=page.nextCursor)
            tools += page.tools
        return tools


def row(server: str, tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name if server in NAMED else f"{server}_{tool.name}",
        "description": tool.description or "",
        "server": server,
        "arguments": list(tool.inputSchema.get("properties", {})),
    }


def list_all(folder: Path, servers: Iterable[str], python: str) -> None:
    """Write the tools of all servers that start."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for server in servers:
        try:
            started = installed(folder, server, python)
            with (folder / f"{server}.log").open("w") as log:
                tools = asyncio.run(listed(started, log))
        except Exception as error:  # noqa: BLE001  # other people's programs: whatever it is
            print(f"{server}: left out, see {folder / server}.log: {error!r:.200}", flush=True)
            continue
        own = [t for t in tools if server not in NAMED or t.name.startswith(f"{server}_")]
        print(f"{server}: {len(own)} tools", flush=True)
        rows += [row(server, tool) for tool in own]
    if not rows:
        raise SystemExit("no server started")
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    (folder / "tools.json").write_text(text, encoding="utf-8")


def cards_of(tools: Iterable[dict[str, Any]]) -> list[AgentCard]:
    """Return a card a tool, as of a server's list."""
    return agent_cards_from_mcp(
        SimpleNamespace(
            name=tool["name"],
            description=tool["description"],
            inputSchema={"properties": {argument: {} for argument in tool["arguments"]}},
        )
        for tool in tools
    )


def found(rankings: Iterable[Sequence[str]], wanted: list[tuple[str, ...]]) -> dict[str, float]:
    """Return how often a right tool is among the first five and ten of those asked for."""
    asked = [(names, right) for names, right in zip(rankings, wanted, strict=True) if right]
    return {
        f"right_in_{k}": float(np.mean([not set(right).isdisjoint(n[:k]) for n, right in asked]))
        for k in (5, 10)
    }


def ours(
    router: MoMARouter, texts: list[str], wanted: list[tuple[str, ...]], kinds: np.ndarray
) -> dict[str, Any]:
    rankings = router.rank(texts, 10)
    inside = kinds == ""
    right = np.array([r.names[0] in w for r, w in zip(rankings, wanted, strict=True)])
    taken = np.array([r.fits for r in rankings])
    return {
        "right_first": float(right[inside].mean()),
        **found([r.names for r in rankings], wanted),
        "kept_of_right": float(taken[right].mean()),
        "wrong": float((~right & taken)[inside].mean()),
        "caught": {
            "all": float((~taken[~inside]).mean()),
            **{
                kind: float((~taken[kinds == kind]).mean()) for kind in dict.fromkeys(kinds) if kind
            },
        },
        "auroc": float(roc_auc_score(inside, [r.probability for r in rankings])),
    }


def measured(tools: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is found and caught, ours and beside us."""
    cards = cards_of(tools)
    names = {card.name for card in cards}
    written = tomllib.loads(REQUESTS.read_text(encoding="utf-8"))
    asked = {q: tuple(w for w in s.split() if w in names) for q, s in written["asked"].items()}
    kept = {query: right for query, right in asked.items() if right}
    nobody = [(text, kind) for kind, texts in written["nobody"].items() for text in texts]
    texts = [*kept, *(text for text, _ in nobody)]
    wanted = [*kept.values(), *[()] * len(nobody)]
    kinds = np.array([""] * len(kept) + [kind for _, kind in nobody])
    report: dict[str, Any] = {
        "tools": dict(Counter(tool["server"] for tool in tools)),
        "requests": len(kept),
        "requests_left_out": len(asked) - len(kept),
        "nobodys": dict(Counter(kind for _, kind in nobody)),
    }
    routers = {
        "moma": MoMARouter.from_cards(cards, llms=None),
        "moma, no reranker": MoMARouter.from_cards(cards, llms=None, reranker=None),
    }
    report |= {label: ours(router, texts, wanted, kinds) for label, router in routers.items()}
    for label, table in plain(cards, texts).items():
        best = [[cards[j].name for j in row[:10]] for row in (-table).argsort(1, kind="stable")]
        scores = first_and_auroc(table, cards, wanted, kinds == "")
        report[label] = scores | found(best, wanted)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("servers", nargs="*", default=list(SERVERS), help="only these are listed")
    parser.add_argument("--list", type=Path, metavar="FOLDER")
    parser.add_argument("--python", default="python3", help="the Python that servers get")
    parser.add_argument("--tools", type=Path, help="default: FOLDER/tools.json")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "mcp_tools.json")
    options = parser.parse_args()
    if options.list:
        list_all(options.list.absolute(), options.servers, options.python)
    tools = options.tools or (options.list and options.list / "tools.json")
    if not tools:
        parser.error("where are the tools? --list FOLDER lists them, --tools FILE reads them")
    report = {
        "command": "python benchmarks/mcp_tools.py --tools FOLDER/tools.json",
        "load_average": os.getloadavg()[0],
        **measured(json.loads(tools.read_text(encoding="utf-8"))),
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
