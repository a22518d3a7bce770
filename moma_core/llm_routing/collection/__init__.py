"""Collection (4.1.2): a user's queries, LLMs and judge become scored queries and judged pairs."""

from moma_core.llm_routing.collection.calls import CallRules
from moma_core.llm_routing.collection.collector import CollectConfig, collect
from moma_core.llm_routing.collection.judge import JUDGE_PROMPT, Judge
from moma_core.llm_routing.collection.questions import Questions
from moma_core.llm_routing.collection.reply import AskLLM, Reply
from moma_core.llm_routing.collection.scoring import Scorer, exact_match, final_answer
from moma_core.llm_routing.collection.tables import Collected

__all__ = [
    "JUDGE_PROMPT",
    "AskLLM",
    "CallRules",
    "CollectConfig",
    "Collected",
    "Judge",
    "Questions",
    "Reply",
    "Scorer",
    "collect",
    "exact_match",
    "final_answer",
]
