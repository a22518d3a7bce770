r"""About 200 real tools of six MCP servers from PyPI, listed, routed and called over stdio.

    pip install mcp-server-time mcp-server-git excel-mcp-server office-word-mcp-server \
        office-powerpoint-mcp-server mcp-server-apache-airflow      # in an environment of their own
    python benchmarks/mcp_servers.py --bin ENVIRONMENT/bin [--out FILE.json]

The servers are other people's; each is started as its own child. Names lead with the server's, as
with ``tool_name_prefix=True``: word and slides both have ``add_table``. The requests were written
from the servers' lists of names, before anything was ranked, and nothing was chosen on them; a few
tools do the same, so some requests have several right answers. No examples: descriptions alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_mcp_adapters.client import MultiServerMCPClient

from langchain_moma import MoMAMiddleware, agent_cards_from_tools, sync_agents
from langchain_moma.testing import ScriptedChat
from moma_core import MoMARouter
from moma_core.errors import DuplicateNameError

SERVERS = {
    "time": ["mcp-server-time"],
    "git": ["mcp-server-git"],
    "excel": ["excel-mcp-server", "stdio"],
    "word": ["word_mcp_server"],
    "slides": ["ppt_mcp_server"],
    "airflow": ["mcp-server-apache-airflow"],
}
REQUESTS = {
    "what time is it in Tokyo right now?": "time_get_current_time",
    "convert 14:30 from Berlin time to New York": "time_convert_time",
    "which files have I changed and not committed?": "git_git_status git_git_diff_unstaged",
    "show me the last ten commits": "git_git_log",
    "make a new branch called fix-login": "git_git_create_branch",
    "switch to the main branch": "git_git_checkout",
    "stage README.md": "git_git_add",
    "commit the staged changes with the message 'typo'": "git_git_commit",
    "put the formula SUM(A1:A10) into cell B1": "excel_apply_formula",
    "make a pivot table of sales by region": "excel_create_pivot_table",
    "draw a bar chart from the numbers in my workbook": "excel_create_chart",
    "delete the worksheet called Old": "excel_delete_worksheet",
    "rename the sheet Sheet1 to Budget": "excel_rename_worksheet",
    "insert three rows above row 5 of the spreadsheet": "excel_insert_rows",
    "read the cells A1 to D20 of budget.xlsx": "excel_read_data_from_excel",
    "unmerge the cells A1 to C1": "excel_unmerge_cells",
    "replace 'Ltd' by 'Inc' everywhere in contract.docx": "word_search_and_replace",
    "add a footnote to the second paragraph of my Word document": (
        "word_add_footnote_to_document word_add_footnote_after_text word_add_footnote_robust "
        "word_add_footnote_before_text word_add_footnote_enhanced"
    ),
    "turn report.docx into a PDF": "word_convert_to_pdf",
    "protect the document with a password": "word_protect_document",
    "insert a page break at the end of the document": "word_add_page_break",
    "who commented on the document? list all comments": "word_get_all_comments",
    "put a heading 'Results' into the document": "word_add_heading",
    "make the columns of the table fit their content": "word_auto_fit_table_columns",
    "add a slide to my presentation": "slides_add_slide",
    "put bullet points on slide 3": "slides_add_bullet_points",
    "add a fade transition between the slides": "slides_manage_slide_transitions",
    "read all the text out of deck.pptx": "slides_extract_presentation_text",
    "link the logo on the slide to our website": "slides_manage_hyperlinks",
    "save the presentation": "slides_save_presentation",
    "draw an arrow between two shapes on the slide": "slides_add_connector",
    "pause the DAG nightly_import": "airflow_pause_dag",
    "start a run of the DAG daily_report": "airflow_post_dag_run",
    "show the log of the task that failed in Airflow": "airflow_get_log",
    "which DAGs failed to import?": "airflow_get_import_errors",
    "set the Airflow variable api_url to localhost": (
        "airflow_create_variable airflow_update_variable"
    ),
    "what version of Airflow is running?": "airflow_get_version",
    "list all pools": "airflow_get_pools",
    "delete the connection to the old database": "airflow_delete_connection",
    "is the Airflow scheduler healthy?": "airflow_get_health",
    "which XCom values did the task push?": "airflow_get_xcom_entries airflow_get_xcom_entry",
}
NOBODYS = (
    "write a poem about autumn",
    "what is the capital of Peru?",
    "explain quantum entanglement",
    "tell me a joke about cats",
)


def connections(programs: Path) -> dict[str, Any]:
    env = {"PATH": os.environ["PATH"], "AIRFLOW_HOST": "http://127.0.0.1:9"}
    return {
        name: {
            "transport": "stdio", "command": str(programs / command), "args": args, "env": env,
        }
        for name, (command, *args) in SERVERS.items()
    }  # fmt: skip


def ranked(router: MoMARouter) -> dict[str, Any]:
    """Return how well requests find their tools."""
    rankings = router.rank(list(REQUESTS), 8)
    right = [set(names.split()) for names in REQUESTS.values()]
    pairs = list(zip(rankings, right, strict=True))
    first = [ranking.names[0] in wanted for ranking, wanted in pairs]
    among = [bool(wanted.intersection(ranking.names)) for ranking, wanted in pairs]
    misses = {q: r.names[0] for q, r, hit in zip(REQUESTS, rankings, first, strict=True) if not hit}
    return {
        "requests": len(first),
        "right_first": sum(first) / len(first),
        "right_in_8": sum(among) / len(among),
        "first_when_wrong": misses,
        "nobodys_that_fit": [q for q in NOBODYS if router.rank(q).fits],
    }


async def called(router: MoMARouter, tools: list[Any]) -> dict[str, str]:
    """Let an agent call three servers' tools for real, and return what they say."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "init", "-q", folder], check=True)  # noqa: S603, S607
        asked: dict[str, tuple[str, dict[str, Any]]] = {
            "what time is it in Tokyo right now?": (
                "time_get_current_time",
                {"timezone": "Asia/Tokyo"},
            ),
            "which files have I changed and not committed?": (
                "git_git_status",
                {"repo_path": folder},
            ),
            "create a new Excel workbook": (
                "excel_create_workbook",
                {"filepath": f"{folder}/new.xlsx"},
            ),
        }

        def reply(messages: Any, bound: Any, choice: Any) -> AIMessage | str:  # noqa: ARG001
            if not isinstance(messages[-1], HumanMessage):
                return str(messages[-1].text)
            name, args = asked[str(messages[-1].text)]
            return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "1"}])

        llm = ScriptedChat(reply=reply)
        agent = create_agent(llm, tools, middleware=[MoMAMiddleware(router, max_tools=8)])
        said = {}
        for text, (name, _) in asked.items():
            end = await agent.ainvoke({"messages": text})
            said[name] = str(end["messages"][-1].text)[:120].replace(folder, "FOLDER")
        return said


async def unprefixed(servers: dict[str, Any]) -> str:
    """Return what is said of two servers' tools of one name."""
    try:
        agent_cards_from_tools(await MultiServerMCPClient(servers).get_tools())
    except DuplicateNameError as error:
        return str(error)
    return ""


def started(tools: list[Any], folder: str) -> tuple[MoMARouter, float, float]:
    """Return a router over all servers' tools, and the seconds of its first and second start."""
    start = time.perf_counter()
    with MoMARouter.from_cards(llms=None, path=folder) as router:
        for name in SERVERS:
            own = [tool for tool in tools if tool.name.startswith(f"{name}_")]
            sync_agents(router.agents, agent_cards_from_tools(own), source=name)
        router.rank("warm up")
    first = time.perf_counter() - start
    start = time.perf_counter()
    router = MoMARouter.from_cards(agent_cards_from_tools(tools), llms=None, path=folder)
    router.rank("warm up")
    return router, first, time.perf_counter() - start


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mcp_servers.json"))
    options = parser.parse_args()
    servers = connections(options.bin.absolute())
    start = time.perf_counter()
    tools = await MultiServerMCPClient(servers, tool_name_prefix=True).get_tools()
    listed = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        router, first, second = started(tools, folder)
        report = {
            "command": "python benchmarks/mcp_servers.py --bin BIN",
            "load_average": os.getloadavg()[0],
            "tools": {name: sum(t.name.startswith(f"{name}_") for t in tools) for name in SERVERS},
            "listing_seconds": listed,
            "without_prefix": await unprefixed(servers),
            "first_start_seconds": first,
            "second_start_seconds": second,
            **ranked(router),
            "called": await called(router, tools),
        }
        router.close()
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
