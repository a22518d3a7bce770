"""Agents that rewrite a quantity: units, number bases, Roman numerals, numbers in words."""

from __future__ import annotations

import re
from typing import Annotated, Any

from langchain_core.tools import tool

from moma_demo.agents.agent import DemoAgent, UnclearError
from moma_demo.agents.extract import numbers, whole
from moma_demo.agents.units import convert, units_in

__all__ = ["AGENTS"]

_BASES = {"binary": 2, "octal": 8, "decimal": 10, "hexadecimal": 16, "hex": 16}
_BASE = re.compile(r"\b(?:base[\s-]?(\d{1,2})|(binary|octal|decimal|hexadecimal|hex))\b", re.I)
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PREFIXES = {"0x": 16, "0b": 2, "0o": 8}
_ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"),
    (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip
_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))


@tool
def unit_converter(
    value: float,
    source: Annotated[str, "Unit of the value, such as miles"],
    target: Annotated[str, "Unit wanted, such as kilometres"],
) -> str:
    """Convert a measure between units of length, weight, volume, speed, area, temperature, data."""
    return f"{value:g} {source} = {convert(value, source, target):,.6g} {target}"


def _units(text: str) -> dict[str, Any]:
    found = units_in(text)
    amounts = list(re.finditer(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?", text))
    if len(found) < 2 or not amounts:
        raise UnclearError
    end = amounts[0].end()
    # The unit right after the number is the one it is given in.
    source = min((unit for unit in found if unit[0] >= end), default=found[0])
    target = next((unit for _, unit in found if unit.name != source[1].name), None)
    if target is None:
        raise UnclearError
    value = float(amounts[0].group().replace(",", ""))
    return {"value": value, "source": source[1].name, "target": target.name}


@tool
def base_converter(
    number: Annotated[str, "Digits in the source base"],
    source_base: Annotated[int, "2 to 36"],
    target_base: Annotated[int, "2 to 36"],
) -> str:
    """Convert a whole number between binary, octal, decimal, hexadecimal and other bases."""
    if not (2 <= source_base <= 36 and 2 <= target_base <= 36):
        raise ValueError("bases go from 2 to 36.")
    if len(number) > 100:
        raise ValueError("I take at most 100 digits.")
    value, digits = int(number, source_base), ""
    rest = abs(value)
    while rest or not digits:
        rest, digit = divmod(rest, target_base)
        digits = _DIGITS[digit] + digits
    sign = "-" if value < 0 else ""
    return f"{number} in base {source_base} = {sign}{digits} in base {target_base}"


def _base(text: str) -> dict[str, Any]:
    bases = [
        int(number) if number else _BASES[word.lower()] for number, word in _BASE.findall(text)
    ]
    rest = _BASE.sub(" ", text)
    literal = re.search(r"\b(0[xbo])([0-9a-f]+)\b", rest, re.I)
    plain = re.search(r"\b(?=[0-9a-f]*\d)[0-9a-f]+\b|\b[A-F]{2,}\b|'([0-9a-z]+)'", rest)
    if not bases or not (literal or plain):
        raise UnclearError
    if literal:
        source, number = _PREFIXES[literal.group(1).lower()], literal.group(2)
    else:
        number = (plain.group(1) or plain.group()) if plain else ""
        source = bases[0] if len(bases) > 1 else _guess(number, text)
    target = next((base for base in reversed(bases) if base != source), 10)
    return {"number": number, "source_base": source, "target_base": target}


def _guess(number: str, text: str) -> int:
    """A base named before the number, or with 'from', is the number's own."""
    named = re.search(r"\b(binary|octal|hex(?:adecimal)?)\s+(?:number\s+)?[0-9a-f]+\b", text, re.I)
    if named:
        return _BASES[named.group(1).lower()]
    return 10 if number.isdigit() else 16


@tool
def roman_numerals(number: Annotated[str, "1994 or MCMXCIV"]) -> str:
    """Write a number in Roman numerals, or read Roman numerals as a number."""
    if number.isdigit():
        return f"{number} = {_to_roman(int(number))}"
    total, rest = 0, number.upper()
    for value, letters in _ROMAN:
        while rest.startswith(letters):
            total, rest = total + value, rest[len(letters) :]
    if rest or _to_roman(total) != number.upper():
        raise ValueError(f"{number!r} is not a Roman numeral.")
    return f"{number.upper()} = {total}"


def _to_roman(number: int) -> str:
    if not 1 <= number <= 3999:
        raise ValueError("Roman numerals go from 1 to 3999.")
    letters = ""
    for value, sign in _ROMAN:
        times, number = divmod(number, value)
        letters += sign * times
    return letters


def _roman(text: str) -> dict[str, Any]:
    found = re.search(r"\b\d+\b", text) or re.search(r"\b[MDCLXVI]{2,}\b", text)
    found = found or re.search(r"\b[MDCLXV]\b", text)
    if not found:
        raise UnclearError
    return {"number": found.group()}


@tool
def number_speller(number: Annotated[int, "Up to a million million"]) -> str:
    """Spell a number out in English words, as on a cheque."""
    if abs(number) >= 10**12:
        raise ValueError("I spell numbers below 1,000,000,000,000.")
    return ("minus " if number < 0 else "") + _spell(abs(number))


def _spell(number: int) -> str:
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_SMALL[ones]}" if ones else "")
    size, name = next((size, name) for size, name in _SCALES if number >= size)
    count, rest = divmod(number, size)
    joint = " and " if 0 < rest < 100 else " "
    return f"{_spell(count)} {name}" + (joint + _spell(rest) if rest else "")


def _spelled(text: str) -> dict[str, Any]:
    found = numbers(text)
    if not found:
        raise UnclearError
    return {"number": whole(found[0])}


AGENTS = (
    DemoAgent(
        unit_converter,
        "conversion",
        _units,
        "a number, its unit and the unit you want, such as 5 miles in km.",
        (
            "convert 5 miles to kilometres",
            "how many grams are in 3 ounces?",
            "100 fahrenheit in celsius",
            "what is 70 kg in pounds",
            "how much is 2.5 cups in ml",
            "60 mph as km/h",
            "how many feet are 180 cm?",
            "turn 3 acres into square metres",
        ),
    ),
    DemoAgent(
        base_converter,
        "conversion",
        _base,
        "a number and a base, such as 255 in hexadecimal.",
        (
            "what is 255 in hexadecimal?",
            "convert 0xff to decimal",
            "binary 101101 as a decimal number",
            "write 64 in base 2",
            "octal 777 to binary",
            "give me 1000 in hex",
            "from base 16 to base 10: 1f4",
        ),
    ),
    DemoAgent(
        roman_numerals,
        "conversion",
        _roman,
        "a number from 1 to 3999, or a Roman numeral.",
        (
            "write 1994 in roman numerals",
            "what number is MCMLXXXIV?",
            "2026 as a Roman numeral",
            "what does XLII stand for",
            "how did the Romans write 49",
            "translate the year MDCCLXXVI on this building",
            "how would ancient Rome have written 2024",
            "the number 77 in the style of a Roman inscription",
        ),
    ),
    DemoAgent(
        number_speller,
        "conversion",
        _spelled,
        "a whole number, such as 1234.",
        (
            "spell out 1234",
            "how do you write 87 in words?",
            "write the amount 5,250 in letters for a cheque",
            "21000 in English words",
            "how is 1000001 pronounced",
        ),
    ),
)
