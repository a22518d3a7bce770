"""Units of measure: their names, their dimension, and how they scale to a common one."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Unit", "convert", "units_in"]


class Unit(NamedTuple):
    """``value * factor + offset`` is the value in the dimension's base unit."""

    name: str
    dimension: str
    factor: float
    offset: float = 0.0


# One line a unit: all its names, the dimension, the factor to the dimension's base unit.
_TABLE = """
millimetres|millimetre|millimeters|millimeter|mm=length=0.001
centimetres|centimetre|centimeters|centimeter|cm=length=0.01
metres|metre|meters|meter|m=length=1
kilometres|kilometre|kilometers|kilometer|km=length=1000
inches|inch=length=0.0254
feet|foot|ft=length=0.3048
yards|yard|yd=length=0.9144
miles|mile=length=1609.344
nautical miles|nautical mile=length=1852
milligrams|milligram|mg=mass=0.000001
grams|gram|g=mass=0.001
kilograms|kilogram|kilos|kilo|kg=mass=1
tonnes|tonne=mass=1000
ounces|ounce|oz=mass=0.028349523125
pounds|pound|lbs|lb=mass=0.45359237
stones|stone=mass=6.35029318
millilitres|millilitre|milliliters|milliliter|ml=volume=0.001
litres|litre|liters|liter|l=volume=1
US gallons|gallons|gallon=volume=3.785411784
pints|pint=volume=0.473176473
cups|cup=volume=0.2365882365
tablespoons|tablespoon|tbsp=volume=0.01478676478125
teaspoons|teaspoon|tsp=volume=0.00492892159375
km/h|kmh|kph|kilometres per hour|kilometers per hour=speed=0.2777777777777778
mph|miles per hour=speed=0.44704
m/s|metres per second|meters per second=speed=1
knots|knot=speed=0.5144444444444445
square metres|square meters|m2=area=1
square feet|sq ft=area=0.09290304
acres|acre=area=4046.8564224
hectares|hectare=area=10000
megabytes|megabyte|MB=data=1
gigabytes|gigabyte|GB=data=1000
terabytes|terabyte|TB=data=1000000
joules|joule=energy=1
kilocalories|kcal|calories=energy=4184
kilowatt hours|kilowatt hour|kWh=energy=3600000
"""
_TEMPERATURES = (
    (("°C", "celsius", "centigrade", "c"), 1.0, 273.15),
    (("°F", "fahrenheit", "f"), 5 / 9, 459.67 * 5 / 9),
    (("K", "kelvin"), 1.0, 0.0),
)


def _units() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for line in _TABLE.strip().splitlines():
        names, dimension, factor = line.split("=")
        aliases = names.split("|")
        unit = Unit(aliases[0], dimension, float(factor))
        units.update({name.lower(): unit for name in aliases})
    for every, scale, offset in _TEMPERATURES:
        unit = Unit(every[0], "temperature", scale, offset)
        units.update({name.lower(): unit for name in every})
    return units


_UNITS = _units()
_NAMES = re.compile(
    r"(?<![a-z])(?:"
    + "|".join(re.escape(name) for name in sorted(_UNITS, key=len, reverse=True))
    + r")(?![a-z])",
    re.IGNORECASE,
)


def units_in(text: str) -> list[tuple[int, Unit]]:
    """Return the units named in a text, with where each begins.

    Example:
        >>> [unit.name for _, unit in units_in("5 miles in km")]
        ['miles', 'kilometres']
    """
    return [(match.start(), _UNITS[match.group().lower()]) for match in _NAMES.finditer(text)]


def convert(value: float, source: str, target: str) -> float:
    """Return ``value`` in another unit.

    Raises:
        ValueError: A unit is unknown, or the two measure different things.

    Example:
        >>> round(convert(100, "celsius", "fahrenheit"), 6)
        212.0
    """
    for name in (source, target):
        if name.lower() not in _UNITS:
            raise ValueError(f"I do not know the unit {name!r}.")
    start, end = _UNITS[source.lower()], _UNITS[target.lower()]
    if start.dimension != end.dimension:
        raise ValueError(f"{start.name} measure {start.dimension}, {end.name} {end.dimension}.")
    return (value * start.factor + start.offset - end.offset) / end.factor
