"""The final decision by a local LLM that cannot name a wrong agent (eq. 26); extra ``[llm]``.

Names load on first use: what needs torch or transformers raises `MissingExtraError` without them,
and importing this package loads neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from moma_core.errors import MissingExtraError

if TYPE_CHECKING:
    from moma_core.decoding.arguments import ArgumentFiller, Arguments
    from moma_core.decoding.decider import FusedDecider, FusionWeights
    from moma_core.decoding.evidence import ChoiceLikelihood, NoisyChannel
    from moma_core.decoding.generate import (
        NameChoices,
        OrderedNames,
        choose_name,
        ordered_names,
        top_k,
        top_k_packed,
    )
    from moma_core.decoding.local_llm import LocalLLM
    from moma_core.decoding.mask import NameMask
    from moma_core.decoding.prefix import KvPrefix, PrefixCache, PrefixCounters
    from moma_core.decoding.search import NameScores, TopNames, masked_scores, score_names
    from moma_core.decoding.trie import Eligibility, NamePrior, NameTrie

_HOMES = {
    "moma_core.decoding.arguments": ("ArgumentFiller", "Arguments"),
    "moma_core.decoding.decider": ("FusedDecider", "FusionWeights"),
    "moma_core.decoding.evidence": ("ChoiceLikelihood", "NoisyChannel"),
    "moma_core.decoding.generate": (
        "NameChoices",
        "OrderedNames",
        "choose_name",
        "ordered_names",
        "top_k",
        "top_k_packed",
    ),
    "moma_core.decoding.local_llm": ("LocalLLM",),
    "moma_core.decoding.mask": ("NameMask",),
    "moma_core.decoding.prefix": ("KvPrefix", "PrefixCache", "PrefixCounters"),
    "moma_core.decoding.search": ("NameScores", "TopNames", "masked_scores", "score_names"),
    "moma_core.decoding.trie": ("Eligibility", "NamePrior", "NameTrie"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ArgumentFiller",
    "Arguments",
    "ChoiceLikelihood",
    "Eligibility",
    "FusedDecider",
    "FusionWeights",
    "KvPrefix",
    "LocalLLM",
    "NameChoices",
    "NameMask",
    "NamePrior",
    "NameScores",
    "NameTrie",
    "NoisyChannel",
    "OrderedNames",
    "PrefixCache",
    "PrefixCounters",
    "TopNames",
    "choose_name",
    "masked_scores",
    "ordered_names",
    "score_names",
    "top_k",
    "top_k_packed",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'{name} needs {error.name}; type: pip install "moma-router[llm]"'
        ) from error


def __dir__() -> list[str]:
    return __all__
