r"""The question in a text: what harnesses, mail programs and RAG templates put around it taken off.

Only form counts, not topic: blocks in tags, fenced code, quoted and forwarded mail, signatures, and
labels such as ``Question:`` with what comes before and after. Where nothing would be left, the text
stays as it is.
"""

from __future__ import annotations

import re

__all__ = ["question_in"]

_LOOKED_AT = 8_000  # characters at either end of a text; its question is near one of them
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
    ends = text if len(text) <= 2 * _LOOKED_AT else f"{text[:_LOOKED_AT]}\n{text[-_LOOKED_AT:]}"
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
