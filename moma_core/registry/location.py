"""Where agents are kept, as a user writes it: a directory, or a Chroma server's URL."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from urllib.request import url2pathname

from moma_core._checks import is_number
from moma_core.errors import RegistryError

__all__ = ["ChromaServer", "place_of"]

_TENANT, _DATABASE = "default_tenant", "default_database"
_PORTS = {"http": 8000, "https": 443}  # 8000 is Chroma's own
_ASKABLE = ("tenant", "database", "timeout")


@dataclass(frozen=True)
class ChromaServer:
    """A Chroma server and how to ask it.

    Args:
        url: ``http(s)://host:port/prefix``; without a port 443 for https, else Chroma's 8000. User
            and password become a Basic ``Authorization`` header; ``?tenant=``, ``?database=`` and
            ``?timeout=`` stand for the parameters below.
        headers: Sent with each request, such as ``{"X-Chroma-Token": ...}``; never shown or saved.
        tenant: Chroma's tenant.
        database: Its database.
        timeout: Seconds that the server may be silent in one request.

    Raises:
        RegistryError: The URL is none, or something in it is unknown.

    Example:
        >>> server = ChromaServer("https://me:secret@chroma.example.com/v/?tenant=acme")
        >>> server.location
        'https://chroma.example.com:443/v?tenant=acme'
        >>> "secret" in repr(server)
        False
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tenant: str = _TENANT
    database: str = _DATABASE
    timeout: float = 5.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(str(self.url))
            port, host = parts.port, parts.hostname or ""
        except ValueError as error:
            raise _unfit("the port or the host is none") from error
        if parts.scheme not in _PORTS or not host or re.search(r"\s", host) or parts.fragment:
            raise _unfit("it names no host")
        asked = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(asked.keys() - set(_ASKABLE))
        if unknown:
            raise _unfit(f"{unknown[0]!r} is unknown; after the ? may be {', '.join(_ASKABLE)}")
        headers = dict(self.headers)
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers.setdefault("Authorization", f"Basic {base64.b64encode(pair).decode()}")
        named = f"[{host}]" if ":" in host else host
        plain = f"{parts.scheme}://{named}:{port or _PORTS[parts.scheme]}{parts.path.rstrip('/')}"
        self._set("url", plain)  # holds no user and no password from here on
        self._set("headers", headers)
        self._set("tenant", asked.get("tenant", self.tenant))
        self._set("database", asked.get("database", self.database))
        self._set("timeout", _seconds(asked.get("timeout", self.timeout)))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def location(self) -> str:
        """The URL with tenant and database where they are not Chroma's usual, without secrets."""
        named = {"tenant": (self.tenant, _TENANT), "database": (self.database, _DATABASE)}
        asked = {name: value for name, (value, usual) in named.items() if value != usual}
        return f"{self.url}?{urlencode(asked, quote_via=quote)}" if asked else self.url


def _seconds(value: object) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = 0.0
    if not (0 < seconds < 86_400 and (is_number(value) or isinstance(value, str))):
        raise _unfit(f"timeout is seconds, more than 0, got {value!r:.40}")
    return seconds


def _unfit(why: str) -> RegistryError:
    # The URL itself may hold a password: it is not repeated.
    return RegistryError(
        f"this URL of a Chroma server cannot be used: {why}. Write "
        "'https://host:port/prefix?tenant=T&database=D', or ChromaServer(url, headers={...})."
    )


_HOST_PORT = re.compile(r"([^/]*@)?(\[[0-9a-fA-F:]+\]|[\w-]+(\.[\w-]+)*):\d{1,5}([/?].*)?")
_HOST = re.compile(r"localhost|\d{1,3}(\.\d{1,3}){3}|[\w-]+(\.[\w-]+)*\.(com|org|net|io|dev|cloud)")


def place_of(location: str | Path | ChromaServer) -> Path | ChromaServer:
    """Return the server of a URL, else the directory of a path, absolute.

    Raises:
        RegistryError: It is a URL of something else, or a host without ``http://``.

    Example:
        >>> place_of("file:///srv/router"), place_of("http://localhost").location
        (PosixPath('/srv/router'), 'http://localhost:8000')
        >>> place_of("localhost:8000")
        Traceback (most recent call last):
        moma_core.errors.RegistryError: 'localhost:8000' looks like a server without its scheme. ...
    """
    if isinstance(location, ChromaServer):
        return location
    if isinstance(location, Path):
        return location.expanduser().absolute()
    text = str(location)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(?!\d)", text)  # one letter: a Windows drive
    if scheme and scheme[1].lower() in _PORTS:
        return ChromaServer(text)
    if scheme and scheme[1].lower() == "file":
        return _of_file(text)
    if scheme and "//" in text:
        raise RegistryError(
            f"agents are kept in a directory or on a Chroma server, not at {scheme[1]}://. Write "
            "path='router', or path='http://localhost:8000'."
        )
    if (_HOST_PORT.fullmatch(text) or _HOST.fullmatch(text)) and not Path(text).exists():
        text = text.rpartition("@")[2]  # what is before it is secret
        raise RegistryError(
            f"{text!r} looks like a server without its scheme. Write path={'http://' + text!r} (or "
            f"https://); for a directory of that name, path={'./' + text!r}."
        )
    return Path(text).expanduser().absolute()


def _of_file(text: str) -> Path:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise RegistryError(
            f"{text!r:.80} names no directory of this machine. Write path='file:///srv/router' or "
            "path='/srv/router'."
        )
    return Path(url2pathname(parts.path)).expanduser().absolute()
