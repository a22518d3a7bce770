"""Data from use: chat models asked and judged, scores as LangSmith keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel

from langchain_moma.cards import llm_cards_from_chat_models
from langchain_moma.decision import decision_in
from moma_core import (
    Encoder,
    InvalidInputError,
    Judge,
    MissingExtraError,
    MoMARouter,
    RoutingDecision,
)
from moma_core import collect as collect_answers
from moma_core.training.calls import AskLLM, Reply
from moma_core.training.collect import CollectConfig, Collected, Questions
from moma_core.training.judge import Scorer

__all__ = [
    "JUDGE",
    "ask_chat_model",
    "collect",
    "feedback_from_scores",
    "reward_of_scores",
]


def feedback_from_scores(
    router: MoMARouter,
    decision: RoutingDecision | Mapping[str, Any],
    scores: Iterable[Any],
    *,
    key: str | None = None,
    low: float = 0.0,
    high: float = 1.0,
    answered_by: str | None = None,
) -> bool:
    """Teach a router how good the answer was, by the feedback of a run.

    Args:
        router: Whose decision it was; learning must be on: ``router.learn(Learning(...))``.
        decision: The decision, its dict, or what a routing node left in the graph's state.
        scores: Feedback as in LangSmith: ``{"key": "correctness", "score": 0.8}``, or objects with
            these attributes, as its client's ``list_feedback`` yields.
        key: Only scores of this key count; None: all do.
        low: Score of the worst answer.
        high: Score of the best one.
        answered_by: The LLM that really answered, ``message.response_metadata["moma_llm"]`` of
            `ChatMoMA`; where the chosen one failed and another stood in, nothing is learnt.

    Returns:
        Whether it was learnt: False without a score, without a decision for an LLM, where another
        LLM stood in, and for a decision that had feedback before.

    Raises:
        InvalidInputError: A score is out of bounds, the decision was made before learning was on,
            or learning is off.

    Example:
        >>> from moma_core import RoutingDecision
        >>> agent = RoutingDecision("agent", ("weather",), 0.97)
        >>> router = MoMARouter.from_cards()
        >>> feedback_from_scores(router, agent, [{"key": "helpful", "score": True}])
        False
    """
    made = _decision(decision)
    reward = reward_of_scores(scores, key=key, low=low, high=high)
    if made is None or made.kind != "llm" or reward is None:
        return False
    if answered_by not in (None, made.target):
        return False
    return router.feedback(made, reward)


def reward_of_scores(
    scores: Iterable[Any], *, key: str | None = None, low: float = 0.0, high: float = 1.0
) -> float | None:
    """Return the mean of scores, brought to [0, 1]; None where there is none.

    Args:
        scores: Dicts or objects with ``key`` and ``score``; a score of None is left out.
        key: Only scores of this key count; None: all do.
        low: Score of the worst answer.
        high: Score of the best one.

    Raises:
        InvalidInputError: A score is no number between ``low`` and ``high``.

    Example:
        >>> reward_of_scores([{"key": "stars", "score": 4}], low=1, high=5)
        0.75
    """
    if not low < high:
        raise InvalidInputError(f"low must be below high, got {low!r} and {high!r}.")
    rewards = []
    for each in scores:
        named, score = _field(each, "key"), _field(each, "score")
        if score is None or (key is not None and named != key):
            continue
        if not isinstance(score, int | float) or not low <= score <= high:
            raise InvalidInputError(
                f"the score of {named!r} is {score!r:.40}, expected {low:g} to {high:g}. Say what "
                "the worst and the best one are: low=1, high=5."
            )
        rewards.append((float(score) - low) / (high - low))
    return sum(rewards) / len(rewards) if rewards else None


def _field(feedback: Any, name: str) -> Any:
    if isinstance(feedback, Mapping):
        return feedback.get(name)
    return getattr(feedback, name, None)


def _decision(given: RoutingDecision | Mapping[str, Any]) -> RoutingDecision | None:
    if isinstance(given, RoutingDecision):
        return given
    return RoutingDecision.from_dict(given) if "targets" in given else decision_in(given)


JUDGE = "judge"
"""Name under which ``prices`` holds what the judge costs."""


def ask_chat_model(llm: BaseChatModel | str) -> AskLLM:
    """Return a callable that sends a prompt to a chat model and tells the tokens it used.

    Args:
        llm: A chat model, or what `init_chat_model` takes: ``"openai:gpt-4o-mini"``.

    Raises:
        InvalidInputError: It is neither, or its provider refuses, say without a key.
        MissingExtraError: The provider's package is not installed.

    Example:
        >>> from langchain_moma.testing import ScriptedChat
        >>> reply = ask_chat_model(ScriptedChat(name="small"))("hello there")
        >>> reply.text, reply.output_tokens
        ('small heard: hello there', 7)
    """
    model = _opened(llm)

    def ask(prompt: str) -> Reply:
        message = model.invoke(prompt)
        usage = message.usage_metadata
        return Reply(
            str(message.text),
            None if usage is None else usage["input_tokens"],
            None if usage is None else usage["output_tokens"],
        )

    return ask


def collect(
    queries: Questions | str | Path | Iterable[str | Mapping[str, Any]],
    llms: Mapping[str, BaseChatModel | str],
    out: str | Path,
    *,
    judge: BaseChatModel | str | None = None,
    scorer: Scorer | None = None,
    prices: Mapping[str, tuple[float, float]] | None = None,
    encoder: Encoder | None = None,
    config: CollectConfig | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Collected:
    """Ask chat models, judge or score their answers, and write what ``moma train llms`` reads.

    Args:
        queries: Texts, dicts with ``query``, ``task`` and ``reference``, or the path of a file.
        llms: Chat models, or ``"provider:model"``, by the names they are to have.
        out: Directory of the journal and the tables; run again to go on after a crash.
        judge: Compares answers in both orders.
        scorer: Scores one answer, instead of a judge.
        prices: USD per million input and output tokens by name, the judge's under ``"judge"``;
            what is missing is read from litellm's table when that package is installed.
        encoder: Needed to choose a sample of the queries.
        config: How much, and how.
        progress: Called with what is done, calls done, and calls in all.

    Raises:
        InvalidInputError: Neither or both of judge and scorer are given, or no chat model.
        InvalidCardError: No price of a chat model is known.
        ArtifactError: ``out`` cannot be written.
        NoTargetError: Nothing could be scored.

    Example:
        >>> import tempfile
        >>> from langchain_moma.testing import ScriptedChat
        >>> pool = {name: ScriptedChat(name=name) for name in ("small", "big")}
        >>> judge = ScriptedChat(name="judge", reply=lambda *_: "[[A=B]]")
        >>> free = {name: (0.0, 0.0) for name in ("small", "big", "judge")}
        >>> done = collect(["why?"], pool, tempfile.mkdtemp(), judge=judge, prices=free)
        >>> done.judged, done.mean_scores
        (1, {'small': 0.5, 'big': 0.5})
    """
    models = {name: _opened(llm) for name, llm in llms.items()}
    cards = {card.name: card for card in llm_cards_from_chat_models(models, prices)}
    judged = None
    if judge is not None:
        model = _opened(judge)
        [card] = llm_cards_from_chat_models({JUDGE: model}, prices)
        judged = Judge(ask_chat_model(model), card)
    return collect_answers(
        _questions(queries),
        {name: ask_chat_model(model) for name, model in models.items()},
        cards,
        out,
        judge=judged,
        scorer=scorer,
        encoder=encoder,
        config=config,
        progress=progress,
    )


def _opened(llm: BaseChatModel | str) -> BaseChatModel:
    model = _connected(llm) if isinstance(llm, str) else llm
    if not isinstance(model, BaseChatModel):
        raise InvalidInputError(
            f"expected a chat model or 'provider:model', got {type(model).__name__}."
        )
    return model


def _connected(name: str) -> BaseChatModel:
    try:
        return init_chat_model(name)
    except ImportError as error:  # says which package to install
        raise MissingExtraError(f"{name!r} cannot be asked: {error}.") from error
    except Exception as error:  # what a provider's constructor raises, say without its key
        said = str(error).strip().partition("\n")[0]
        raise InvalidInputError(
            f"{name!r} cannot be asked: {said} Write 'provider:model' such as "
            "'openai:gpt-4o-mini', with the provider's key in the environment."
        ) from error


def _questions(queries: Questions | str | Path | Iterable[str | Mapping[str, Any]]) -> Questions:
    if isinstance(queries, Questions):
        return queries
    return Questions.read(queries) if isinstance(queries, str | Path) else Questions.of(queries)
