"""Is the package whole when it is installed from its wheel, and how heavy is it?

    python benchmarks/installed.py [base train ... python3.12]

Builds wheel and sdist, then installs the wheel, bare and with each extra, into an environment of
its own, and there: runs what the extra is for, `pip check`, and, for the base, mypy on a file that
uses the public names. Measures packages, MB and import time. Other Pythons that are on the path are
tried with the base. Writes benchmarks/results/installed.json after each environment.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUT = ROOT / "benchmarks" / "results" / "installed.json"
PYTHONS = ("python3.12", "python3.13")
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


def tried(python: str, wheel: Path, extra: str) -> dict[str, float | str]:
    """Install, run what the extra is for, and measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare, seconds = environment(folder, python, wheel, extra)
        run(bare, "-c", SMOKES[extra], where=folder)
        run(bare, "-m", "pip", "check", where=folder)
        if extra == "base":
            (folder / "consumer.py").write_text(CONSUMER, encoding="utf-8")
            mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", bare)
            run(*mypy, "consumer.py", where=folder)
        listed = json.loads(run(bare, "-m", "pip", "list", "--format=json", where=folder))
        packages = folder / ".venv" / "lib"
        size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
        return {
            "python": re.sub(r"Python |\n", "", run(bare, "--version", where=folder)),
            "packages": len(listed),
            "mb": round(size / 1e6, 1),
            "install_seconds": round(seconds, 1),
            "import_ms": round(import_ms(bare, folder), 1),
        }


def works(python: str) -> bool:
    """Whether there is such a Python; a shim without a version is none."""
    path = shutil.which(python)
    return path is not None and not subprocess.run([path, "-V"], capture_output=True).returncode  # noqa: PLW1510, S603


def main() -> None:
    found = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    wheel, sdist = built()
    found["files"] = {
        kind: round(path.stat().st_size / 1e6, 1)
        for kind, path in (("wheel_mb", wheel), ("sdist_mb", sdist))
    }
    for name in sys.argv[1:] or (*SMOKES, *filter(works, PYTHONS)):
        is_python = name in PYTHONS
        python, extra = (name, "base") if is_python else (sys.executable, name)
        found[name] = tried(python, wheel, extra)
        print(name, json.dumps(found[name]), flush=True)
        OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
