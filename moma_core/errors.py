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
    └── MissingExtraError (ImportError)     an optional dependency is not installed

Each message says what was expected, what was found, and what to type next.
"""

from __future__ import annotations

from importlib.util import find_spec

__all__ = [
    "ArtifactError",
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
    "require",
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


class MissingExtraError(MoMAError, ImportError):
    """An optional dependency is not installed."""


def require(package: str, extra: str) -> None:
    """Say what to install where a package of an extra is absent; called before its import.

    Raises:
        MissingExtraError: It is not installed.

    Example:
        >>> require("numpy", "train")
    """
    if find_spec(package) is None:
        raise MissingExtraError(
            f"this needs {package}, which is not installed. Type: pip install "
            f'"moma-router[{extra}]"'
        )
