# The page's own things: two LLMs, a judge, a router of the packaged pool.
from moma_core import LLMCard, MoMARouter

cards = {name: LLMCard(name, 1.0, 2.0) for name in ("small", "big")}
judge_card = LLMCard("judge", 1.0, 2.0)
router = MoMARouter.from_cards()


def ask_small(prompt: str) -> str:
    return "I do not know."


def ask_big(prompt: str) -> str:
    return "It is known."


def ask_judge(prompt: str) -> str:
    return "[[A=B]]"
