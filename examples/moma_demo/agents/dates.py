"""Agents for dates and clocks: differences, shifts, weekdays, time zones."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from langchain_core.tools import tool

from moma_demo.agents.agent import DemoAgent, UnclearError
from moma_demo.agents.extract import dates, today

__all__ = ["AGENTS"]

_ZONES = {
    "new york": "America/New_York", "los angeles": "America/Los_Angeles",
    "san francisco": "America/Los_Angeles", "chicago": "America/Chicago",
    "toronto": "America/Toronto", "sao paulo": "America/Sao_Paulo", "london": "Europe/London",
    "lisbon": "Europe/Lisbon", "paris": "Europe/Paris", "berlin": "Europe/Berlin",
    "madrid": "Europe/Madrid", "rome": "Europe/Rome", "vienna": "Europe/Vienna",
    "istanbul": "Europe/Istanbul", "moscow": "Europe/Moscow", "cairo": "Africa/Cairo",
    "lagos": "Africa/Lagos", "nairobi": "Africa/Nairobi", "dubai": "Asia/Dubai",
    "mumbai": "Asia/Kolkata", "delhi": "Asia/Kolkata", "bangkok": "Asia/Bangkok",
    "singapore": "Asia/Singapore", "hong kong": "Asia/Hong_Kong", "shanghai": "Asia/Shanghai",
    "beijing": "Asia/Shanghai", "seoul": "Asia/Seoul", "tokyo": "Asia/Tokyo",
    "sydney": "Australia/Sydney", "auckland": "Pacific/Auckland", "utc": "UTC", "gmt": "UTC",
}  # fmt: skip
_CLOCK = re.compile(
    r"\b(\d{1,2})(?:[:.](\d\d))?\s?(am|pm|o'clock)\b|\b(\d{1,2}):(\d\d)\b|\b(noon|midnight)\b", re.I
)
_SHIFT = re.compile(r"\b(a|an|one|\d+)\s+(day|week|fortnight|month|year)s?\b", re.I)
_BACK = re.compile(r"\bago\b|\bbefore\b|\bearlier\b|\bsubtract\b|\bminus\b|\bback\b", re.I)


@tool
def date_difference(start: Annotated[date, "ISO date"], end: Annotated[date, "ISO date"]) -> str:
    """Count the days and weeks between two dates, or until a date."""
    start, end = sorted((start, end))
    days = (end - start).days
    weeks, rest = divmod(days, 7)
    return f"{days:,} days from {start} to {end} ({weeks} weeks and {rest} days)"


def _difference(text: str) -> dict[str, Any]:
    found = dates(text)
    if not found:
        raise UnclearError
    first, *others = found if len(found) > 1 else [today(), *found]
    return {"start": first, "end": others[0]}


@tool
def date_adder(
    start: Annotated[date, "ISO date"],
    amount: Annotated[int, "How many; below zero goes back"],
    unit: Literal["day", "week", "month", "year"],
) -> str:
    """Find the date some days, weeks, months or years after or before a date."""
    if unit in ("day", "week"):
        end = start + timedelta(days=amount * (7 if unit == "week" else 1))
    else:
        months = start.year * 12 + start.month - 1 + amount * (12 if unit == "year" else 1)
        year, month = divmod(months, 12)
        last = calendar.monthrange(year, month + 1)[1]
        end = date(year, month + 1, min(start.day, last))
    way, many = "after" if amount >= 0 else "before", "" if abs(amount) == 1 else "s"
    return f"{abs(amount)} {unit}{many} {way} {start} is {end:%A}, {end}"


def _shift(text: str) -> dict[str, Any]:
    found = _SHIFT.search(text)
    if not found:
        raise UnclearError
    amount = int(found.group(1)) if found.group(1).isdigit() else 1
    unit = found.group(2).lower()
    if unit == "fortnight":
        amount, unit = 2 * amount, "week"
    start = dates(text) or [today()]
    sign = -1 if _BACK.search(text) else 1
    return {"start": start[0], "amount": sign * amount, "unit": unit}


@tool
def weekday_finder(day: Annotated[date, "ISO date"]) -> str:
    """Tell the day of the week and the calendar week of a date."""
    return f"{day} is a {day:%A}, in calendar week {day.isocalendar().week}"


def _weekday(text: str) -> dict[str, Any]:
    found = dates(text)
    if not found:
        raise UnclearError
    return {"day": found[0]}


@tool
def time_zone_converter(
    source: Annotated[str, "IANA zone such as Europe/Paris"],
    target: Annotated[str, "IANA zone such as Asia/Tokyo"],
    clock: Annotated[str | None, "HH:MM in the source zone; the time now when left out"] = None,
) -> str:
    """Convert a clock time between cities and time zones, or tell the time somewhere now."""
    try:
        here, there = ZoneInfo(source), ZoneInfo(target)
    except ZoneInfoNotFoundError:
        raise ValueError(
            f"this computer has no time zone data for {source} or {target}; pip install tzdata."
        ) from None
    moment = datetime.now(UTC).astimezone(here)
    if clock is not None:
        moment = datetime.combine(moment.date(), time.fromisoformat(clock), tzinfo=here)
    other = moment.astimezone(there)
    shift = (other.date() - moment.date()).days
    day = {0: "", 1: " the next day", -1: " the day before"}[shift]
    return f"{moment:%H:%M} in {source} is {other:%H:%M}{day} in {target}"


def _zones(text: str) -> dict[str, Any]:
    lower = text.lower()
    found = sorted((lower.index(city), zone) for city, zone in _ZONES.items() if city in lower)
    zones = [zone for _, zone in found]
    if not zones:
        raise UnclearError
    clock = _CLOCK.search(text)
    if clock is None or len(zones) == 1:
        return {"source": "UTC", "target": zones[0], "clock": _time(clock) if clock else None}
    # "When it is 3 pm in Paris ..." names the source right after the clock time; "Tokyo when ..."
    # before it names the target.
    source = next((zone for at, zone in found if at > clock.start()), zones[0])
    target = next((zone for zone in zones if zone != source), source)
    return {"source": source, "target": target, "clock": _time(clock)}


def _time(clock: re.Match[str]) -> str:
    hour12, minute12, half, hour24, minute24, word = clock.groups()
    if word:
        return "12:00" if word.lower() == "noon" else "00:00"
    if hour24:
        return _checked(int(hour24), int(minute24))
    hour = int(hour12)
    if half.lower() in ("am", "pm"):
        hour = hour % 12 + (12 if half.lower() == "pm" else 0)
    return _checked(hour, int(minute12 or 0))


def _checked(hour: int, minute: int) -> str:
    if hour > 23 or minute > 59:
        raise UnclearError
    return f"{hour:02d}:{minute:02d}"


AGENTS = (
    DemoAgent(
        date_difference,
        "dates",
        _difference,
        "two dates, such as 2026-03-01 and 5 April 2026.",
        (
            "how many days between 2026-03-01 and 2026-04-05?",
            "days until Christmas",
            "how long is it from 14 July 1789 to 11 November 1918",
            "number of weeks from 2 January 2026 to 30 June 2026",
            "how many days have passed since May 8, 1945?",
            "how far away is New Year",
            "time between 2024-02-28 and 2024-03-01 in days",
        ),
    ),
    DemoAgent(
        date_adder,
        "dates",
        _shift,
        "a date and a shift, such as 90 days after 1 March 2026.",
        (
            "what date is 90 days after 2026-03-01?",
            "add 6 weeks to 12 April 2026",
            "which date was 100 days before 2026-01-01",
            "what's the date 2 weeks from today",
            "3 months after 30 November 2025",
            "what day will it be in 45 days",
            "deadline is 1 year from May 3, 2026, when is that?",
        ),
    ),
    DemoAgent(
        weekday_finder,
        "dates",
        _weekday,
        "a date, such as 20 July 1969.",
        (
            "what day of the week was 20 July 1969?",
            "on which weekday does 2027-01-01 fall",
            "is 25 December 2026 a Friday?",
            "which weekday is my birthday, March 14 2028",
            "what calendar week is 2026-09-09 in",
        ),
    ),
    DemoAgent(
        time_zone_converter,
        "dates",
        _zones,
        "a city or two and maybe a time, such as 3 pm in Paris in Tokyo.",
        (
            "what time is it in Tokyo?",
            "when it is 3 pm in Paris, what time is it in New York",
            "convert 09:30 London to Singapore time",
            "current time in Sydney",
            "my call is at 18:00 in Berlin, what is that in Los Angeles?",
            "noon in Chicago is what in Mumbai",
        ),
    ),
)
