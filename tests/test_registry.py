"""One contract over every registry: memory, Chroma in a directory, Chroma on a real server."""

import itertools
import json
import shutil
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from moma_core import AgentCard, ArtifactError, Registry, RegistryError
from moma_core.agents.catalog import AgentCatalog
from moma_core.registry.chroma import ChromaRegistry
from moma_core.registry.files import FileRegistry
from moma_core.registry.location import ChromaServer
from moma_core.registry.memory import MemoryRegistry
from moma_core.testing import REGISTRY_CHECKS, HashEncoder, records, registry_contract

ENCODER = HashEncoder()
_numbers = itertools.count()


def in_directory(path):
    return ChromaRegistry.open(path, ENCODER.fingerprint, ENCODER.dimension)


@pytest.fixture(params=["memory", "files", "directory", "server"])
def registry(request, tmp_path):
    if request.param == "memory":
        return MemoryRegistry()
    if request.param == "files":
        return FileRegistry(tmp_path / "registry", ENCODER.fingerprint)
    if request.param == "directory":
        return in_directory(tmp_path / "registry")
    server = ChromaServer(request.getfixturevalue("chroma_server").url)
    return ChromaRegistry(server, ENCODER.fingerprint, ENCODER.dimension, f"t{next(_numbers)}")


@pytest.mark.parametrize("check", REGISTRY_CHECKS, ids=lambda check: check.__name__)
def test_contract(check, registry):
    check(registry)


def test_meets_the_protocol(registry):
    assert isinstance(registry, Registry)


def test_a_broken_registry_fails_the_contract():
    class Forgetful(MemoryRegistry):
        def put(self, stored):
            super().put([r for r in stored if not r.card.examples])

    with pytest.raises(AssertionError, match="holds"):
        registry_contract(Forgetful)


def test_thousands_of_agents_come_and_go(tmp_path):
    # More than fit one of Chroma's batches, in put and in delete.
    registry = in_directory(tmp_path)
    (one,) = records(AgentCard("one", "does it"))
    cards = [AgentCard(f"agent{i}", "does it") for i in range(5_600)]
    stored = [replace(one, card=card) for card in cards]
    registry.put(stored)
    assert [r.card.name for r in registry.load()] == [card.name for card in cards]
    registry.delete([card.name for card in cards[1:]])
    assert [r.card.name for r in registry.load()] == ["agent0"]


def test_survives_a_restart(tmp_path, python):
    written = python(
        "import sys\n"
        "from moma_core import AgentCard\nfrom moma_core.registry.chroma import ChromaRegistry\n"
        "from moma_core.testing import records\n"
        "registry = ChromaRegistry.open(sys.argv[1], 'hash-64', 64)\n"
        "registry.put(records(AgentCard('one', 'first', examples=('a', 'b')),\n"
        "    AgentCard('gone', 'second'), AgentCard('off', 'third 天气', enabled=False)))\n"
        "registry.delete(['gone'])\n",
        str(tmp_path),
    )
    assert written.returncode == 0, written.stderr
    found = in_directory(tmp_path).load()
    assert [r.card for r in found] == [
        AgentCard("one", "first", examples=("a", "b")),
        AgentCard("off", "third 天气", enabled=False),
    ]
    assert np.allclose(found[0].example_vectors, ENCODER.encode(["a", "b"]), atol=1e-5)


def test_a_directory_is_read_with_what_another_process_wrote(tmp_path, python):
    mine, beside = in_directory(tmp_path), in_directory(tmp_path)  # they share Chroma's client
    mine.put(records(AgentCard("one", "first", examples=("a",)), AgentCard("gone", "was here")))
    assert len(mine.load()) == len(beside.load()) == 2
    cards = (
        AgentCard("one", "another meaning"),
        AgentCard("two", "second", examples=("b", "c")),
    )
    written = python(
        "import sys\n"
        "from moma_core import AgentCard\nfrom moma_core.registry.chroma import ChromaRegistry\n"
        "from moma_core.testing import records\n"
        "registry = ChromaRegistry.open(sys.argv[1], 'hash-64', 64)\n"
        "registry.put(records(AgentCard('one', 'another meaning'),\n"
        "    AgentCard('two', 'second', examples=('b', 'c'))))\n"
        "registry.delete(['gone'])\n",
        str(tmp_path),
    )
    assert written.returncode == 0, written.stderr
    mine.put(records(AgentCard("three", "added here, after that", examples=("d",))))
    for registry in (mine, beside, in_directory(tmp_path)):
        found = registry.load()
        assert [each.card.name for each in found] == ["one", "two", "three"]
        for each, expected in zip(found[:2], records(*cards), strict=True):
            assert each.card == expected.card
            assert np.allclose(each.description_vector, expected.description_vector, atol=1e-5)
            assert np.allclose(each.example_vectors, expected.example_vectors, atol=1e-5)


def test_a_relative_path_follows_the_working_directory(tmp_path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        registry = in_directory("registry")
        assert not registry.load()
        registry.put(records(AgentCard(name, "does it")))
        assert (tmp_path / name / "registry" / "chroma.sqlite3").exists()


def test_two_clients_of_a_server_see_the_same(chroma_server):
    first, second = (
        ChromaRegistry.open(chroma_server.url, ENCODER.fingerprint, ENCODER.dimension)
        for _ in range(2)
    )
    stored = records(AgentCard("shared", "seen by both", examples=("x",)))
    first.put(stored)
    assert [r.card for r in second.load()] == [stored[0].card]
    second.delete(["shared"])
    assert not first.load()


def test_a_killed_server_is_an_error_and_memory_keeps_all(chroma_server):
    registry = ChromaRegistry.open(chroma_server.url, ENCODER.fingerprint, ENCODER.dimension)
    catalog = AgentCatalog(ENCODER, registry)
    catalog.add(AgentCard("kept", "was there before", examples=("x",)))
    before = catalog.snapshot
    chroma_server.stop()
    try:
        for change in (
            lambda: catalog.add(AgentCard("new", "comes too late")),
            lambda: catalog.update(AgentCard("kept", "changed")),
            lambda: catalog.disable("kept"),
            lambda: catalog.remove("kept"),
            registry.load,
            lambda: ChromaRegistry.open(chroma_server.url, "hash-64", 64),
        ):
            with pytest.raises(RegistryError, match="chroma run"):
                change()
            assert catalog.snapshot is before
    finally:
        chroma_server.start()
    catalog.add(AgentCard("new", "in time again"))
    assert AgentCatalog(ENCODER, registry).names == ("kept", "new")
    catalog.remove("kept", "new")


def test_vectors_of_another_encoder_are_refused(tmp_path):
    in_directory(tmp_path).put(records(AgentCard("a", "does it")))
    with pytest.raises(ArtifactError, match=r"'hash-64'.*'another'"):
        ChromaRegistry.open(tmp_path, "another", 64)


@pytest.mark.parametrize("content", [b"garbage " * 2_000, b"SQLite format 3\x00" + b"\x00" * 5_000])
def test_a_corrupt_database_is_an_error(tmp_path, content):
    (tmp_path / "chroma.sqlite3").write_bytes(content)
    with pytest.raises(RegistryError):
        in_directory(tmp_path)


def test_a_truncated_database_is_an_error_or_complete(tmp_path):
    in_directory(tmp_path / "whole").put(
        records(*(AgentCard(f"agent{i}", "does it", examples=("x",)) for i in range(50)))
    )
    for share in (0.2, 0.5, 0.8):
        copy = tmp_path / f"cut{share}"
        shutil.copytree(tmp_path / "whole", copy)
        database = copy / "chroma.sqlite3"
        content = database.read_bytes()
        database.write_bytes(content[: int(share * len(content))])
        with suppress(RegistryError):
            assert len(in_directory(copy).load()) == 50


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RegistryError, match="open"):
        in_directory(tmp_path / "file" / "registry")
    with pytest.raises(RegistryError, match="open"):
        in_directory(tmp_path / "file")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://127.0.0.1:port", "http://"])
def test_a_server_that_is_not_there_is_an_error(url):
    with pytest.raises(RegistryError):
        ChromaRegistry.open(url, "hash-64", 64)


def test_no_telemetry_and_no_embedding_function(tmp_path, python):
    """Chroma's own encoder would be downloaded; ours must never ask for it."""
    done = python(
        "import sys, json\n"
        "from moma_core import AgentCard\nfrom moma_core.registry.chroma import ChromaRegistry\n"
        "from moma_core.testing import records\n"
        "registry = ChromaRegistry.open(sys.argv[1], 'hash-64', 64)\n"
        "registry.put(records(AgentCard('one', 'first', examples=('a',))))\n"
        "registry.load()\n"
        "print(json.dumps([m for m in ('onnxruntime', 'posthog', 'torch') if m in sys.modules]))\n",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "onnxruntime" not in json.loads(done.stdout)
    assert not done.stderr


def test_a_full_disk_is_an_error(tmp_path, python):
    """RLIMIT_FSIZE stands for the full disk: writes beyond it fail with EFBIG."""
    done = python(
        "import resource, signal, sys\n"
        "from moma_core import AgentCard, RegistryError\n"
        "from moma_core.agents.catalog import AgentCatalog\n"
        "from moma_core.registry.chroma import ChromaRegistry\n"
        "from moma_core.testing import HashEncoder\n"
        "catalog = AgentCatalog(HashEncoder(), ChromaRegistry.open(sys.argv[1], 'hash-64', 64))\n"
        "catalog.add(AgentCard('kept', 'was there before'))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    catalog.add(*(AgentCard(f'agent{i}', 'x' * 8000) for i in range(500)))\n"
        "except RegistryError as error:\n"
        "    assert catalog.names == ('kept',), catalog.names\n"
        "    print(error)\n",
        str(tmp_path),
    )
    assert "No room is left on the disk" in done.stdout, done.stdout + done.stderr[-2_000:]
    assert "damaged" not in done.stdout
    assert [r.card.name for r in in_directory(tmp_path).load()] == ["kept"]


def test_files_survive_a_restart_and_tell_of_damage(tmp_path):
    stored = records(AgentCard("a", "does a", examples=("do a",)), AgentCard("b", "does b"))
    FileRegistry(tmp_path, "mine").put(stored)
    again = FileRegistry(tmp_path, "mine")
    assert [record.card for record in again.load()] == [record.card for record in stored]
    again.delete(["a"])
    (left,) = FileRegistry(tmp_path, "mine").load()
    assert left.card.name == "b"
    assert left.example_vectors.shape == (0, left.description_vector.size)
    with pytest.raises(RegistryError, match="another"):
        FileRegistry(tmp_path, "another")
    (tmp_path / "agents.json").write_bytes(b"{")
    with pytest.raises(RegistryError, match="cut off"):
        FileRegistry(tmp_path, "mine")
