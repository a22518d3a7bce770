"""The package from outside: what importing costs, what is public, what is documented."""

import ast
import importlib
import inspect
import json
import pkgutil
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import moma_core

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "chromadb", "transformers", "sklearn", "scipy", "onnxruntime", "pyarrow")
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(moma_core.__path__, moma_core.__name__ + ".")
)


def test_importing_loads_nothing_heavy(python):
    done = python(
        "import sys, json, moma_core, moma_core.types, moma_core.errors, moma_core.protocols\n"
        "moma_core.AgentCard, moma_core.Query, moma_core.MoMAError\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_importing_the_parts_loads_no_chroma_and_no_torch(python):
    done = python(
        "import sys, json\n"
        "from moma_core import MoMARouter, LLMRouter, RoutingEncoder, StateMachine\n"
        "print(json.dumps([n for n in ('torch', 'chromadb', 'transformers') if n in sys.modules]))"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_a_router_in_memory_routes_saves_and_loads_without_chroma(python, tmp_path):
    done = python(
        "import sys\n"
        "from moma_core import AgentCard, MoMARouter\n"
        "from moma_core.testing import HashEncoder\n"
        "cards = [AgentCard('rain', 'rain and snow'), AgentCard('sums', 'adds numbers')]\n"
        "router = MoMARouter.from_cards(cards, encoder=HashEncoder(), llms=None)\n"
        "router.save(sys.argv[1])\n"
        "router = MoMARouter.load(sys.argv[1], encoder=HashEncoder())\n"
        "router.agents.disable('sums')\n"
        "router = MoMARouter.load(sys.argv[1], encoder=HashEncoder())\n"
        "print(router.rank('adds rain').names, 'chromadb' in sys.modules)",
        str(tmp_path / "router"),
    )
    assert (done.returncode, done.stdout.strip()) == (0, "('rain',) False"), done.stderr


def test_importing_is_quick(python):
    def best(code):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            assert python(code).returncode == 0
            times.append(time.perf_counter() - start)
        return min(times)

    assert best("import moma_core") - best("pass") < 0.3


def test_exported_names():
    names = moma_core.__all__
    assert names == sorted(names)
    assert len(names) == len(set(names))
    assert dir(moma_core) == names
    aliases = {"Preference"}  # of types that have other names, or none
    for name in names:
        assert name in aliases or getattr(moma_core, name).__name__ == name
        assert getattr(moma_core, name) is not None
    tree = ast.parse((ROOT / "moma_core" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name for node in block.body for alias in node.names}
    assert typed == set(names), "TYPE_CHECKING imports and __all__ differ"


def test_a_newcomer_can_read_all_public_names():
    assert len(moma_core.__all__) <= 35


def test_everything_public_is_there_without_an_extra(python):
    done = python("import sys\nfrom moma_core import *\nprint('torch' in sys.modules)")
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


@pytest.mark.parametrize("adapter", ["langchain_moma", "llamaindex_moma"])
def test_adapters_import_listed_names_only(adapter):
    private = []
    for path in (ROOT / adapter).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moma_core"):
                home = importlib.import_module(node.module)
                listed = {alias.name for alias in node.names} <= set(home.__all__)
                if not listed or "._" in node.module:
                    private.append((path.name, node.module))
    assert private == []


def test_the_wheel_stays_small():
    folders = ("moma_core", "langchain_moma", "llamaindex_moma", "examples/moma_demo")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files if "__pycache__" not in path.parts)
    assert size < 45e6, "before compression; asked for is a wheel of at most 45 MB"


def test_whatever_is_packaged_is_in_the_notice():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for path in (ROOT / "moma_core" / "packaged").rglob("*.*"):
        assert path.name in notice, f"say in NOTICE where {path} comes from"


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = moma_core.nothing


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_documented_and_list_their_names(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    public = getattr(module, "__all__", None)
    if public is None and hasattr(module, "__path__"):
        return  # a folder: its files list their names
    assert public is not None, f"{name} has no __all__"
    assert sorted(public) == sorted(set(public))
    for label in public:
        thing = getattr(module, label)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        assert thing.__doc__, f"{name}.{label} has no docstring"
        assert not thing.__doc__.startswith(f"{label}("), f"{name}.{label} has a generated one"
        for method, function in vars(thing).items() if inspect.isclass(thing) else ():
            plain = function.fget if isinstance(function, property) else function
            if inspect.isfunction(plain) and not method.startswith("_"):
                assert inspect.getdoc(getattr(thing, method)), f"{name}.{label}.{method}"


def test_the_error_tree_is_drawn_in_full():
    from moma_core import errors

    for name in set(errors.__all__) - {"needs_extra"}:
        assert name in errors.__doc__
        error = getattr(errors, name)
        assert issubclass(error, moma_core.MoMAError)


def test_floors():
    program = shutil.which("lint-imports") or str(Path(sys.executable).with_name("lint-imports"))
    if not Path(program).exists():
        pytest.skip("import-linter is not installed (pip install --group lint)")
    done = subprocess.run(  # noqa: S603
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
