"""Queries made of others for the reranker: tools' words in them, but another wish, and the like.

Each maker takes a random generator and queries and returns a text. `MENTIONS` never want the tool
that their words are about; a third of the templates is held out of training (`split_templates`).
"""

from __future__ import annotations

import re

import numpy as np

MENTIONS = (
    "Translate '{q}' to {lang}",
    "translate the sentence \"{q}\" into {lang}",
    "How do you say '{q}' in {lang}?",
    "what is the {lang} for '{q}'?",
    "Put this into {lang}: {q}",
    "please correct the grammar of: {q}",
    "Is the sentence '{q}' grammatically correct?",
    "Rewrite '{q}' in a formal tone",
    "make this sound more polite: {q}",
    "Paraphrase: \"{q}\"",
    "how many words are in '{q}'?",
    "count the letters of \"{q}\"",
    "what part of speech is '{w}' in '{q}'?",
    "what does the word '{w}' mean?",
    "define {w}",
    "what is the meaning of {w}",
    "where does the word {w} come from?",
    "give me a synonym for {w}",
    "what rhymes with {w}?",
    "use the word {w} in a sentence",
    "how do you spell {w}",
    "what is the plural of {w}?",
    "explain how {w} works",
    "Explain {w} to a five-year-old",
    "what is the history of {w}?",
    "who invented {w}?",
    "why do people talk about {w} so much?",
    "why is {w} important in society?",
    "what are the ethics of {w}?",
    "write an essay about {w}",
    "Summarise the economics of {w} in three sentences",
    "what did philosophers think of {w}?",
    "is {w} good or bad for children?",
    "what is the difference between {w} and {v}?",
    "compare {w} with {v} in general terms",
    "tell me a joke about {w}",
    "Write a poem about '{q}'",
    "write a haiku about {w}",
    "compose a song in which somebody says '{q}'",
    "Write a short story that begins with '{q}'",
    "write a scene where a character asks \"{q}\"",
    "write a python function named {w}_{v}",
    "write a regex that matches the word {w}",
    "how would I program something that can {q}",
    "design a database schema for an app about {w}",
    "write a slogan for a company that sells {w}",
    "Imagine an assistant is asked '{q}'. What should it ask back?",
    "why would somebody ask '{q}'?",
    "classify the intent of this request: {q}",
    "is the following rude? '{q}'",
    "my friend said '{q}', what did she mean by that?",
    "in the film someone says '{q}', which film is it?",
    "{w} {w} {w} {w}: who wrote Hamlet?",
    "{w} {v} {w}. What is the capital of Peru?",
    "{w}, {w}, {w}! what is 17 times 23?",
    "never {q}",
    "don't {q}",
    "please do not {q}",
    "I would never want you to {q}",
    "under no circumstances {q}",
    "I already did that, no need to {q}",
    "stop, do not {q}",
    "you don't have to {q} any more",
    "what is the {w} of power in Europe?",
    "what role does {w} play in Victorian novels?",
    "draft a school lesson on {w}",
    "give me five interview questions about {w}",
    "how has {w} changed since 1900?",
    "what would the world look like without {w}?",
    "quote a proverb about {w}",
    "explain the psychology behind {w}",
    "prove or refute: {w} leads to {v}",
)  # fmt: skip

NEGATED_THEN_WANTED = (
    "I do not want to {q}, just {p}",
    "don't {q}, {p} instead",
    "forget about that: no need to {q}. {p}",
    "instead of trying to {q}, please {p}",
    "not the one to {q}, I need to {p}",
    "never mind, do not {q}; {p}",
)
BOTH = (
    "{q} and {p}", "{q}, then {p}", "{q}. Also {p}", "{q} and also {p}", "first {q}, after that {p}",
    "{q}; {p}", "can you {q} and tell me {p}", "{q} as well as {p}",
)  # fmt: skip
WRAPPED = (
    "Hi, could you please {q}? Thanks a lot!",
    "hello there, I was wondering whether you could {q}",
    "Hi team,\nhope you are all well. We talked about the plan last week.\nCan you {q}?\nBest, Bob",
    "Thanks for the quick answer yesterday. One more thing: {q}",
    "pls {q} asap",
    "I'm in a hurry, {q}",
    "ok so my question is {q}",
    "Sorry to bother you again, but {q}. Thank you!",
)
SMALL_TALK = (
    "ok", "okay", "thanks", "thank you so much", "hi", "hello", "good morning", "bye", "yes", "no",
    "great", "cool", "how are you?", "who are you?", "are you a robot?", "I'm bored", "lol", "hmm",
    "what can you do?", "that was helpful", "nice to meet you", "good night", "sure", "never mind",
    "tell me something interesting", "do you like music?", "what's your favourite colour?", "sorry",
    "you are funny", "I love you", "are you there?", "test", "asdf", "?", "what?", "why?", "go on",
)  # fmt: skip
LANGUAGES = ("French", "Spanish", "German", "Italian", "Japanese", "Latin", "Dutch", "Polish")
TEXT_TOOL = re.compile(
    r"translat|writ|poem|poet|story|grammar|rewrit|paraphras|synonym|rhym|dictionar|defin|spell|word"
    r"|language|explain|essay|joke|summar|lyric|song|quote|code|program|python|regex|schema|teach"
    r"|educat|chat|question|answer|search|wiki|histor|lesson|tutor|intent|classif|sentiment|research"
    r"|film|movie|count|text|content|copy|slogan|interview|philosoph|econom|compare|math|calculat",
    re.I,
)
"""Tools that may well want a text like those of `MENTIONS`: they are left out of the loss there."""


def split_templates(seed: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the templates of `MENTIONS` for training and, a third, for validation."""
    order = np.random.default_rng(seed).permutation(len(MENTIONS))
    held = set(order[: len(MENTIONS) // 3].tolist())
    return (
        tuple(t for i, t in enumerate(MENTIONS) if i not in held),
        tuple(t for i, t in enumerate(MENTIONS) if i in held),
    )


def mention(rng: np.random.Generator, templates: tuple[str, ...], query: str, about: str) -> str:
    """Return a text with the words of a query, or of its tool, that does not want the tool."""
    template = templates[rng.integers(len(templates))]
    said = [w for w in re.findall(r"[A-Za-z]{4,}", query) if w.lower() not in _DULL] or ["things"]
    known = [w for w in re.findall(r"[A-Za-z]{4,}", about) if w.lower() not in _DULL] or said
    pick = lambda words: words[rng.integers(len(words))].lower()  # noqa: E731
    return template.format(
        q=_lowered(query), w=pick(said if rng.random() < 0.5 else known), v=pick(known),
        lang=LANGUAGES[rng.integers(len(LANGUAGES))],
    )  # fmt: skip


def joined(
    rng: np.random.Generator, templates: tuple[str, ...], query: str, other: str = ""
) -> str:
    """Return a query put into a template, beside another one."""
    template = templates[rng.integers(len(templates))]
    return template.format(q=_lowered(query), p=_lowered(other))


def misspelt(rng: np.random.Generator, query: str) -> str:
    """Return a query shortened to a few words, or with letters dropped and swapped."""
    if rng.random() < 0.4:
        words = [w for w in query.split() if len(w) > 2] or query.split()
        start = int(rng.integers(max(len(words) - 3, 1)))
        return " ".join(words[start : start + 4]).strip("?.!,").lower()
    letters = list(query.lower())
    for _ in range(max(1, len(letters) // 15)):
        i = int(rng.integers(max(len(letters) - 1, 1)))
        if rng.random() < 0.5 and len(letters) > 4:
            del letters[i]
        elif i + 1 < len(letters):
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
    return "".join(letters)


_DULL = frozenset(
    [
        "please",
        "could",
        "would",
        "want",
        "need",
        "that",
        "this",
        "with",
        "from",
        "have",
        "what",
        "when",
        "where",
        "which",
        "there",
        "their",
        "your",
        "about",
        "will",
        "make",
        "does",
        "them",
        "they",
        "tell",
        "give",
        "show",
        "find",
        "into",
        "using",
        "used",
        "user",
        "users",
        "based",
        "allow",
        "allows",
        "provide",
        "provides",
        "tool",
        "tools",
        "agent",
        "specific",
        "given",
        "data",
        "information",
    ]
)


def _lowered(text: str) -> str:
    text = text.strip().rstrip("?.! ")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
