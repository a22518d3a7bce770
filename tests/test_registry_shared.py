"""Many write one registry: threads, processes, forks; nothing is lost, nobody waits for ever."""

import fcntl
import gc
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from moma_core import AgentCard, MoMARouter, RegistryError
from moma_core.agents.catalog import AgentCatalog, Changes
from moma_core.errors import ConflictError
from moma_core.registry.chroma import ChromaRegistry
from moma_core.registry.files import FileRegistry
from moma_core.registry.location import ChromaServer
from moma_core.registry.memory import MemoryRegistry
from moma_core.testing import HashEncoder, records

ENCODER = HashEncoder()
ONE = AgentCard("one", "rain snow wind", examples=("rain",))


@pytest.fixture(params=["memory", "files", "directory", "server"])
def opened(request, tmp_path):
    """Opens one store again and again, as other processes would."""
    shared = MemoryRegistry()
    catalogs = []

    def open_catalog():
        if request.param == "memory":
            registry = shared
        elif request.param == "files":
            registry = FileRegistry(tmp_path / "registry", ENCODER.fingerprint)
        elif request.param == "directory":
            registry = ChromaRegistry(tmp_path / "registry", ENCODER.fingerprint, 64)
        else:
            url = request.getfixturevalue("chroma_server").url
            registry = ChromaRegistry(ChromaServer(url), ENCODER.fingerprint, 64, "shared")
        catalogs.append(AgentCatalog(ENCODER, registry, refresh_every=None))
        return catalogs[-1]

    yield open_catalog
    catalogs[-1].refresh()
    catalogs[-1].remove(*catalogs[-1].names)
    for catalog in catalogs:
        catalog.close()


def test_what_was_disabled_stays_so_when_the_program_starts_again(opened):
    opened().put(ONE)
    opened().disable("one")
    again = opened()
    again.put(replace(ONE, description="rain and hail"))
    assert [(c.description, c.enabled) for c in opened()] == [("rain and hail", False)]
    again.update(replace(again.get("one"), enabled=True))  # asked for by name
    assert opened().get("one").enabled


def test_a_switch_is_written_whatever_memory_says(opened):
    opened().put(ONE)
    stale, other = opened(), opened()
    other.disable("one")
    assert stale.get("one").enabled
    stale.enable("one")
    assert opened().get("one").enabled
    other.disable("one")
    assert not opened().get("one").enabled


def test_changes_of_different_fields_are_merged(opened):
    opened().put(ONE)
    first, second = opened(), opened()
    first.update(replace(ONE, description="hail"))
    second.disable("one")
    second.update(replace(second.get("one"), examples=("storm",)))
    [card] = opened()
    assert (card.description, card.examples, card.enabled) == ("hail", ("storm",), False)


def test_a_change_of_the_same_field_is_refused_and_says_who_was_first(opened):
    opened().put(ONE, AgentCard("other", "waits"))
    first, second = opened(), opened()
    first.update(replace(ONE, description="hail"))
    with pytest.raises(ConflictError, match=rf"'one' was written by .*:{os.getpid()} at 20"):
        second.update(
            replace(ONE, description="sun"), replace(second.get("other"), examples=("x",))
        )
    assert opened().get("one").description == "hail"
    assert second.get("one").description == "hail"  # it has read it again
    second.update(replace(second.get("one"), description="sun"))
    assert opened().get("one").description == "sun"


def test_a_change_of_what_another_removed_is_refused(opened):
    opened().put(ONE)
    first, second = opened(), opened()
    first.remove("one")
    with pytest.raises(ConflictError, match="removed by another"):
        second.update(replace(ONE, description="sun"))
    assert not len(opened())
    second.put(ONE)
    assert opened().names == ("one",)


def test_two_that_register_the_same_agree_and_two_that_differ_do_not(opened):
    first, second, third = opened(), opened(), opened()
    first.put(ONE)
    second.put(ONE)
    assert second.names == ("one",)
    with pytest.raises(ConflictError, match="written by"):
        third.add(replace(ONE, description="sun"))
    assert opened().get("one").description == ONE.description


def test_refresh_says_what_changed(opened):
    mine = opened()
    mine.put(ONE, AgentCard("two", "sum times"), AgentCard("three", "loan"))
    other = opened()
    assert not mine.refresh()
    before = mine.snapshot
    other.remove("two")
    other.disable("one")
    other.add(AgentCard("four", "paint"))
    assert mine.refresh() == Changes(("four",), ("two",), ("one",))
    assert mine.refresh() == Changes()
    assert mine.snapshot.records[1] is before.records[2]  # what is the same is not read into anew


def test_who_asked_is_told_of_what_others_changed(opened, caplog):
    mine, other, told = opened(), opened(), []
    mine.on_change(lambda changes: 1 / 0)
    mine.on_change(told.append)
    with pytest.raises(ValueError, match="function"):
        mine.on_change("print")
    other.put(ONE)
    mine.refresh()
    mine.refresh()
    mine.disable("one")  # its own changes it knows
    mine.refresh()
    assert told == [Changes(("one",), (), ())]
    assert "ZeroDivisionError" in caplog.text


def test_threads_write_the_same_names_through_catalogs_of_their_own(opened):
    cards = [AgentCard(f"a{i}", f"topic {i}", examples=(f"q {i}", f"p {i}")) for i in range(8)]
    opened().put(*cards)
    for version in (1, 2):
        catalogs = [opened(), opened()]
        changed = [replace(card, description=f"{card.name} v{version}") for card in cards]
        failures = together(lambda c, new=changed: c.put(*new), catalogs)
        assert not failures
        assert [card.description for card in opened()] == [c.description for c in changed]


def together(do, catalogs):
    failures, barrier = [], threading.Barrier(len(catalogs))

    def run(catalog):
        barrier.wait()
        try:
            do(catalog)
        except Exception as error:  # noqa: BLE001 - reported by the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=(catalog,)) for catalog in catalogs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return failures


def test_of_many_writers_of_one_name_each_is_told_the_truth(opened):
    opened().put(ONE)
    for _ in range(3):
        catalogs = [opened() for _ in range(4)]
        texts = [f"text {i} {time.time_ns()}" for i in range(4)]
        said = dict(zip(map(id, catalogs), texts, strict=True))
        failures = together(
            lambda c, said=said: c.update(replace(c.get("one"), description=said[id(c)])), catalogs
        )
        assert all(isinstance(error, ConflictError) for error in failures)
        assert len(failures) == 3  # one was first, and everybody else was told
        assert opened().get("one").description in texts


WRITER = """
import sys, time
from moma_core import AgentCard
from moma_core.agents.catalog import AgentCatalog
from moma_core.registry.chroma import ChromaRegistry
from moma_core.registry.location import place_of
from moma_core.testing import HashEncoder
name, n = sys.argv[2], 0
catalog = AgentCatalog(HashEncoder(), ChromaRegistry.open(sys.argv[1], "hash-64", 64), None)
while True:
    catalog.put(AgentCard(f"{name}{n}", f"does {n}", examples=("x", "y")))
    catalog.disable(f"{name}{n}")
    if n:
        catalog.remove(f"{name}{n - 1}")
    print(n, flush=True)
    n += 1
"""


def test_processes_killed_in_the_midst_lose_nothing_acknowledged(tmp_path, root_environment):
    mine = AgentCatalog(ENCODER, ChromaRegistry(tmp_path / "r", "hash-64", 64), None)
    mine.put(*(AgentCard(f"mine{i}", "stays") for i in range(5)))
    for round_ in range(3):
        names = [f"p{round_}", f"q{round_}"]
        writers = [
            subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", WRITER, str(tmp_path / "r"), name],
                stdout=subprocess.PIPE,
                text=True,
                env=root_environment,
            )
            for name in names
        ]
        first = [writer.stdout.readline() for writer in writers]  # both are at it
        mine.disable(f"mine{round_}")
        time.sleep(0.1 + 0.13 * round_)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        said = [line + w.communicate()[0] for line, w in zip(first, writers, strict=True)]
        mine.refresh()
        for name, lines in zip(names, said, strict=True):
            n = int(lines.split()[-1])
            assert f"{name}{n - 1}" not in mine
            if f"{name}{n}" not in mine:  # the next step was done, only not told of
                n += 1
            assert not mine.get(f"{name}{n}").enabled
    assert [mine.get(f"mine{i}").enabled for i in range(5)] == [False] * 3 + [True] * 2


@pytest.fixture
def root_environment():
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}


def test_a_damaged_record_is_set_aside_and_the_rest_loads(tmp_path):
    import chromadb

    registry = ChromaRegistry(tmp_path, "hash-64", 64)
    registry.put(records(*(AgentCard(n, f"does {n}", examples=("x",)) for n in "abcd")))
    with chromadb.PersistentClient(path=str(tmp_path)) as client:
        rows = client.get_collection("moma_agents", embedding_function=None)
        rows.update(ids=["1#b"], uris=["{"])
        rows.update(ids=["1#c"], metadatas=[{"number": "many"}])
        rows.add(ids=["odd"], embeddings=[[0.0] * 64], metadatas=[{"x": 1}])
    with pytest.warns(RuntimeWarning, match=r"3 damaged records.*'1#b'"):
        assert [r.card.name for r in registry.load()] == ["a", "d"]
    with pytest.warns(RuntimeWarning, match="damaged"):
        catalog = AgentCatalog(ENCODER, registry, None)
    catalog.put(AgentCard("b", "does b again"))
    with pytest.warns(RuntimeWarning, match="2 damaged"):
        assert {r.card.name for r in registry.load()} == {"a", "d", "b"}
    assert sorted(registry.repair()) == ["1#c", "odd"]
    assert [r.card.name for r in registry.load()] == ["a", "b", "d"]
    assert not registry.repair()


def test_a_damaged_index_is_made_anew(tmp_path):
    registry = ChromaRegistry(tmp_path, "hash-64", 64)
    [one] = records(ONE)
    registry.put([replace(one, card=replace(ONE, name=f"a{i}")) for i in range(1_200)])
    [index] = tmp_path.glob("*/index_metadata.pickle")
    index.write_bytes(index.read_bytes()[:100])
    registry.put([one])
    assert len(registry.load()) == 1_201
    # What a process leaves that was killed as it wrote: a mark, and an index that may be anything.
    for file in tmp_path.glob("*/*"):
        file.write_bytes(b"")
    (tmp_path / ".writing").touch()
    assert len(registry.load()) == 1_201
    registry.switch(["a7"], enabled=False)
    assert not registry.load()[7].card.enabled


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_child_processes_change_and_read(tmp_path, method):
    catalog = AgentCatalog(ENCODER, ChromaRegistry(tmp_path, "hash-64", 64), None)
    catalog.put(ONE, AgentCard("two", "sum times"), AgentCard("three", "loan"))
    context = multiprocessing.get_context(method)
    if method == "fork":
        child = context.Process(target=lambda: in_child(catalog))
    else:
        child = context.Process(target=_in_child_at, args=(tmp_path,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert catalog.refresh() == Changes(("child",), (), ("one",))


@pytest.mark.parametrize("where", ["directory", "server"])
def test_preloaded_workers_honour_a_disable_by_themselves(tmp_path, chroma_server, where):
    """As gunicorn --preload and Celery's prefork do: the parent routes, then forks."""
    path = tmp_path if where == "directory" else chroma_server.url
    router = MoMARouter.from_cards(
        [ONE, AgentCard("two", "sum times", examples=("sum",))],
        path=path,
        encoder=ENCODER,
        llms=None,
        refresh_every=0.1,
    )
    assert router.route("rain").target == "one"

    def work():
        deadline = time.monotonic() + 20
        while router.rank("rain").names[0] == "one":
            assert time.monotonic() < deadline
            time.sleep(0.05)

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=work) for _ in range(2)]
    for child in children:
        child.start()
    router.agents.disable("one")
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    router.agents.remove("one", "two")
    router.close()


def in_child(catalog):
    catalog.disable("one")
    catalog.add(AgentCard("child", "was here", examples=("x",)))
    try:
        catalog.add(AgentCard("child", "again"))
    except ValueError:
        assert len(catalog) == 4
    fresh = AgentCatalog(ENCODER, ChromaRegistry(Path(catalog.registry.location), "hash-64", 64))
    assert fresh.names == catalog.names


def _in_child_at(path):
    in_child(AgentCatalog(ENCODER, ChromaRegistry(path, "hash-64", 64), None))


def test_a_forked_child_asks_a_server_over_its_own_connection(chroma_server):
    server = ChromaServer(chroma_server.url)
    catalog = AgentCatalog(ENCODER, ChromaRegistry(server, "hash-64", 64, "forked"), None)
    catalog.put(ONE)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=catalog.disable, args=("one",)) for _ in range(2)]
    for child in children:
        child.start()
    for _ in range(20):
        assert len(catalog.registry.load()) == 1  # at the same time, on the parent's
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    catalog.refresh()
    assert not catalog.get("one").enabled
    catalog.remove("one")
    catalog.close()


def descriptors_and_threads():
    return tuple(len(list(Path(f"/proc/self/{kind}").iterdir())) for kind in ("fd", "task"))


def test_dropped_routers_leave_no_descriptor_and_no_thread(tmp_path, chroma_server):
    def use(path):
        router = MoMARouter.from_cards([ONE], path=path, encoder=ENCODER, llms=None)
        assert router.route("rain").target == "one"

    use(tmp_path / "first")
    use(chroma_server.url)
    gc.collect()
    time.sleep(0.3)
    before = descriptors_and_threads()
    for i in range(6):
        use(tmp_path / f"{i}")
        use(chroma_server.url)
    gc.collect()
    for _ in range(50):
        if descriptors_and_threads() <= before:
            break
        time.sleep(0.1)
    assert descriptors_and_threads() <= before
    with MoMARouter.from_cards(path=chroma_server.url, encoder=ENCODER, llms=None) as router:
        router.agents.remove("one")


def test_a_closed_router_still_routes(tmp_path):
    with MoMARouter.from_cards([ONE], path=tmp_path, encoder=ENCODER, llms=None) as router:
        pass
    assert router.route("rain").target == "one"
    router.close()


def test_a_deleted_folder_is_told_of_and_works_again(tmp_path):
    folder = tmp_path / "router"
    router = MoMARouter.from_cards(
        [ONE], path=folder, encoder=ENCODER, llms=None, refresh_every=None
    )
    shutil.rmtree(folder)
    for change in (
        router.agents.refresh,
        lambda: router.agents.disable("one"),
        lambda: router.agents.add(AgentCard("two", "sum")),
    ):
        with pytest.raises(RegistryError, match=r"gone.*router\.save"):
            change()
    assert router.route("rain").target == "one"
    router.save(folder)
    assert MoMARouter.load(folder, encoder=ENCODER).agents.names == ("one",)
    router.agents.disable("one")
    shutil.rmtree(folder)
    again = MoMARouter.from_cards([ONE], path=folder, encoder=ENCODER, llms=None)
    again.agents.add(AgentCard("two", "sum"))
    assert router.agents.refresh() == Changes(("two",), (), ("one",))


def test_too_many_open_files_is_said_as_such(tmp_path):
    registry = ChromaRegistry(tmp_path, "hash-64", 64)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = descriptors_and_threads()[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 20, hard))
    taken = []
    try:
        with suppress(OSError):
            taken.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(100))
        with pytest.raises(RegistryError, match=r"too many files open.*ulimit -n"):
            registry.put(records(ONE))
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    registry.put(records(ONE))
    assert len(registry.load()) == 1


def test_what_another_process_disables_is_honoured_by_itself(opened):
    first = opened()
    first.put(ONE, AgentCard("two", "sum times"))
    registry = first.registry
    if isinstance(registry, MemoryRegistry):
        assert not hasattr(registry, "stamp")  # nobody else can change it
        return
    watching = AgentCatalog(ENCODER, registry, refresh_every=0.05)
    assert watching.snapshot.enabled.all()
    for enabled in (False, True, False):
        (first.enable if enabled else first.disable)("one")
        deadline = time.monotonic() + 5
        while watching.get("one").enabled != enabled and time.monotonic() < deadline:
            time.sleep(0.01)
        assert watching.get("one").enabled == enabled
    watching.close()


class Meanwhile:
    """A registry as it is, but for what happens while one of its methods is at work."""

    def __init__(self, registry, **meanwhile):
        self._registry, self._meanwhile = registry, meanwhile

    def __getattr__(self, name):
        method = getattr(self._registry, name)
        if name not in self._meanwhile:
            return method

        def called(*args):
            found = method(*args)
            self._meanwhile[name]()
            return found

        return called


EVERY = 0.03


def test_a_disable_is_honoured_in_time_though_nobody_looks_and_nothing_can_be_read(opened):
    first, over = opened(), threading.Event()
    if isinstance(first.registry, MemoryRegistry):
        return
    first.put(ONE, AgentCard("two", "sum times"))

    def no_turn():
        if threading.current_thread().name == "moma-watch":
            over.wait(20)

    starved = Meanwhile(opened().registry, stamp=no_turn)
    watching = AgentCatalog(ENCODER, starved, refresh_every=EVERY)
    told, loads = [], []
    starved._meanwhile["load"] = lambda: loads.append("a route does not wait for all agents")
    watching.on_change(told.append)
    assert watching.snapshot.enabled.all()
    for turn in range(1, 9):
        (first.disable if turn % 2 else first.enable)("one")
        time.sleep(2 * EVERY)
        assert watching.snapshot.enabled.tolist() == [not turn % 2, True]
        assert told == [Changes(changed=("one",))] * turn
    assert not loads
    over.set()
    watching.close()


def test_a_disable_is_honoured_where_agents_cannot_be_read(tmp_path):
    first = AgentCatalog(ENCODER, FileRegistry(tmp_path, "hash-64"), None)
    first.put(ONE)
    failing, tried, over = Meanwhile(FileRegistry(tmp_path, "hash-64")), [], threading.Event()
    watching = AgentCatalog(ENCODER, failing, EVERY)

    def fails():
        tried.append(threading.current_thread().name)
        raise RegistryError("another process has been writing")

    failing._meanwhile["load"] = fails
    first.put(AgentCard("two", "sum times"))
    while len(tried) < 2:
        assert watching.snapshot.names == ("one",)
        time.sleep(EVERY)
    failing._meanwhile["stamp"] = lambda: (
        threading.current_thread().name == "moma-watch" and over.wait(20)
    )
    first.disable("one")
    time.sleep(2 * EVERY)
    assert not watching.snapshot.enabled.any()
    assert set(tried) == {"moma-watch"}
    over.set()
    watching.close()


def test_a_disable_is_honoured_while_another_process_holds_the_directory(tmp_path):
    first, watching = (
        AgentCatalog(ENCODER, ChromaRegistry(tmp_path, "hash-64", 64), every)
        for every in (None, EVERY)
    )
    first.put(ONE)
    watching.refresh()
    first.disable("one")
    with (tmp_path / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        time.sleep(2 * EVERY)
        assert watching.snapshot.names == ("one",)
        assert not watching.snapshot.enabled.any()
    watching.close()


def test_what_is_read_slowly_undoes_no_disable(tmp_path):
    first = AgentCatalog(ENCODER, FileRegistry(tmp_path, "hash-64"), None)
    first.put(ONE, AgentCard("two", "sum times"))

    def disabled_after_it_was_read():
        first.disable("one")
        time.sleep(2 * EVERY)
        assert not watching.snapshot.enabled[0]

    slow = Meanwhile(FileRegistry(tmp_path, "hash-64"))
    watching = AgentCatalog(ENCODER, slow, EVERY)
    watching._watch.ensure = lambda: None  # only routes ask
    slow._meanwhile["load"] = disabled_after_it_was_read
    watching.refresh()
    assert not watching.snapshot.enabled[0]

    def this_process_disables_another():
        slow._meanwhile.clear()
        watching.disable("two")

    slow._meanwhile = {"switches": this_process_disables_another}
    first.enable("one")
    time.sleep(2 * EVERY)
    assert watching.snapshot.enabled.tolist() == [True, False]
    watching.close()


def test_switches_that_are_damaged_are_read_from_chroma(tmp_path):
    first = AgentCatalog(ENCODER, ChromaRegistry(tmp_path, "hash-64", 64), None)
    first.put(ONE, AgentCard("two", "sum times"))
    first.disable("one")
    for damage in (b"", b"{}", b"[]", b'{"switches": [[1, 2]]}', b"\xff"):
        (tmp_path / ".switches").write_bytes(damage)
        assert AgentCatalog(ENCODER, first.registry).snapshot.enabled.tolist() == [False, True]
        first.disable("two")
        assert set(first.registry.switches().values()) == {False}
        first.enable("two")


@pytest.mark.parametrize("kind", [FileRegistry, ChromaRegistry])
def test_what_this_process_changed_is_not_read_again(tmp_path, kind):
    class Counted(kind):
        loads = 0

        def load(self):
            self.loads += 1
            return super().load()

    options = (64,) if kind is ChromaRegistry else ()
    registry = Counted(tmp_path, "hash-64", *options)
    watching = AgentCatalog(ENCODER, registry, refresh_every=0.02)
    watching.put(ONE, AgentCard("two", "sum"))
    watching.disable("one")
    watching.remove("two")
    assert watching.snapshot.names == ("one",)
    time.sleep(0.2)
    assert registry.loads == 1
    AgentCatalog(ENCODER, kind(tmp_path, "hash-64", *options), None).enable("one")
    watching.update(replace(watching.get("one"), description="hail"))  # knows nothing of it
    deadline = time.monotonic() + 5
    while not watching.get("one").enabled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watching.get("one").enabled
    watching.close()


def test_a_look_that_fails_is_told_of_once_and_the_agents_stay(tmp_path, caplog):
    folder = tmp_path / "r"
    watching = AgentCatalog(ENCODER, ChromaRegistry(folder, "hash-64", 64), refresh_every=0.02)
    watching.put(ONE)
    (folder / "chroma.sqlite3").rename(tmp_path / "kept")
    (folder / ".changed").write_text("something new")
    assert watching.snapshot.names == ("one",)
    time.sleep(0.3)
    assert watching.snapshot.names == ("one",)
    assert [r.levelname for r in caplog.records if "known stay" in r.message] == ["WARNING"]
    (tmp_path / "kept").rename(folder / "chroma.sqlite3")
    watching.close()


@pytest.mark.parametrize("every", [0, -1, "1", True, float("nan")])
def test_odd_intervals_are_refused(every):
    with pytest.raises(ValueError, match="refresh_every"):
        AgentCatalog(ENCODER, MemoryRegistry(), every)


class TwoWriters(RuleBasedStateMachine):
    """Two catalogs on one directory, each perhaps stale; the store is what the last one told."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.catalogs = [self.open(), self.open()]
        self.model = {}

    def open(self):
        return AgentCatalog(ENCODER, ChromaRegistry.open(self.folder, "hash-64", 64), None)

    writers, names = st.sampled_from([0, 1]), st.sampled_from("abc")

    @rule(which=writers, name=names, text=st.sampled_from(["x", "y"]))
    def put(self, which, name, text):
        catalog = self.catalogs[which]
        known = name in catalog and catalog.get(name).description == text
        try:
            catalog.put(AgentCard(name, text))
        except ConflictError:
            return
        if known:  # it said nothing new, so what another wrote meanwhile stands
            return
        on = self.model.get(name, (None, True))[1]
        if name not in self.model or self.catalogs[which].get(name).description == text:
            self.model[name] = (self.catalogs[which].get(name).description, on)

    @rule(which=writers, name=names, on=st.booleans())
    def switch(self, which, name, on):
        catalog = self.catalogs[which]
        if name in catalog:
            (catalog.enable if on else catalog.disable)(name)
            if name in self.model:
                self.model[name] = (self.model[name][0], on)

    @rule(which=writers, name=names)
    def remove(self, which, name):
        if name in self.catalogs[which]:
            self.catalogs[which].remove(name)
            self.model.pop(name, None)

    @rule(which=writers)
    def refresh(self, which):
        self.catalogs[which].refresh()
        found = {c.name: (c.description, c.enabled) for c in self.catalogs[which]}
        assert found == self.model

    @invariant()
    def store_is_what_was_told(self):
        found = {r.card.name: (r.card.description, r.card.enabled) for r in self.load()}
        assert found == self.model

    def load(self):
        return self.catalogs[0].registry.load()

    def teardown(self):
        shutil.rmtree(self.folder)


TestTwoWriters = TwoWriters.TestCase
TestTwoWriters.settings = settings(max_examples=6, stateful_step_count=15, phases=(Phase.generate,))


class Counting(HashEncoder):
    """Counts the texts that it encodes."""

    texts = 0

    def encode(self, texts):
        self.texts += len(texts)
        return super().encode(texts)


def test_thousands_are_registered_in_seconds_and_start_without_encoding(tmp_path):
    cards = [
        AgentCard(f"a{i}", f"does {i % 50} of {i % 7}", examples=(f"ask {i % 50}", f"do {i % 7}"))
        for i in range(3_000)
    ]
    encoder = Counting()
    start = time.process_time()
    with MoMARouter.from_cards(cards, path=tmp_path, encoder=encoder, llms=None):
        assert encoder.texts > 3_000
    encoder.texts = 0
    with MoMARouter.from_cards(cards, path=tmp_path, encoder=encoder, llms=None) as again:
        assert len(again.agents) == 3_000
    assert encoder.texts < 20  # only what is no agent's
    assert time.process_time() - start < 30
