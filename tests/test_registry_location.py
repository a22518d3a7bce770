"""Where agents are kept, as users write it, and servers that are slow, hidden or not there."""

import http.server
import socket
import threading
import time
import urllib.request

import pytest

from moma_core import AgentCard, MoMARouter, RegistryError
from moma_core.registry.chroma import ChromaRegistry
from moma_core.registry.location import ChromaServer, place_of
from moma_core.testing import HashEncoder, records

CARD = AgentCard("one", "rain snow wind", examples=("rain",))


@pytest.mark.parametrize(
    ("written", "location"),
    [
        ("http://localhost", "http://localhost:8000"),
        ("https://chroma.example.com", "https://chroma.example.com:443"),
        ("HTTPS://Chroma.example.com:8443/", "https://chroma.example.com:8443"),
        ("http://[::1]:9000", "http://[::1]:9000"),
        ("http://me:secret@host:1/a/b/", "http://host:1/a/b"),
        ("http://host/p?tenant=t%20t&database=d", "http://host:8000/p?tenant=t%20t&database=d"),
        ("http://host?timeout=2.5", "http://host:8000"),
    ],
)
def test_urls(written, location):
    server = place_of(written)
    assert server.location == location
    assert place_of(location).location == location
    assert "secret" not in repr(server) + location


def test_what_a_url_says_beside_its_host():
    server = place_of("http://me:se%40cret@host?tenant=t&database=d&timeout=0.5")
    assert (server.tenant, server.database, server.timeout) == ("t", "d", 0.5)
    assert server.headers == {"Authorization": "Basic bWU6c2VAY3JldA=="}
    given = ChromaServer("http://host", {"X-Chroma-Token": "secret"}, timeout=9)
    assert given.headers == {"X-Chroma-Token": "secret"}


@pytest.mark.parametrize(
    "written",
    [
        *("http://", "http:///path", "http:/host:1", "http://host:port", "http://host:99999"),
        *("https://:443", "http://a b", "http://host#x", "http://host?token=secret"),
        *("http://host?timeout=0", "http://host?timeout=soon", "http://u:secret@", "http://[::1"),
    ],
)
def test_urls_that_are_none(written):
    with pytest.raises(RegistryError, match="https://host:port") as caught:
        place_of(written)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("chroma.example.com:443/v1", "http://chroma.example.com:443/v1"),
        ("me:secret@chroma:8000", "http://chroma:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("localhost", "http://localhost"),
        ("chroma.example.com", "http://chroma.example.com"),
        ("ftp://host/x", "http://localhost:8000"),
        ("postgresql://u:secret@h/d", "http://localhost:8000"),
        ("file://elsewhere/x", "file:///srv/router"),
    ],
)
def test_what_is_no_place_shows_the_right_form(written, shown):
    with pytest.raises(RegistryError) as caught:
        place_of(written)
    assert shown in str(caught.value)
    assert "secret" not in str(caught.value)


def test_directories(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert place_of("~/router") == tmp_path / "router"
    assert place_of("router.v2") == tmp_path / "router.v2"
    assert place_of(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert place_of(f"file:{tmp_path}/c") == tmp_path / "c"
    (tmp_path / "my.project.dev").mkdir()
    assert place_of("my.project.dev") == tmp_path / "my.project.dev"
    router = MoMARouter.from_cards([CARD], path="~/router", encoder=HashEncoder(), llms=None)
    router.save("~/router")
    assert (tmp_path / "router" / "registry" / "chroma.sqlite3").exists()
    again = MoMARouter.load("~/router", encoder=HashEncoder())
    assert again.agents.names == ("one",)


class Proxy(http.server.BaseHTTPRequestHandler):
    """Lets requests with a prefix and a token through to a Chroma server."""

    behind, seen = "", []
    protocol_version = "HTTP/1.1"

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.path, self.headers.get("X-Chroma-Token")))
        status, answer = 401, b"who are you?"
        if self.headers.get("X-Chroma-Token") == "secret" and self.path.startswith("/chroma/"):
            request = urllib.request.Request(  # noqa: S310
                self.behind + self.path.removeprefix("/chroma"),
                body or None,
                {"Content-Type": "application/json"},
                method=self.command,
            )
            try:
                with urllib.request.urlopen(request) as response:  # noqa: S310
                    status, answer = response.status, response.read()
            except urllib.error.HTTPError as error:
                status, answer = error.code, error.read()
                error.close()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = forward  # noqa: N815 - http.server's names

    def log_message(self, *args):
        pass


@pytest.fixture
def proxy(chroma_server):
    handler = type("Handler", (Proxy,), {"behind": chroma_server.url, "seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_behind_a_prefix_and_a_token(proxy, tmp_path):
    url, seen = proxy
    for wrong in (ChromaServer(f"{url}/chroma"), ChromaServer(url, {"X-Chroma-Token": "secret"})):
        with pytest.raises(RegistryError, match=r"refuses these credentials \(HTTP 401\)"):
            ChromaRegistry.open(wrong, "hash-64", 64)
    server = ChromaServer(f"{url}/chroma", {"X-Chroma-Token": "secret"})
    with MoMARouter.from_cards(
        [CARD], path=server, encoder=HashEncoder(), llms=None, refresh_every=None
    ) as router:
        assert router.route("rain").target == "one"
        router.save(tmp_path)
        assert b"secret" not in b"".join(f.read_bytes() for f in tmp_path.iterdir() if f.is_file())
        with MoMARouter.load(tmp_path, encoder=HashEncoder(), server=server) as loaded:
            loaded.agents.remove("one")
        assert router.agents.refresh().removed == ("one",)
    assert seen[-1][0].startswith(
        "/chroma/api/v2/tenants/default_tenant/databases/default_database/"
    )


def test_a_tenant_that_is_not_there_is_an_error(chroma_server):
    with pytest.raises(RegistryError, match=r"tenant and database exist|server is running"):
        ChromaRegistry.open(f"{chroma_server.url}?tenant=nobody", "hash-64", 64)


def test_a_server_that_says_nothing_is_waited_for_no_longer_than_asked():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://me:secret@127.0.0.1:{silent.getsockname()[1]}/?timeout=0.3"
        start = time.monotonic()
        with pytest.raises(RegistryError, match=r"said nothing for 0\.3 s.*refresh\(\)") as caught:
            ChromaRegistry.open(url, "hash-64", 64)
        assert time.monotonic() - start < 2
        assert "secret" not in str(caught.value)


def test_a_stalled_server_blocks_no_route_and_no_other_change(chroma_server):
    """The server is stopped (SIGSTOP), as one that swaps or hangs."""
    import signal

    server = ChromaServer(chroma_server.url, timeout=0.5)
    router = MoMARouter.from_cards(
        [CARD], path=server, encoder=HashEncoder(), llms=None, refresh_every=0.05
    )
    assert router.route("rain").target == "one"
    chroma_server._process.send_signal(signal.SIGSTOP)
    try:
        said = []

        def disable():
            with pytest.raises(RegistryError, match="said nothing"):
                router.agents.disable("one")
            said.append(time.monotonic())

        start = time.monotonic()
        threads = [threading.Thread(target=disable) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        asked = time.monotonic()
        assert router.route("rain").target == "one"
        assert time.monotonic() - asked < 0.3
        for thread in threads:
            thread.join(10)
        assert len(said) == 4
        assert max(said) - start < 1.5  # each waited for itself
    finally:
        chroma_server._process.send_signal(signal.SIGCONT)
    router.agents.disable("one")
    assert [r.card.enabled for r in router.agents.registry.load()] == [False]
    router.agents.remove("one")
    router.close()


@pytest.mark.parametrize(
    ("environment", "by"),
    [
        ("OPENAI_API_KEY=sk-1", "file"),
        ("CHROMA_SERVER_HOST=rag.example.org", "file"),
        ("CHROMA_API_IMPL=rest", "variable"),
        ("CHROMA_SERVER_HTTP_PORT=eighty", "file"),
        ("MIGRATIONS=later", "variable"),
        ("IS_PERSISTENT=perhaps", "file"),
        ("CHROMA_DB_IMPL=duckdb", "variable"),
    ],
)
def test_what_others_set_for_chroma_does_not_reach_us(tmp_path, python, environment, by):
    done = python(
        "import os, sys\n"
        "os.chdir(sys.argv[1])\n"
        "from moma_core import AgentCard\n"
        "from moma_core.registry.chroma import ChromaRegistry\n"
        "from moma_core.testing import records\n"
        "name, _, value = sys.argv[2].partition('=')\n"
        "if sys.argv[3] == 'variable': os.environ[name] = value\n"
        "else: open('.env', 'w').write(sys.argv[2])\n"
        "registry = ChromaRegistry.open('r', 'hash-64', 64)\n"
        "registry.put(records(AgentCard('a', 'adds')))\n"
        "print(len(registry.load()))\n",
        str(tmp_path),
        environment,
        by,
    )
    assert done.stdout == "1\n", done.stderr[-500:]


def test_records_can_be_kept_in_a_client_of_your_own(tmp_path):
    import chromadb

    with chromadb.PersistentClient(path=str(tmp_path)) as client:
        registry = ChromaRegistry(client, "hash-64", 64, "mine")
        registry.put(records(CARD))
        assert [r.card for r in registry.load()] == [CARD]
        before = registry.stamp()
        registry.switch(["one"], enabled=False)
        assert registry.stamp() != before
