"""Judged pairs (4.1.2): read in parts, encoded once, trained on out of core."""

from moma_core.llm_routing.pairs.fitting import PAIR_HEADS, PairConfig
from moma_core.llm_routing.pairs.judgements import PAIRS, Judgements, holds_pairs, read_judgements
from moma_core.llm_routing.pairs.store import PairStore
from moma_core.llm_routing.pairs.training import train_pairs

__all__ = [
    "PAIRS",
    "PAIR_HEADS",
    "Judgements",
    "PairConfig",
    "PairStore",
    "holds_pairs",
    "read_judgements",
    "train_pairs",
]
