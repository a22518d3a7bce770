"""Is the package whole when it is installed from its wheel, and how heavy is it?

    python benchmarks/installed.py [base train ... "python3.12 langchain"]

Builds wheel and sdist, then installs the wheel, bare and with each extra, into an environment of
its own, and there: runs what the extra is for, the command line, `pip check`, and, for the base,
mypy on a file that uses the public names. Measures packages, MB and import time. Other Pythons, on
the path or pyenv's, are tried with the base, the [langchain] and the [llamaindex] extra, and there
the sdist's tests run too, against the installed wheel.
Writes benchmarks/results/installed.json after each environment.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUT = ROOT / "benchmarks" / "results" / "installed.json"
PYTHONS = ("python3.12", "python3.13")
TESTS = {
    "base": "advice agent_router agent_scope call_costs catalog categories cli_config cli_doctor "
    "cold_start composite_states conformal conversation encoder fallback followups gate health "
    "hints llm_routing notebook own_llms package places question rank ranker readers registry "
    "reliability report router saving selection several states states_toml tables telemetry types "
    "waiting_agents",
    "langchain": "langchain_cards langchain_chat langchain_cascade langchain_middleware "
    "langchain_tools langchain_runnable langchain_route_tool langgraph_node langgraph_parts "
    "langgraph_waiting",
    "llamaindex": "llamaindex_choices llamaindex_engines llamaindex_llm llamaindex_selector "
    "llamaindex_tools llamaindex_workflow",
}
NEEDED = ("pytest", "pytest-asyncio", "hypothesis", "pyarrow", "matplotlib")
NO_TORCH = "not decoding and not accelerated"
ROUTE = """
from moma_core import AgentCard, MoMARouter
cards = [AgentCard("weather", "Weather forecast"), AgentCard("bank", "Money")]
router = MoMARouter.from_cards(cards)
assert router.route("will it rain?", min_probability=0.1).target == "weather"
assert router.route("prove that e is irrational").kind == "llm"
"""
CONSUMER = """
from moma_core import AgentCard, LLMCard, MoMARouter, RoutingDecision

router: MoMARouter = MoMARouter.from_cards(
    [AgentCard("weather", "Weather forecast", examples=("rain?",))], llms=[LLMCard("a", 0.1, 0.4)]
)
decision: RoutingDecision = router.route("rain?", preference="cost")
name: str = decision.target
names: tuple[str, ...] = router.rank("rain?", k=2).names
"""
REFUSED = """
import importlib
for adapter in ("langchain_moma", "llamaindex_moma"):
    try:
        importlib.import_module(adapter)
    except ImportError as error:
        assert 'pip install "moma-router[' in str(error), error
    else:
        raise SystemExit(adapter)
"""
TRAIN = """
import pyarrow as pa, pyarrow.parquet as pq, subprocess, sys, pathlib
pq.write_table(pa.table({"name": ["weather"], "description": ["Weather forecast"]}), "a.parquet")
moma = pathlib.Path(sys.executable).with_name("moma")
subprocess.run([moma, "agents", "add", "--from", "a.parquet"], check=True)
"""
PLOTS = """
from moma_core.training.plots import draw_usage
draw_usage({"usage": {"auto": {"a": 0.5, "b": 0.5}}}, "usage.svg")
"""
LANGCHAIN = """
import pathlib, subprocess, sys
moma = pathlib.Path(sys.executable).with_name("moma")
told = subprocess.run([moma, "demo"], check=True, capture_output=True, text=True).stdout
assert "moma-router[plots]" in told, told
"""
LLAMAINDEX = """
from llama_index.core.tools import ToolMetadata
from llamaindex_moma import MoMASelector
choices = [ToolMetadata("Research papers", "papers"), ToolMetadata("Rules on leave", "handbook")]
assert MoMASelector().select(choices, "how many days of leave?").ind == 1
"""
LLM = """
from moma_core.decoding.local_llm import LocalLLM
from moma_core.decoding.mask import NameMask
from moma_core import MissingExtraError, MoMAError
try:
    LocalLLM.load("smollm2")
except MoMAError as error:
    assert "moma local-llm install smollm2" in str(error), error
"""
MULTILINGUAL = """
from moma_core import AgentCard, MoMARouter
cards = [AgentCard("weather", "Wettervorhersage"), AgentCard("bank", "Kontostand")]
router = MoMARouter.from_cards(cards, encoder="multilingual")
assert router.rank("¿lloverá mañana en Madrid?").names[0] == "weather"
"""
SMOKES = {
    "base": ROUTE + REFUSED,
    "train": TRAIN,
    "plots": PLOTS,
    "langchain": LANGCHAIN,
    "llamaindex": LLAMAINDEX,
    "llm": LLM,
    "multilingual": MULTILINGUAL,
}


COMMANDS = (
    ("--version",),
    ("agents", "add", "weather", "Weather forecast for a place"),
    ("agents", "add", "bank", "What is on an account, and transfers"),
    ("route", "will it rain in Oslo tomorrow?", "--json"),
    ("agents", "lint", "--json"),
)


def run(*words: str | Path, where: Path) -> str:
    """Run a program to its end; its output is the error's when it fails."""
    done = subprocess.run(words, cwd=where, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))[:300]}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def built() -> tuple[Path, Path]:
    """Build into dist/ and return wheel and sdist."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    run(sys.executable, "-m", "build", "--installer", "pip", "--outdir", "dist", ".", where=ROOT)
    [wheel] = (ROOT / "dist").glob("*.whl")
    [sdist] = (ROOT / "dist").glob("*.tar.gz")
    return wheel, sdist


def environment(folder: Path, python: str, wheel: Path, extra: str) -> tuple[Path, float]:
    """Return a fresh environment's Python with the wheel installed, and the seconds it took."""
    start = time.perf_counter()
    run(python, "-m", "venv", ".venv", where=folder)
    bare = folder / ".venv" / "bin" / "python"
    wanted = f"{wheel}[{extra}]" if extra != "base" else str(wheel)
    pinned = ("-c", ROOT / "constraints.txt")
    run(
        bare,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        *pinned,
        wanted,
        where=folder,
    )
    return bare, time.perf_counter() - start


def import_ms(bare: Path, folder: Path) -> float:
    """Return the least of five imports' time beyond starting Python."""

    def least(code: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            run(bare, "-c", code, where=folder)
            times.append(time.perf_counter() - start)
        return 1000 * min(times)

    return least("import moma_core") - least("pass")


def tested(bare: Path, sdist: Path, extra: str, folder: Path) -> str:
    """Run the sdist's tests against what is installed; return pytest's last line."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    [source] = folder.glob("moma_router-*")
    pinned = ("-c", ROOT / "constraints.txt")
    pip = (bare, "-m", "pip", "install", "-q", "--disable-pip-version-check", *pinned)
    run(*pip, *NEEDED, where=folder)
    files = [f"tests/test_{name}.py" for name in TESTS[extra].split()]
    options = ("-q", "-o", "addopts=", "--import-mode=importlib", "-k", NO_TORCH)
    said = run(bare.with_name("pytest"), *options, *files, where=source)
    return said.strip().splitlines()[-1]


def tried(python: str, wheel: Path, extra: str, sdist: Path | None) -> dict[str, float | str]:
    """Install, run what the extra is for, and measure; with an sdist, its tests too."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare, seconds = environment(folder, python, wheel, extra)
        run(bare, "-c", SMOKES[extra], where=folder)
        run(bare, "-m", "pip", "check", where=folder)
        for words in COMMANDS:
            run(bare.with_name("moma"), *words, where=folder)
        if extra == "base":
            (folder / "consumer.py").write_text(CONSUMER, encoding="utf-8")
            mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", bare)
            run(*mypy, "consumer.py", where=folder)
        listed = json.loads(run(bare, "-m", "pip", "list", "--format=json", where=folder))
        packages = folder / ".venv" / "lib"
        size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
        found: dict[str, float | str] = {
            "python": re.sub(r"Python |\n", "", run(bare, "--version", where=folder)),
            "packages": len(listed),
            "mb": round(size / 1e6, 1),
            "install_seconds": round(seconds, 1),
            "import_ms": round(import_ms(bare, folder), 1),
        }
        return found if sdist is None else {**found, "tests": tested(bare, sdist, extra, folder)}


def interpreter(name: str) -> str | None:
    """Return the path of such a Python; a shim without a version is none."""
    owned = Path.home().glob(f".pyenv/versions/*/bin/{name}")
    for path in (shutil.which(name), *map(str, owned)):
        if path and not subprocess.run([path, "-V"], capture_output=True).returncode:  # noqa: PLW1510, S603
            return path
    return None


def main() -> None:
    found = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    wheel, sdist = built()
    found["files"] = {
        kind: round(path.stat().st_size / 1e6, 1)
        for kind, path in (("wheel_mb", wheel), ("sdist_mb", sdist))
    }
    others = [f"{python} {extra}" for python in PYTHONS if interpreter(python) for extra in TESTS]
    for name in sys.argv[1:] or (*SMOKES, *others):
        python, _, extra = name.rpartition(" ")
        path = interpreter(python) if python else sys.executable
        if path is None:
            raise SystemExit(f"there is no {python}")
        found[name] = tried(path, wheel, extra, sdist if python else None)
        print(name, json.dumps(found[name]), flush=True)
        OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
