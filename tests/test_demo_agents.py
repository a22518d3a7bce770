"""The demo's agents: each computes a known answer, and reads its own examples."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from moma_demo.agents import demo_agents
from moma_demo.agents.agent import DemoAgent, UnclearError
from moma_demo.agents.expression import evaluate
from moma_demo.agents.extract import dates, numbers, payload, quoted, today
from moma_demo.queries import NEGATIVES, SCENES, SWITCHED

AGENTS = {agent.name: agent for agent in demo_agents()}

# One call of each tool, and what its answer must hold.
KNOWN = {
    "calculator": ({"expression": "(3 + 4) * 2 ** 3"}, "= 56"),
    "percentage": ({"kind": "change", "first": 80, "second": 100}, "25%"),
    "number_statistics": ({"numbers": [2, 4, 4, 4, 5, 5, 7, 9]}, "mean 5, median 4.5"),
    "prime_factors": ({"number": 360}, "2 x 2 x 2 x 3 x 3 x 5"),
    "tip_splitter": ({"bill": 120, "tip_percent": 18, "people": 4}, "35.40 for each"),
    "loan_payment": ({"principal": 200_000, "annual_rate": 6, "years": 30}, "1,199.10 a month"),
    "savings_growth": ({"amount": 1000, "annual_rate": 5, "years": 10}, "1,628.89"),
    "unit_converter": ({"value": 26.2, "source": "miles", "target": "km"}, "42.1648 km"),
    "base_converter": ({"number": "ff", "source_base": 16, "target_base": 2}, "11111111"),
    "roman_numerals": ({"number": "MCMXCIV"}, "= 1994"),
    "number_speller": ({"number": 40_312}, "forty thousand three hundred and twelve"),
    "date_difference": ({"start": "2024-02-28", "end": "2024-03-01"}, "2 days"),
    "date_adder": ({"start": "2026-01-31", "amount": 1, "unit": "month"}, "2026-02-28"),
    "weekday_finder": ({"day": "1969-07-20"}, "Sunday"),
    "time_zone_converter": (
        {"source": "Asia/Kolkata", "target": "UTC", "clock": "12:00"},
        "06:30 in UTC",
    ),
    "text_statistics": ({"text": "To be. Or not to be."}, "6 words, 20 characters, 2 sentence"),
    "case_converter": ({"text": "User First Name", "style": "camel"}, "userFirstName"),
    "slug_maker": ({"text": "Crème brûlée, at home!"}, "creme-brulee-at-home"),
    "regex_tester": ({"pattern": r"\d+", "text": "a1b22"}, "'1', '22'"),
    "table_statistics": ({"column": "quantity"}, "60 orders: mean 3.7, median 4, min 1, max 6"),
    "table_query": ({"sql": "select count(*) as n from orders where city = 'Oslo'"}, "n: 10"),
    "json_formatter": ({"document": '{"a":[1]}', "indent": 1}, '{\n "a": [\n  1\n ]\n}'),
    "json_reader": ({"document": '{"a": [{"b": 3}]}', "path": "a[0].b"}, "= 3"),
    "text_hasher": ({"text": "abc", "algorithm": "md5"}, "900150983cd24fb0d6963f7d28e17f72"),
    "base64_coder": ({"text": "aGVsbG8=", "direction": "decode"}, "hello"),
    "password_generator": ({"length": 20, "symbols": False}, ""),
    "uuid_generator": ({"count": 2}, "-"),
    "colour_converter": ({"colour": "#ff8800"}, "rgb(255, 136, 0) = hsl(32, 100%, 50%)"),
    "contrast_checker": ({"foreground": "black", "background": "white"}, "21.00:1"),
    "free_slot_finder": ({"day": "friday", "minutes": 90}, ": 11:30-13:00, 15:00-17:00"),
    "agenda_reader": ({"day": "thursday"}, "09:30-10:30 dentist"),
    "todo_list": ({"action": "add", "item": "buy milk"}, "open: buy milk"),
    "notebook": ({"action": "save", "text": "the key is red"}, "noted (1 in the book)"),
}

BAD = (
    ("calculator", {"expression": "9**9**9"}, "too large"),
    ("calculator", {"expression": "1/0"}, "divided by zero"),
    ("calculator", {"expression": "().__class__"}, "not arithmetic"),
    ("calculator", {"expression": "(" * 150 + ")" * 50}, "not arithmetic"),
    ("calculator", {"expression": "1+" * 200 + "1"}, "characters at most"),
    ("prime_factors", {"number": 1}, "whole numbers from 2"),
    ("tip_splitter", {"bill": 10, "people": 0}, "at least one person"),
    ("loan_payment", {"principal": -1, "annual_rate": 1, "years": 1}, "a loan has"),
    ("unit_converter", {"value": 1, "source": "km", "target": "kg"}, "measure length"),
    ("unit_converter", {"value": 1, "source": "parsec", "target": "km"}, "do not know"),
    ("base_converter", {"number": "9", "source_base": 2, "target_base": 99}, "2 to 36"),
    ("roman_numerals", {"number": "IIII"}, "not a Roman numeral"),
    ("roman_numerals", {"number": "4000"}, "from 1 to 3999"),
    ("number_speller", {"number": 10**12}, "below"),
    ("time_zone_converter", {"source": "UTC", "target": "Mars/Base"}, "no time zone data"),
    ("regex_tester", {"pattern": "(", "text": "x"}, "not a regular expression"),
    ("table_query", {"sql": "drop table orders"}, "does not work"),
    ("table_query", {"sql": "attach database 'x' as y"}, "does not work"),
    (
        "table_query",
        {
            "sql": "with recursive r(n) as (select 1 union all select n + 1 from r) "
            "select max(n) from r"
        },
        "does not work",
    ),
    ("json_formatter", {"document": "{"}, "not JSON"),
    ("json_reader", {"document": "{}", "path": "a.b"}, "nothing at 'a.b'"),
    ("base64_coder", {"text": "not base64!", "direction": "decode"}, "not the Base64"),
    ("password_generator", {"length": 4}, "8 to 128"),
    ("uuid_generator", {"count": 99}, "1 to 20"),
    ("colour_converter", {"colour": "rgb(1, 2, 999)"}, "no colour"),
    ("todo_list", {"action": "done", "item": "fly"}, "not on the list"),
)

# Queries that lack what the tool needs, or whose answer is an error by intention.
WITHOUT_ANSWER = {'is {"x": 1,} valid json?', "mark 'call the bank' as done"}


def test_enough_agents_with_enough_words() -> None:
    assert len(AGENTS) >= 24
    assert len({agent.category for agent in AGENTS.values()}) >= 6
    assert set(AGENTS) == set(KNOWN)
    for agent in AGENTS.values():
        assert 5 <= len(set(agent.examples)) <= 8
        assert agent.tool.args_schema is not None
    examples = [example for agent in AGENTS.values() for example in agent.examples]
    assert len(examples) == len(set(examples))


@pytest.mark.parametrize("name", KNOWN)
def test_the_tool_computes(name: str) -> None:
    arguments, expected = KNOWN[name]
    fresh = {agent.name: agent for agent in demo_agents()}[name]
    assert expected in fresh.tool.invoke(arguments)


@pytest.mark.parametrize(("name", "arguments", "words"), BAD)
def test_the_tool_refuses_politely(name: str, arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        AGENTS[name].tool.invoke(arguments)


@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
def test_it_reads_and_runs_its_own_examples(agent: DemoAgent) -> None:
    for example in agent.examples:
        agent.parse(example)
        if example not in WITHOUT_ANSWER:
            assert not agent.answer(example).startswith(("I need", "Sorry")), example


@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
def test_it_says_what_it_needs(agent: DemoAgent) -> None:
    for text in ("hm", "?", "{", "(", "'", "what about it", "[1"):
        answer = agent.answer(text)
        assert answer
        assert "Traceback" not in answer


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("calculator", "how much is seven, I mean 7 times 6", "= 42"),
        ("percentage", "sofa was 800, now 20% off", "640"),
        ("unit_converter", "how many pounds is 3 kg?", "6.61387"),
        ("base_converter", "0b1010 in decimal", "10 in base 10"),
        ("date_difference", "days from 1 March 2026 to 2026-03-11", "10 days"),
        ("date_adder", "30 days before 2026-03-31", "2026-03-01"),
        ("time_zone_converter", "what is 10 am London in Tokyo", "Asia/Tokyo"),
        ("time_zone_converter", "Tokyo time when it is 10:00 in London", "10:00 in Europe/London"),
        ("table_query", "top 2 cities by orders", "Berlin | 15; Porto | 14"),
        ("todo_list", "put 'renew the passport' on my list", "renew the passport"),
        ("password_generator", "password with 30 characters", ""),
    ],
)
def test_it_reads_other_words(name: str, text: str, words: str) -> None:
    assert words in AGENTS[name].answer(text)


def test_lists_and_notes_are_kept_and_not_shared() -> None:
    first, second = ({a.name: a for a in demo_agents()} for _ in range(2))
    first["todo_list"].answer("add buy milk to my list")
    first["todo_list"].answer("add call Noor to my list")
    assert first["todo_list"].answer("tick off buy milk") == "open: call Noor"
    assert second["todo_list"].answer("show my tasks") == "open: nothing"
    first["notebook"].answer("note that the wifi code is 4711")
    assert "4711" in first["notebook"].answer("find my notes about wifi")
    assert "no note" in second["notebook"].answer("find my notes about wifi")


def test_what_is_read_from_sentences() -> None:
    assert numbers("1,250.5 and -3 and 2k, v4") == [1250.5, -3.0, 2000.0]
    assert quoted("it's 'a' and \"b\"") == ["a", "b"]
    assert payload("count: one two") == "one two"
    assert dates("tomorrow")[0] == today() + timedelta(days=1)
    assert dates("29 February 2024")[0].isoformat() == "2024-02-29"
    assert dates("Christmas")[0] >= today()
    with pytest.raises(UnclearError):
        dates("31 February 2026")
    with pytest.raises(UnclearError):
        payload("nothing here")


@pytest.mark.parametrize(
    ("text", "value"), [("2**10", 1024), ("-3 + +4", 1), ("sqrt(81) // 2", 4), ("7 % 4", 3)]
)
def test_arithmetic(text: str, value: float) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize("text", ["x", "1 if 1 else 2", "True", "[1]", "sqrt(-1)", "(-8)**0.5", ""])
def test_what_is_not_arithmetic(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the words differ, the type matters
        evaluate(text)


def test_the_queries_are_new_to_the_router() -> None:
    def plain(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.lower()))

    asked = [query for scene in SCENES for query in scene.queries] + list(SWITCHED)
    known = {plain(text) for agent in AGENTS.values() for text in agent.examples}
    known |= {plain(text) for text in NEGATIVES}
    assert len(asked) >= 15
    assert not known & {plain(query.text) for query in asked}
    expected = {query.expected.removeprefix("not ") for query in asked}
    assert expected <= {*AGENTS, "LLM"}
