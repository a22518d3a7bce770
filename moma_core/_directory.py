"""A router's directory: JSON, TOML, safetensors and Chroma; and the checks of its parts.

Each file is written whole or not at all and checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moma_core._atomic import finish, replacing
from moma_core._checks import parse_json
from moma_core._store import write_whole
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.categories import Taxonomy
from moma_core.agents.gate import Negatives
from moma_core.agents.reranker import Reranker
from moma_core.agents.router import AgentRouter
from moma_core.agents.states import StateMachine
from moma_core.agents.training import Trained, read_trained, trained_exists, write_trained
from moma_core.encoder import RoutingEncoder, encoder_of
from moma_core.errors import ArtifactError, InvalidInputError, MoMAError
from moma_core.protocols import Encoder, FinalDecider, Registry
from moma_core.registry import FOLDER as _REGISTRY
from moma_core.registry import open_registry
from moma_core.registry.files import FileRegistry
from moma_core.registry.location import ChromaServer
from moma_core.registry.memory import MemoryRegistry
from moma_core.types import AgentCard, FloatArray

if TYPE_CHECKING:  # `saved_agents` needs none of them, and a command starts the sooner
    from moma_core.llms.feedback import Learning
    from moma_core.llms.router import LLMRouter
    from moma_core.teams.router import TeamRouter

    Parts = tuple[AgentRouter, LLMRouter | None, TeamRouter | None, Learning | None]

__all__ = [
    "check_parts",
    "checked",
    "open_pool",
    "open_reranker",
    "read_parts",
    "saved_agents",
    "saved_encoder",
    "write_parts",
]

_FORMAT = 1
_NO_CATEGORIES = Taxonomy().to_dict()
_ROUTER, _STATES = "router.json", "states.toml"
_LLMS, _TEAMS, _LEARNING = "llms", "teams", "learning"
_CHROMA = "chroma.sqlite3"
_USUAL = 384  # length of the vectors of routers saved before it was written down


def open_pool(llms: object) -> LLMRouter | None:
    """Return a pool itself, the packaged one for its name, or None for none.

    Raises:
        InvalidInputError: It is something else.
    """
    from moma_core.llms.router import LLMRouter

    pool: Any = LLMRouter.packaged() if llms == "packaged" else llms
    return _checked_pool(pool)


def _checked_pool(llms: Any) -> LLMRouter | None:
    from moma_core.llms.router import LLMRouter

    if llms is not None and not isinstance(llms, LLMRouter):
        raise InvalidInputError(
            f"llms is a pool of LLMs, 'packaged' or None, got {llms!r:.60}. Load a trained pool: "
            "llms=LLMRouter.load('pool')."
        )
    return llms


def checked(agents: Any, decider: object) -> tuple[AgentCard, ...]:
    """Return the cards, refusing parts that could not be used once a query comes.

    Raises:
        InvalidInputError: ``agents`` is no list, or ``decider`` decides nothing.

    Example:
        >>> checked(AgentCard("weather", "Forecast for a place"), None)
        Traceback (most recent call last):
        moma_core.errors.InvalidInputError: agents are a list of cards, got AgentCard. ...
    """
    if isinstance(agents, str) or not isinstance(agents, Iterable):
        raise InvalidInputError(
            f"agents are a list of cards, got {type(agents).__name__}. Write "
            "MoMARouter.from_cards([AgentCard(name, description)])."
        )
    if decider is not None and not isinstance(decider, FinalDecider):
        raise InvalidInputError(
            f"a decider has decide(query, cards, log_prior), got {decider!r:.60}. Write "
            "decider=FusedDecider(...), or leave it out."
        )
    return tuple(agents)


def check_parts(llms: object, teams: object) -> None:
    """Refuse what a router cannot ask, when it is built rather than on its first query.

    Raises:
        InvalidInputError: One of them is something else than its kind or None.
    """
    from moma_core.teams.router import TeamRouter

    _checked_pool(llms)
    if teams is not None and not isinstance(teams, TeamRouter):
        raise InvalidInputError(
            f"teams is a TeamRouter or None, got {teams!r:.60}. Load a trained one: "
            "teams=TeamRouter.load('teams', encoder, llms)."
        )


def open_reranker(reranker: object, encoder: object) -> Reranker | None:
    """Return a reranker itself, or the packaged one unless an encoder was given.

    Raises:
        InvalidInputError: It is something else.
    """
    if reranker == "packaged":
        routing = encoder is None or getattr(encoder, "packaged", None) == RoutingEncoder.packaged
        return Reranker() if routing else None
    if reranker is not None and not isinstance(reranker, Reranker):
        raise InvalidInputError(
            f"reranker is a Reranker, 'packaged' or None, got {reranker!r:.60}. Leave it out."
        )
    return reranker


def write_parts(
    folder: Path,
    encoder: Encoder,
    agents: AgentRouter,
    llms: LLMRouter | None,
    teams: TeamRouter | None,
    learning: Learning | None,
) -> None:
    """Write a router's parts, all of them at once; agents in Chroma are written before.

    Raises:
        ArtifactError: The directory cannot be written.
        RegistryError: The agents cannot be written.
    """
    from moma_core.llms.feedback import FILES
    from moma_core.teams.planner import TEAM_FILES

    optional = {_TEAMS: (teams, TEAM_FILES), _LEARNING: (learning, FILES)}
    gone = [f"{place}/{n}" for place, (part, files) in optional.items() if not part for n in files]
    server = _write_in_chroma(folder, encoder, agents)
    with replacing(folder, gone) as new:
        if server is None and not (folder / _REGISTRY / _CHROMA).exists():
            _write_in_files(folder / _REGISTRY, new / _REGISTRY, encoder, agents)
        write_trained(new, agents.trained, agents.negatives, encoder.fingerprint)
        if llms is not None:
            llms.save(new / _LLMS)
        if teams is not None:
            teams.save(new / _TEAMS)
        if learning is not None:
            learning.save(new / _LEARNING)
        states = agents.states.to_toml().encode()
        document = {
            "format": _FORMAT,
            "encoder": encoder.fingerprint,
            "dimension": encoder.dimension,
            "llms": llms is not None,
            "states": hashlib.sha256(states).hexdigest(),
            "server": server,
            "categories": agents.taxonomy.to_dict(),
            "reranker": agents.reranker is not None,
        }
        write_whole(new / _STATES, states)
        write_whole(new / _ROUTER, json.dumps(document, indent=1).encode())


def _write_in_chroma(folder: Path, encoder: Encoder, agents: AgentRouter) -> str | None:
    """Copy the agents into the folder's Chroma, unless they are there or belong in files.

    Returns:
        The server's URL, where a server keeps them.
    """
    registry = agents.catalog.registry
    at = getattr(registry, "location", None)
    if _is_url(at):
        return str(at)
    if (folder / _REGISTRY / _CHROMA).exists():
        # The router's own directory has every change already, perhaps other processes' too.
        there = str(at) == str(folder / _REGISTRY)
    else:
        there = isinstance(registry, MemoryRegistry | FileRegistry)
    if not there:
        _copy_agents(agents.catalog, open_registry(folder, encoder))
    return None


def _write_in_files(place: Path, new: Path, encoder: Encoder, agents: AgentRouter) -> None:
    """Write the agents where they will take the place of those in files, if those are others."""
    registry = agents.catalog.registry
    if str(getattr(registry, "location", None)) == str(place) and FileRegistry.is_at(place):
        return
    fresh = FileRegistry(new, encoder.fingerprint)
    fresh.put([replace(record, version=None) for record in agents.catalog.snapshot.records])
    (new / ".lock").unlink()


def saved_encoder(folder: Path) -> Encoder:
    """Return the packaged encoder that a router was saved with, or the default one."""
    finish(folder)
    return encoder_of(_document(folder)["encoder"]) or RoutingEncoder()


def saved_agents(folder: Path) -> AgentCatalog:
    """Open the agents of a saved router without what encodes and ranks; none can be added.

    Raises:
        ArtifactError: The directory holds no router that can be opened.
        RegistryError: The agents cannot be read.
    """
    finish(folder)
    document = _document(folder)
    saved = _Saved(document["encoder"], document["dimension"])
    place = document["server"] or _with_agents(folder)
    return AgentCatalog(saved, open_registry(place, saved), refresh_every=None)


def read_parts(
    folder: Path,
    encoder: Encoder,
    server: str | ChromaServer | None = None,
    refresh_every: float | None = 1.0,
) -> Parts:
    """Read what `write_parts` wrote; a router without LLMs has no teams and learns nothing.

    Agents that were saved with another encoder are encoded anew, in memory, with a warning.

    Raises:
        ArtifactError: A file is missing, truncated or changed, or teams are of another encoder.
        RegistryError: The agents cannot be read.
    """
    for _ in range(3):
        finish(folder)
        before = _written(folder)
        try:
            return _read(folder, encoder, server, refresh_every)
        except ArtifactError:
            if _written(folder) == before:
                raise  # else another process saved meanwhile: that may have been half of each
    return _read(folder, encoder, server, refresh_every)


def _written(folder: Path) -> object:
    try:
        found = (folder / _ROUTER).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _read(
    folder: Path,
    encoder: Encoder,
    server: str | ChromaServer | None,
    refresh_every: float | None,
) -> Parts:
    from moma_core.llms.router import LLMRouter
    from moma_core.teams.planner import TEAM_FILES
    from moma_core.teams.router import TeamRouter

    document = _document(folder)
    place = server or document["server"] or _with_agents(folder)
    if document["encoder"] == encoder.fingerprint:
        registry = open_registry(place, encoder)
    else:
        registry = _encoded_anew(place, _Saved(document["encoder"], document["dimension"]), encoder)
    catalog = AgentCatalog(encoder, registry, refresh_every)
    trained, negatives = _trained(folder, document["encoder"], encoder)
    states = StateMachine.from_toml(_states(folder, document["states"]), encoder)
    llms = LLMRouter.load(folder / _LLMS) if document["llms"] else None
    taxonomy = document["categories"].encoded(encoder)
    teams = None
    if llms is not None and (folder / _TEAMS / TEAM_FILES[0]).exists():
        teams = TeamRouter.load(folder / _TEAMS, encoder, llms)
    reranker = Reranker() if document["reranker"] else None
    agents = AgentRouter(catalog, states, negatives, trained, taxonomy=taxonomy, reranker=reranker)
    return agents, llms, teams, None if llms is None else _learning(folder / _LEARNING)


def _trained(folder: Path, saved: str, encoder: Encoder) -> tuple[Trained | None, Negatives]:
    """Return ranker and negatives; none and fresh ones where they are of another encoder."""
    if not trained_exists(folder):  # deleted after damage, as the error says: fitted when needed
        return None, Negatives.of((), encoder)
    trained, negatives = read_trained(folder, saved)
    if saved == encoder.fingerprint:
        return trained, negatives
    return None, Negatives.of(negatives.texts[: negatives.n_given], encoder)


@dataclass(frozen=True)
class _Saved:
    """Stands for the encoder that a registry was written with."""

    fingerprint: str
    dimension: int

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Nothing is encoded with it."""
        raise NotImplementedError


def _encoded_anew(place: str | Path | ChromaServer, saved: _Saved, encoder: Encoder) -> Registry:
    """Return a registry in memory with the agents that another encoder's registry holds."""
    kept = open_registry(place, saved)
    cards = [record.card for record in kept.load()]
    close = getattr(kept, "close", None)
    if close is not None:
        close()
    warnings.warn(
        f"the {len(cards)} agents in {place} were saved with encoder {saved.fingerprint!r}; they "
        f"are encoded anew with {encoder.fingerprint!r}, in memory. Save the router to keep that.",
        stacklevel=5,
    )
    fresh = AgentCatalog(encoder, MemoryRegistry())
    fresh.put(*cards)
    off = [card.name for card in cards if not card.enabled]
    for name in off:
        fresh.disable(name)
    return fresh.registry


def _learning(folder: Path) -> Learning | None:
    from moma_core.llms.feedback import FILES, Learning

    if not (folder / FILES[0]).exists():
        return None
    try:
        return Learning.load(folder)
    except MoMAError:
        raise
    except (OSError, ValueError, TypeError) as error:  # of the log that it names
        raise ArtifactError(
            f"what was learnt in {folder} names a log that cannot be used ({error!s:.200}). Delete "
            f"{' and '.join(FILES)} there, and learn anew."
        ) from error


def _with_agents(folder: Path) -> Path:
    here = folder / _REGISTRY
    chroma = here / _CHROMA  # of 0 bytes, Chroma would begin anew as if nothing had been there
    kept = chroma.exists() and chroma.stat().st_size > 0
    if not kept and not FileRegistry.is_at(here):
        raise ArtifactError(
            f"{folder} has lost its agents: nothing is in {_REGISTRY}/. Restore it from a backup, "
            "or register them in a new directory."
        )
    return folder


def _is_url(location: object) -> bool:
    return str(location).startswith(("http://", "https://"))


def _copy_agents(catalog: AgentCatalog, registry: Registry) -> None:
    """Write the agents into a registry; those already there are left alone."""
    kept = {record.card.name: record.card for record in registry.load()}
    records = catalog.snapshot.records
    changed = [replace(r, version=None) for r in records if kept.get(r.card.name) != r.card]
    registry.put(changed)
    registry.delete([name for name in kept if name not in catalog])
    for enabled in (True, False):
        names = [r.card.name for r in changed if r.card.enabled == enabled]
        registry.switch([name for name in names if name in kept], enabled=enabled)


def _document(folder: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = parse_json((folder / _ROUTER).read_bytes())
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']}, this version reads {_FORMAT}")
        server, flags = document.get("server"), (document["llms"], document.get("reranker", False))
        if not all(isinstance(flag, bool) for flag in flags):
            raise ValueError(f"llms and reranker are true or false, got {flags!r:.60}")
        if server is not None and not _is_url(server):
            raise ValueError(f"server {server!r:.40} is no URL")
        return {
            "encoder": str(document["encoder"]),
            "dimension": int(document.get("dimension", _USUAL)),
            "llms": flags[0],
            "states": str(document["states"]),
            "server": server,
            "categories": Taxonomy.from_dict(document.get("categories", _NO_CATEGORIES)),
            "reranker": flags[1],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{folder} is no router that this version can open: {error}. Write one with "
            "router.save(dir), or restore it from a backup."
        ) from error


def _states(folder: Path, digest: str) -> str:
    """Return the saved TOML; one cut short at the end of a line would still be valid TOML."""
    try:
        content = (folder / _STATES).read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{folder} has no {_STATES} ({error}). Save the router again."
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ArtifactError(
            f"{folder / _STATES} is truncated or changed. Restore it, or build the router with the "
            "changed states (MoMARouter.from_cards(..., states=...)) and save it."
        )
    return content.decode()
