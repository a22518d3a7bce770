"""What a newcomer meets: files, lines, names, and how many files one call crosses.

    python benchmarks/house.py [--root PATH]

Counts the three packages below a checkout's root (default: this one) and traces, in a process of
its own, one `route` to an agent, one to an LLM, and adding an agent: functions called, files they
lie in, and changes of file from one call to the next. Prints JSON; no data is needed.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from pathlib import Path

PACKAGES = ("moma_core", "langchain_moma", "llamaindex_moma")
TRACED = """
import sys, json
from pathlib import Path
from moma_core import AgentCard, MoMARouter
root = str(Path(sys.argv[1]).resolve())
cards = [AgentCard("weather", "Weather forecast for a place",
                   examples=("will it rain in Oslo?", "how warm is it outside?")),
         AgentCard("translator", "Translates text", examples=("say hello in French",))]
router = MoMARouter.from_cards(cards)
asked = {"agent": "will it rain tomorrow?", "llm": "Prove that there are infinitely many primes."}
for text in asked.values():
    router.route(text)

def traced(call):
    calls, walk = [], []
    def seen(frame, event, arg):
        path = frame.f_code.co_filename
        name = frame.f_code.co_name
        if event == "call" and path.startswith(root) and ".venv" not in path and name[0] != "<":
            calls.append(path)
            walk.append(path[len(root) + 1:] + ":" + name)
    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    changes = sum(a != b for a, b in zip(calls, calls[1:]))
    return {"calls": len(calls), "files": len(set(calls)), "changes_of_file": changes,
            "walk": list(dict.fromkeys(walk))}

found = {name: traced(lambda: router.route(text)) for name, text in asked.items()}
found["add"] = traced(lambda: router.agents.add(AgentCard("news", "Reads the news")))
print(json.dumps(found))
"""


def preamble(tree: ast.Module) -> int:
    """Return the lines of module docstring, imports and ``__all__``."""
    taken = 0
    for node in tree.body:
        is_doc = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        if is_doc or is_names or isinstance(node, ast.Import | ast.ImportFrom):
            taken += (node.end_lineno or node.lineno) - node.lineno + 1
    return taken


def public_names(path: Path) -> int:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return len(ast.literal_eval(node.value))
    return 0


def counted(root: Path) -> dict[str, object]:
    files = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    lines = {path: len(text.splitlines()) for path, text in texts.items()}
    trees = [ast.parse(text) for text in texts.values()]
    longest = max(lines, key=lambda path: lines[path])
    return {
        "files": len(files),
        "lines": sum(lines.values()),
        "preamble_share": round(sum(map(preamble, trees)) / sum(lines.values()), 3),
        "longest": [str(longest.relative_to(root)), lines[longest]],
        "below_60_lines": sum(count < 60 for count in lines.values()),
        "public_names": {p: public_names(root / p / "__init__.py") for p in PACKAGES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    root = parser.parse_args().root.resolve()
    done = subprocess.run(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-c", TRACED, str(root)], cwd=root, env={"PYTHONPATH": str(root)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    print(json.dumps({**counted(root), "route": json.loads(done.stdout)}, indent=1))


if __name__ == "__main__":
    main()
