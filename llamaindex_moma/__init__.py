"""MoMA in LlamaIndex: a selector that never points past its choices.

Needs ``pip install "moma-router[llamaindex]"``.
"""

try:
    import llama_index.core  # noqa: F401  # asked for here, so that the error can say what to type
except ModuleNotFoundError as error:
    from moma_core import MissingExtraError

    raise MissingExtraError(
        f'llamaindex_moma needs LlamaIndex ({error}). Type: pip install "moma-router[llamaindex]"'
    ) from error

from llamaindex_moma.selector import MoMASelector, ScoredSelection

__all__ = ["MoMASelector", "ScoredSelection"]
