"""How a turn is to be read: what it asks, after which query, and whether it asks at all.

"And for two people?" means nothing alone; "never mind, what's 2+2" is about 2+2. A `Reading` is
made from the words, the history and the previous `RoutingState`; it knows neither states nor
agents. The built-in phrases are English, others are given as plain phrases. Whoever took the last
turn also keeps what only answers or goes on: `goes_on`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from zlib import crc32

import numpy as np

from moma_core.protocols import Encoder
from moma_core.types import FloatArray, Query, RoutingState

__all__ = [
    "ACTS",
    "N_TERMS",
    "EncodedTurns",
    "Phrases",
    "Reading",
    "act_terms",
    "acts",
    "asking",
    "generality",
    "goes_on",
    "in_context",
    "question_in",
]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a turn says.

    Args:
        text: What to encode and rank: the question in the query (`question_in`), less a cancel
            phrase before it.
        words: What the rules of states look at: ``text``, or nothing in a mere "never mind".
        topic: Of a follow-up: the query that it leans on, where it is known.
        follows: Whether it leans on the turn before it.
        cancels: Whether it drops what was being talked about.
    """

    text: str
    words: str
    topic: str = ""
    follows: bool = False
    cancels: bool = False

    @property
    def joined(self) -> str | None:
        """Of a follow-up, ``topic`` and then ``text``; what it would be as a whole query."""
        return f"{self.topic} {self.text}" if self.topic else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to say of it in a decision's steps."""
        if self.follows:
            return (f"(follow-up, read as {self.joined!r:.120})" if self.joined else "(follow-up)",)
        return ("(changed mind)",) if self.cancels else ()

    @property
    def whole(self) -> str:
        """What an LLM would have to answer."""
        return self.joined or self.text

    def next_topic(self, previous: str, *, same_target: bool, stays: bool = False) -> str:
        """Return what the next follow-up leans on: this turn, or what this turn leant on.

        Args:
            previous: What this turn could lean on.
            same_target: Whether an LLM takes it, or the agent that took the one before.
            stays: Whether it only goes on with what that one was doing.
        """
        if self.follows and same_target:
            return self.topic
        return previous if stays and previous else self.words[:_HEAD]


class Phrases:
    """Tells follow-ups and cancellations by how they begin.

    Args:
        follow_ups: Phrases that begin a follow-up, beside the English ones.
        cancel: Phrases that begin a change of mind, beside the English ones.

    Example:
        >>> weather = RoutingState(last_target="weather", topic="will it rain in Rome?")
        >>> Phrases().read(Query("and in Oslo?"), weather).joined
        'will it rain in Rome? and in Oslo?'
        >>> Phrases().read(Query("never mind, what's 2+2"), weather).text
        "what's 2+2"
    """

    def __init__(self, follow_ups: Sequence[str] = (), cancel: Sequence[str] = ()) -> None:
        self.follow_ups, self.cancel = tuple(follow_ups), tuple(cancel)
        self._lead = re.compile(f"{_FILLER}(?:{_any(_LEADS, self.follow_ups)})", re.IGNORECASE)
        self._cancel = re.compile(
            f"{_FILLER}(?:{_any(_CANCELS, self.cancel)}){_TO_THE_CLAUSE_END}", re.IGNORECASE
        )

    def read(self, query: Query, previous: RoutingState) -> Reading:
        """Return how to read ``query`` after ``previous``."""
        text = question_in(query.text)
        dropped = self._cancel.match(text[:_HEAD])
        if dropped:
            rest = text[dropped.end() :].strip()
            return Reading(rest or text, rest, cancels=True)
        if query.events or not self.is_elliptic(text):
            return Reading(text, text)
        topic = previous.topic or self._last_standing(query.history)
        if not (topic or previous.last_target):
            return Reading(text, text)
        return Reading(text, text, topic, follows=True)

    def is_elliptic(self, text: str) -> bool:
        """Say whether a text leans on an earlier one: short, and begun like a follow-up."""
        text = text.strip()
        if len(text) > _MAX_CHARS or len(text.split()) > _MAX_WORDS:
            return False
        if _ASSENT.fullmatch(text):
            return True
        return bool(self._lead.match(text)) and not _stands_alone(text)

    def _last_standing(self, history: Sequence[str]) -> str:
        recent = (text for text in reversed(history[-_LOOK_BACK:]) if text.strip())
        return next((text for text in recent if not self.is_elliptic(text)), "")[:_HEAD]


_HEAD = 300  # characters of a text in which phrases are looked for
_MAX_CHARS, _MAX_WORDS = 80, 10  # of a follow-up
_LOOK_BACK = 10  # earlier turns among which the query that a follow-up leans on is looked for

_FILLER = (
    r"^\W*(?:(?:ok|okay|great|thanks|thank you|cool|nice|good|perfect|yes|yeah|no|hmm|oh|well|wait"
    r"|actually|sorry|please)\b\W*)*"
)
_LEADS = (
    r"(?:and|or|but|also|plus)",
    r"(?:what|how) (?:about|if)",
    r"(?:the )?same\b(?: \w+)? (?:for|but|with|in|on|at|to|again)",
    r"(?:once more|again|another one)",
    r"(?:make|change|move) (?:it|that|this)",
    r"(?:for|in|at|on|with|without|until|from|to)(?: [\w']+){1,4}\W*$",
)
_CANCELS = (
    r"never ?mind",
    r"forget (?:it|that|this|about)",
    r"scratch that",
    r"let'?s (?:talk about|do|try) something (?:else|different)",
    r"(?:change of|different|new) (?:subject|topic)",
    r"start over",
)
_TO_THE_CLAUSE_END = r"[^,.;:!?–—]*?(?:[,.;:!?–—]+| - |$)\s*"
_ASSENT = re.compile(r"(?:yes|yeah|yep|sure|ok|okay|please do|go ahead|do it)(?: please)?\W*", re.I)
_QUESTION = re.compile(
    r"(?:^|.*?\b(?:and|or|but|also|plus|for|in|at|on|with|from|to)\W+)"
    r"(?:what|who|whose|how|when|where|which|why|is|are|do|does|did|can|could|will|would|should)\b"
    r"(?! (?:about|if)\b)",
    re.I,
)
_PRONOUN = re.compile(r"\b(?:its?|that|this|there|them|they|he|she|him|her|ones?|those)\b", re.I)


def _stands_alone(text: str) -> bool:
    """Say whether a question that begins with "and" has all that it needs: "and who is Ada?"."""
    return bool(_QUESTION.match(text)) and not _PRONOUN.search(text)


def _any(built_in: Iterable[str], phrases: Iterable[str]) -> str:
    words = [rf"{part}\b" if not part.endswith("$") else part for part in built_in]
    return "|".join([*words, *(re.escape(phrase) + _edge(phrase) for phrase in phrases)])


def _edge(phrase: str) -> str:
    """Return what must follow a phrase: a word's end, in scripts that have spaces."""
    return "" if _SPACELESS.search(phrase) else r"\b"


_SPACELESS = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff]$")


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTurns:
    """n readings with their vectors, m of them joined to an earlier query.

    Args:
        readings: What the turns say.
        alone: Of their texts, shape (n, d).
        joined: Of the joined texts, in order, shape (m, d).
    """

    readings: Sequence[Reading]
    alone: FloatArray
    joined: FloatArray

    @classmethod
    def encode(cls, readings: Sequence[Reading], encoder: Encoder) -> EncodedTurns:
        """Encode readings, all in one call."""
        joined = [reading.joined for reading in readings if reading.joined]
        vectors = encoder.encode([*(reading.text for reading in readings), *joined])
        return cls(readings, vectors[: len(readings)], vectors[len(readings) :])

    @property
    def whole(self) -> FloatArray:
        """Vectors of `Reading.whole`, shape (n, d)."""
        leaning = self._leaning()
        if not leaning:
            return self.alone
        whole = self.alone.copy()
        whole[leaning] = self.joined
        return whole

    def rows(self, index: Sequence[int]) -> EncodedTurns:
        """Return the readings that ``index`` picks, in its order."""
        place = {i: row for row, i in enumerate(self._leaning())}
        joined = self.joined[[place[i] for i in index if i in place]]
        return EncodedTurns([self.readings[i] for i in index], self.alone[list(index)], joined)

    def _leaning(self) -> list[int]:
        return [i for i, reading in enumerate(self.readings) if reading.joined]


_FAVOUR = 1.0  # log-odds of whoever took the turn that a follow-up leans on


def in_context(
    alone: FloatArray, joined: FloatArray | None, previous: int | None, *, by_llm: bool
) -> FloatArray:
    """Return the logits of a follow-up, shape (n,).

    The mean of what its own words say ("and a hotel?" is about hotels) and what they say after the
    query that they lean on, with whoever took that one favoured. Weighed on 39 follow-ups of 12
    agents: own words alone 27 right, joined alone 32, their mean 35, with the favour 36.

    Args:
        alone: Logits of the own words, shape (n,).
        joined: Logits of the joined text, shape (n,), where there is one.
        previous: Which agent took the previous turn, if one did.
        by_llm: Whether an LLM took it; then every agent loses what an agent would gain.
    """
    logits: FloatArray = alone.copy() if joined is None else (alone + joined) * np.float32(0.5)
    if previous is not None:
        logits[previous] += _FAVOUR
    elif by_llm:
        logits -= _FAVOUR
    return logits


_AFTER = 0.5  # log-odds of a turn to go on with the one before
_ASKED = 2.0  # the same, where an agent is known to wait for an answer
_FAR = 1e-4


def goes_on(text: str, rival: float, *, asked: bool = False) -> float:
    """Return the probability that a turn goes on with whoever took the one before it.

    By how it is said (`acts`) it is a reply with odds r. That another agent fits it with
    probability q speaks against that where q is above one half: the odds are ``r (1 - q) / q``.
    Replies hold agents' words, too ("cancel that"): of what is said like one it counts by half.

    Args:
        text: The turn's own words.
        rival: q, the calibrated probability that the best of the other agents is right.
        asked: Whether an agent is known to wait for an answer.

    Example:
        >>> goes_on("order 4471", 0.6) > 0.5 > goes_on("will it rain in Oslo?", 0.6)
        True
    """
    reply = float(acts([text])[0, 1])
    said = np.log(max(reply, _FAR) / max(1.0 - reply, _FAR))
    said -= max(float(generality([text])[0]), 0.0)  # what any LLM does is a request of its own
    against = max(np.log(max(rival, _FAR) / max(1.0 - rival, _FAR)), 0.0)
    odds = said + (_ASKED if asked else _AFTER) - (0.5 if reply >= 0.5 else 1.0) * against
    return float(1.0 / (1.0 + np.exp(-odds)))


_LONG = 40  # words, from which a text's sentences are looked at one by one
_ASKING = 6  # sentences at most
_SENTENCE = re.compile(r"(?<=[.?!。？！;])\s+|\n+|(?<=[。？！])")


def asking(text: str) -> dict[str, float]:
    """Return the sentences of a long text that ask for something, with the probability of it.

    One sentence vector for a page is about everything in it and so about nothing. Of a short text
    there are none: it is looked at whole.

    Example:
        >>> asking("will it rain?")
        {}
        >>> mail = "Hi team, please find attached the minutes of the last meeting. " * 4
        >>> list(asking(mail + "Can you book a flight to Rome for me? Best, Bob"))
        ['Can you book a flight to Rome for me?']
    """
    if len(text.split()) < _LONG:
        return {}
    sentences = [each.strip() for each in _SENTENCE.split(text[:_READ_ON])]
    sentences = [each for each in dict.fromkeys(sentences) if len(each.split()) > 1]
    if len(sentences) < 2:
        return {}
    found = dict(zip(sentences, acts(sentences)[:, 0].tolist(), strict=True))
    likely = sorted((each for each in found if found[each] >= 0.5), key=lambda each: -found[each])
    return {each: found[each] for each in likely[:_ASKING]}


_READ_ON = 20_000  # characters of a long text


ACTS = ("request", "reply", "statement")
N_TERMS = 2**14
_ACT_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d[\d.,:/-]*|[?!]")
_MOST_WORDS_READ = 60


def act_terms(text: str) -> list[int]:
    """Return which terms a text holds: words, pairs, how it begins and ends, and its length.

    Numbers count as one word whatever they are, as do names: words with a capital inside a text.

    Example:
        >>> act_terms("order 4471") == act_terms("order 12")
        True
    """
    words = [_masked(word, i) for i, word in enumerate(_ACT_WORD.findall(text)[:_MOST_WORDS_READ])]
    length = min(len(words), 12)
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    terms = [
        *words,
        *pairs,
        f"length {length}",
        f"^{' '.join(words[:1])}",
        f"^{' '.join(words[:2])}",
    ]
    terms += [f"^{' '.join(words[:3])}", f"{' '.join(words[-1:])}$", f"{' '.join(words[-2:])}$"]
    if length <= 6:
        terms.append(f"all {' '.join(words)}")
    return [crc32(term.encode()) % N_TERMS for term in dict.fromkeys(terms)]


def _masked(word: str, place: int) -> str:
    if word[0].isdigit():
        return "#"
    if place and word[0].isupper() and word not in ("I", "I'm", "I'd", "I'll", "I've"):
        return "Name"
    return word.lower()


def acts(texts: Sequence[str]) -> FloatArray:
    """Return how probable each of `ACTS` is of n texts, shape (n, 3), rows adding up to 1.

    Whether a sentence asks for something, answers or goes on with what was said, or just tells: a
    linear model over words, trained on what people ask of tools and on written replies and
    statements (``benchmarks/weights/train_acts.py``). It looks at how things are said, an encoder
    at what about. Words that it never saw say nothing: then the length decides.

    Example:
        >>> request, reply, statement = acts(["book a flight to Rome", "yes, go ahead", "Hi team,"])
        >>> bool(request[0] > 0.5), bool(reply[1] > 0.5), bool(statement[2] > 0.5)
        (True, True, True)
    """
    weights, bias = _act_weights("weights", "bias")
    logits = np.array([weights[act_terms(text)].sum(axis=0) for text in texts]).reshape(-1, 3)
    logits = logits + bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: FloatArray = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def generality(texts: Sequence[str]) -> FloatArray:
    """Return log-odds that texts ask for what any LLM does rather than one tool, shape (n,).

    By how they ask: to explain, to write, to translate, what a word means; not by what about.

    Example:
        >>> poem, flight = generality(["Write a poem about a flight", "book a flight to Rome"])
        >>> bool(poem > 0 > flight)
        True
    """
    weights, bias = _act_weights("general", "general_bias")
    odds = [float(weights[act_terms(text)].sum()) for text in texts]
    found: FloatArray = (np.array(odds) + bias[0]).astype(np.float32)
    return found


@cache
def _act_weights(weights: str, bias: str) -> tuple[FloatArray, FloatArray]:
    from safetensors.numpy import load

    tensors = load((files("moma_core") / "packaged" / "acts.safetensors").read_bytes())
    return tensors[weights].astype(np.float32), tensors[bias].astype(np.float32)


_ENDS = 8_000  # characters at either end of a text; its question is near one of them
_TAG = r"[A-Za-z][\w.:-]*"
_ASKED_IN = re.compile(
    r"<(user[_-]?(?:query|message|input|request|prompt)|query|question|prompt|request|message|input"
    r"|task)\b[^<>]*>(?P<inside>.*?)</\1\s*>",
    re.IGNORECASE | re.DOTALL,
)
_BLOCK = re.compile(rf"^[ \t]*<({_TAG})\b[^<>]*>.*?</\1\s*>[ \t]*$", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
_RULED = re.compile(
    r"^[ \t]*([-=*_#])\1{4,}[ \t]*\n.*?^[ \t]*\1{5,}[ \t]*$", re.DOTALL | re.MULTILINE
)
_LABEL = (
    r"(?:user|human|customer|me)?[ ]?(?:question|query|request|input|prompt|message|task|ask"
    r"|instruction|q|user|human|customer)"
)
_CLOSING = (
    r"(?:(?:helpful|final|your|short)\s)?(?:answer|response|reply|output|assistant|agent|ai|bot|a)\s*:"
    r"|(?:context|sources?|documents?|passages?|thoughts?|history|chat history)\s*:"
)
_LABELLED = re.compile(
    rf"^[ \t>*#]*{_LABEL}[*]*[ \t]*:[*]*[ \t]*\n?(?P<asked>[^\n].*?)"
    rf"(?=^[ \t>*#]*(?:{_CLOSING}|{_LABEL}[*]*[ \t]*:)|\Z)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_FORM = re.compile(
    rf"^[ \t>*#]*(?:{_CLOSING})[*]*[ \t]*\Z"  # a place for the answer, at the end
    r"|^[ \t>*#]*(?:retrieved |given |relevant |search |chat )?"
    r"(?:context|sources?|documents?|passages?|results|history)[^\n:]{0,40}:"
    rf"|\A\s*{_LABEL}[ \t]*:.*^[ \t]*(?:assistant|ai|bot|agent)[ \t]*:",  # who said what
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_MAIL_BELOW = re.compile(
    r"^(?:[ \t>]*On [^\n]{4,120}(?:\n[^\n]{0,80})? wrote:\s*$"
    r"|[ \t]*-{2,}\s*(?:Original|Forwarded)[^\n]*$"
    r"|[ \t]*_{10,}[ \t]*$(?=\s*From:)"
    r"|[ \t]*From:[^\n]+\n(?:[ \t]*(?:Sent|Date|To|Cc|Subject):[^\n]*\n)+)",
    re.IGNORECASE | re.MULTILINE,
)
_QUOTED = re.compile(r"^ {0,3}>(?!>> )[^\n]*\n?", re.MULTILINE)  # not Python's own prompt
_HEADERS = re.compile(
    r"\A(?:[ \t]*(?:From|Sent|Date|To|Cc|Subject|Betreff):[^\n]*\n)+", re.IGNORECASE
)
_SIGNATURE = re.compile(r"^-- ?$.*\Z", re.DOTALL | re.MULTILINE)
_REMARK = 3  # words above a forwarded mail, from which they are more than "FYI"
_HAS_WORDS = re.compile(r"[^\W\d_]{2}|[\u3040-\u9fff\uac00-\ud7af]")


def question_in(text: str) -> str:
    r"""Return what a text asks, without what was put around it; the text itself where it is bare.

    Only form counts, not topic: blocks in tags, fenced code, quoted and forwarded mail, signatures,
    and labels such as ``Question:`` with what comes before and after.

    Example:
        >>> question_in("<system-reminder>\nRun the linter.\n</system-reminder>\nWill it rain?")
        'Will it rain?'
        >>> question_in("Context: It rained all May.\nQuestion: will it rain?\nAnswer:")
        'will it rain?'
        >>> question_in("Will it rain?\n\nOn Mon, Ada wrote:\n> The budget is attached.")
        'Will it rain?'
        >>> question_in("why is <b>this</b> not bold?")
        'why is <b>this</b> not bold?'
    """
    if not _worth_a_look(text):
        return text
    ends = text if len(text) <= 2 * _ENDS else f"{text[:_ENDS]}\n{text[-_ENDS:]}"
    asked = [match["inside"] for match in _ASKED_IN.finditer(ends)]
    found = asked[-1] if asked and _said(asked[-1]) else ends
    for strip in (_without_blocks, _labelled, _without_mail):
        left = strip(found)
        found = left if _said(left) else found
    return text if found is text else found.strip()


def _worth_a_look(text: str) -> bool:
    return "\n" in text or "</" in text


def _said(text: str) -> bool:
    return bool(_HAS_WORDS.search(text))


def _without_blocks(text: str) -> str:
    left = _BLOCK.sub("", text)
    for pattern in (_RULED, _FENCE):
        shorter = pattern.sub("", left)
        left = shorter if _said(shorter) else left
    return left


def _labelled(text: str) -> str:
    """Return what follows the last label, in a form to fill in or a written down conversation."""
    asked = [match["asked"] for match in _LABELLED.finditer(text)]
    return asked[-1] if asked and _FORM.search(text) else text


def _without_mail(text: str) -> str:
    below = _MAIL_BELOW.search(text)
    if below and len(text[: below.start()].split()) >= _REMARK:
        text = text[: below.start()]
    for pattern in (_HEADERS, _QUOTED, _SIGNATURE):
        shorter = pattern.sub("", text)
        text = shorter if _said(shorter) else text
    return text
