"""Every error that MoMA raises on purpose, as one tree.

::

    MoMAError
    ├── InvalidInputError (ValueError)      what the caller passed cannot be used
    │   ├── InvalidQueryError               empty or not text
    │   ├── InvalidCardError                a name, description or price out of bounds
    │   ├── DuplicateNameError              a name that is taken
    │   ├── InvalidPreferenceError          not performance, auto or cost
    │   ├── InvalidStatesError              a states file that does not hold together
    │   └── InvalidDataError                a table without the columns it needs
    ├── UnknownNameError (LookupError)      a name that nobody registered
    ├── NoTargetError (LookupError)         nothing could take the query
    ├── ScoreError (ArithmeticError)        NaN or infinite scores came out of a head or encoder
    ├── ArtifactError (OSError)             a saved file is missing, truncated or changed
    ├── RegistryError (OSError)             the registry's store does not answer or cannot write
    │   └── ConflictError                   another process changed the same agent first
    └── MissingExtraError (ImportError)     an optional dependency is not installed

Each message says what was expected, what was found, and what to type next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "ArtifactError",
    "ConflictError",
    "DuplicateNameError",
    "InvalidCardError",
    "InvalidDataError",
    "InvalidInputError",
    "InvalidPreferenceError",
    "InvalidQueryError",
    "InvalidStatesError",
    "MissingExtraError",
    "MoMAError",
    "NoTargetError",
    "RegistryError",
    "ScoreError",
    "UnknownNameError",
    "needs_extra",
]


class MoMAError(Exception):
    """Base of every error that MoMA raises on purpose."""


class InvalidInputError(MoMAError, ValueError):
    """What the caller passed cannot be used."""


class InvalidQueryError(InvalidInputError):
    """The query is empty or not text."""


class InvalidCardError(InvalidInputError):
    """An agent or LLM card has a name, description or price out of bounds."""


class DuplicateNameError(InvalidInputError):
    """A name is registered already, or given twice."""


class InvalidPreferenceError(InvalidInputError):
    """A preference is none of performance, auto and cost."""


class InvalidStatesError(InvalidInputError):
    """A states file cannot be read or does not hold together."""


class InvalidDataError(InvalidInputError):
    """A table lacks the columns or values that it needs."""


class UnknownNameError(MoMAError, LookupError):
    """Nobody registered this name."""


class NoTargetError(MoMAError, LookupError):
    """No agent and no LLM could take the query."""


class ScoreError(MoMAError, ArithmeticError):
    """An encoder or head gave NaN or infinite values."""


class ArtifactError(MoMAError, OSError):
    """A saved file is missing, truncated, changed or of another version."""


class RegistryError(MoMAError, OSError):
    """The registry's store does not answer or cannot write."""


class ConflictError(RegistryError):
    """Another process changed the same agent first; nothing was written over it."""


class MissingExtraError(MoMAError, ImportError):
    """An optional dependency is not installed."""


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Say what to install where an import in the body finds no module.

    Args:
        extra: Name of the extra that brings it.

    Raises:
        MissingExtraError: A module is missing.

    Example:
        >>> with needs_extra("train"):
        ...     import no_such_module
        Traceback (most recent call last):
        moma_core.errors.MissingExtraError: ... Type: pip install "moma-router[train]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'{error}. It comes with an extra. Type: pip install "moma-router[{extra}]"'
        ) from error
