"""Learning from use: a contextual bandit over LLMs with a safe floor; off by default."""

from moma_core.llm_routing.learning.bandit import LearningConfig
from moma_core.llm_routing.learning.directions import Directions
from moma_core.llm_routing.learning.estimate import Estimate, Estimates, estimate
from moma_core.llm_routing.learning.learning import Learning
from moma_core.llm_routing.learning.log import FeedbackLog, FeedbackRecord
from moma_core.llm_routing.learning.surface import TakesFeedback

__all__ = [
    "Directions",
    "Estimate",
    "Estimates",
    "FeedbackLog",
    "FeedbackRecord",
    "Learning",
    "LearningConfig",
    "TakesFeedback",
    "estimate",
]
