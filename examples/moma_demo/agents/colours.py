"""Agents for colours: one notation to the others, and contrast between two."""

from __future__ import annotations

import colorsys
import re
from typing import Annotated, Any

from langchain_core.tools import tool

from moma_demo.agents.agent import DemoAgent, UnclearError

__all__ = ["AGENTS"]

RGB = tuple[int, int, int]

_NAMES: dict[str, RGB] = {
    "black": (0, 0, 0), "white": (255, 255, 255), "red": (255, 0, 0), "green": (0, 128, 0),
    "blue": (0, 0, 255), "yellow": (255, 255, 0), "orange": (255, 165, 0), "purple": (128, 0, 128),
    "pink": (255, 192, 203), "grey": (128, 128, 128), "gray": (128, 128, 128),
    "brown": (165, 42, 42), "navy": (0, 0, 128), "teal": (0, 128, 128), "gold": (255, 215, 0),
    "tomato": (255, 99, 71), "turquoise": (64, 224, 208), "beige": (245, 245, 220),
}  # fmt: skip
_COLOUR = re.compile(
    r"#[0-9a-f]{6}\b|#[0-9a-f]{3}\b|rgb\s*\(?\s*\d+[\s,]+\d+[\s,]+\d+\s*\)?"
    r"|hsl\s*\(?\s*\d+[\s,]+\d+%?[\s,]+\d+%?\s*\)?|\b(?:" + "|".join(_NAMES) + r")\b",
    re.IGNORECASE,
)
_AA = 4.5
_AAA = 7.0


def _rgb(colour: str) -> RGB:
    """Read a name, ``#hex``, ``rgb(...)`` or ``hsl(...)``."""
    colour = colour.strip().lower()
    if colour in _NAMES:
        return _NAMES[colour]
    if re.fullmatch(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})", colour):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
    parts = [int(part) for part in re.findall(r"\d+", colour)]
    if len(parts) == 3 and colour.startswith("rgb") and max(parts) <= 255:
        return parts[0], parts[1], parts[2]
    if len(parts) == 3 and colour.startswith("hsl") and max(parts[1:]) <= 100:
        hue, saturation, light = parts[0] % 360 / 360, parts[1] / 100, parts[2] / 100
        red, green, blue = colorsys.hls_to_rgb(hue, light, saturation)
        return round(red * 255), round(green * 255), round(blue * 255)
    raise ValueError(f"{colour!r} is no colour that I know.")


@tool
def colour_converter(
    colour: Annotated[str, "A name, #ff8800, rgb(255, 136, 0) or hsl(32, 100%, 50%)"],
) -> str:
    """Convert a colour between hex, RGB and HSL."""
    red, green, blue = _rgb(colour)
    hue, light, saturation = colorsys.rgb_to_hls(red / 255, green / 255, blue / 255)
    return (
        f"#{red:02x}{green:02x}{blue:02x} = rgb({red}, {green}, {blue}) = "
        f"hsl({hue * 360:.0f}, {saturation * 100:.0f}%, {light * 100:.0f}%)"
    )


def _colour(text: str) -> dict[str, Any]:
    found = _COLOUR.findall(text)
    if not found:
        raise UnclearError
    return {"colour": found[0]}


@tool
def contrast_checker(foreground: str, background: str) -> str:
    """Check whether text in one colour is readable on another (WCAG contrast ratio)."""
    lights = sorted((_luminance(_rgb(foreground)), _luminance(_rgb(background))))
    ratio = (lights[1] + 0.05) / (lights[0] + 0.05)
    grade = "AAA, easy to read" if ratio >= _AAA else "AA, readable" if ratio >= _AA else "too low"
    return f"contrast of {foreground} on {background} is {ratio:.2f}:1 ({grade})"


def _luminance(colour: RGB) -> float:
    """Relative luminance, as in WCAG 2.2."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _pair(text: str) -> dict[str, Any]:
    found = _COLOUR.findall(text)
    if len(found) < 2:
        raise UnclearError
    return {"foreground": found[0], "background": found[1]}


AGENTS = (
    DemoAgent(
        colour_converter,
        "colours",
        _colour,
        "a colour, such as #ff8800.",
        (
            "convert #ff8800 to rgb",
            "hex code of rgb(64, 224, 208)",
            "what is hsl(210, 50%, 40%) in hex?",
            "RGB values for navy",
            "give me tomato as HSL",
            "html colour code for rgb 12, 34, 56",
        ),
    ),
    DemoAgent(
        contrast_checker,
        "colours",
        _pair,
        "two colours, such as white on navy.",
        (
            "contrast between #777777 and white",
            "is white text on orange readable?",
            "WCAG ratio for black on yellow",
            "can people read grey on beige",
            "is red writing legible on a black poster",
            "could anybody make out green words on a beige page",
            "check accessibility of #003366 text against #ffcc00",
        ),
    ),
)
