"""Where the question is: harness text, mails, templates and long texts do not decide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import AgentCard, MoMARouter
from moma_core.agents.conversation import question_in

ASKED = "will it snow in Tromsø on Saturday?"


@pytest.mark.parametrize(
    "text",
    [
        ASKED,
        f"<system-reminder>\nNever push to main. Run the formatter.\n</system-reminder>\n{ASKED}",
        f"{ASKED}\n<environment_details>\ncwd: /home/bank\n</environment_details>",
        f"<open_files>\npay.py\n</open_files>\n<user_query>\n{ASKED}\n</user_query>",
        f"Context information is below.\n-----------\nPay the rent.\n-----------\nQuery: {ASKED}\n"
        "Answer: ",
        f"Use these passages.\n\nBalances rose.\n\nQuestion: {ASKED}\nHelpful Answer:",
        f"You answer questions.\nQuestion: {ASKED}\nContext: the bank pays rent\nAnswer:",
        f"User: pay the rent\nAssistant: done\nUser: {ASKED}",
        f"{ASKED}\n\nOn Mon, 3 Nov 2026, Ada Bell wrote:\n> please pay the rent\n> and the power",
        f"{ASKED}\n\n-----Original Message-----\nFrom: Ada\nSubject: rent\n\nPay the rent.",
        f"Subject: hello\nFrom: Ada\n\n{ASKED}\n-- \nAda Bell\nBank of Norway",
    ],
)
def test_what_surrounds_a_question_is_taken_off(text: str) -> None:
    assert question_in(text) == ASKED


@pytest.mark.parametrize(
    "text",
    [
        "why is <b>this</b> not bold?",
        "```python\nx = 1\n```",
        ">>> 1 + 1\n2\n>>> why not 3?",
        "Translate to German:\nQuestion: what is love?",
        "compare a > b\nwith b > a",
    ],
)
def test_what_belongs_to_a_question_stays(text: str) -> None:
    assert question_in(text).split() == text.split()


@given(st.text(max_size=400))
def test_something_is_always_left_and_nothing_is_made_up(text: str) -> None:
    found = question_in(text)
    assert bool(found.strip()) == bool(text.strip())
    assert found.strip() in text


@pytest.fixture(scope="module")
def desk() -> MoMARouter:
    return MoMARouter.from_cards(
        [
            AgentCard("weather", "Weather forecast for a place and day"),
            AgentCard("bank", "Shows account balances and makes payments"),
            AgentCard("trips", "Books flights and hotels"),
        ]
    )


def test_the_one_request_in_a_long_mail_decides(desk: MoMARouter) -> None:
    told = "The quarterly meeting went well and the minutes are attached to this message. "
    mail = f"Dear all,\n{told * 12}\nOne more thing: please book me a hotel in Narvik.\nBest, Ola"
    assert desk.route(mail).target == "trips"
    assert desk.rank([mail])[0].names[0] == "trips"


def test_harness_text_changes_no_llm(desk: MoMARouter) -> None:
    query = "Prove that there are infinitely many primes."
    framed = (
        f"<system-reminder>\n{'Always be brief and polite. ' * 60}\n</system-reminder>\n{query}"
    )
    bare, dressed = (
        {c.name: c.score for c in desk.choose_llm(text).candidates} for text in (query, framed)
    )
    assert dressed == pytest.approx(bare)  # what is read costs, but says nothing of the answer
