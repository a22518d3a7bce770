"""The decision explorer: what is on the page, that no text acts, and a browser that reads it."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import unescape
from importlib import resources
from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import AgentCard, LLMRouter, MoMARouter
from moma_core._tables import write_table
from moma_core.cli.main import main
from moma_core.errors import InvalidDataError
from moma_core.testing import HashEncoder
from moma_core.training.report import Asked, explore, page, read_asked, write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
NASTY = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\u2028"
CARDS = [
    AgentCard("weather", "rain snow wind storm", examples=("rain at noon", "snow tonight")),
    AgentCard("sums", "adds and divides numbers", examples=("add 3 and 4", "divide 9 by 3")),
    AgentCard("music", "plays a song of a band", examples=("play a song", "the newest album")),
]
ASKED = [
    Asked("rain and snow", ("weather",)),
    Asked("add 3 and 4 and 5", ("sums",)),
    Asked("play the song", ("weather",)),  # labelled otherwise: went to another agent
    Asked("quartz meridian xylophone zebra okapi", ()),
    Asked(f"{NASTY} zebra", ()),
    *(Asked(f"umbrella or boots number{i}", ("weather",)) for i in range(6)),
]


@pytest.fixture(scope="module")
def found():
    router = MoMARouter.from_cards(CARDS, encoder=HashEncoder(), llms=None)
    full = MoMARouter(router.encoder, router.agent_router, LLMRouter.packaged())
    before = [(card.name, card.examples) for card in full.agents]
    told = []
    result = explore(full, ASKED, progress=lambda *step: told.append(step))
    assert [(card.name, card.examples) for card in full.agents] == before
    assert ("routing", len(ASKED), len(ASKED)) in told
    return result


def embedded(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>',
                                html, re.S)[1])  # fmt: skip


def test_every_decision_is_on_the_page_with_its_path(found):
    rows = embedded(page(found))["rows"]
    assert [row["query"] for row in rows] == [each.text for each in ASKED]
    assert [row["kind"] for row in rows[:4]] == ["agent", "agent", "agent", "llm"]
    assert rows[0]["targets"] == ["weather"]
    assert {step[0] for step in rows[0]["steps"]} >= {"encode", "state", "eligible", "rank", "gate"}
    assert all(row["llms"] and row["agents"] and row["ms"] > 0 for row in rows)
    assert rows[3]["llms"][0][0] == rows[3]["targets"][0]
    assert rows[3]["reason_kind"] == "no agent fits: the nearest is not sure enough"


def test_one_example_that_would_win_was_really_tried(found):
    [tips] = [seen for what, seen in found["tips"] if what.startswith("One more example")]
    told = re.fullmatch(
        r"(\d) of 5 other .* go to 'weather' with one more example: '(.*)'\.", tips[0]
    )
    others = [each.text for each in ASKED[5:] if each.text != told[2]]
    router = MoMARouter.from_cards(CARDS, encoder=HashEncoder(), llms=None)
    assert not any(ranking.fits for ranking in router.rank(others))
    card = router.agents["weather"]
    router.agents.update(replace(card, examples=(*card.examples, told[2])))
    now = [ranking for ranking in router.rank(others) if ranking.fits]
    assert len(now) == int(told[1]) >= 2
    assert {ranking.names[0] for ranking in now} == {"weather"}


@given(st.text(st.characters(codec="utf-8")))
def test_no_text_can_leave_the_data(text):
    empty = {"about": text, "rows": []}
    html = page(empty)
    assert embedded(html)["about"] == text
    assert html.count("<script") == 2
    assert html.count("</script") == 2


def test_files_of_queries(tmp_path):
    (tmp_path / "q.txt").write_text("one\n\ntwo\n")
    assert [each.text for each in read_asked(tmp_path / "q.txt")] == ["one", "two"]
    columns = {"query": ["a", "b"], "agents": [["x"], []], "conversation": ["1", None]}
    write_table(tmp_path / "q.parquet", columns)
    assert read_asked(tmp_path / "q.parquet") == [Asked("a", ("x",), "1"), Asked("b", ())]
    write_table(tmp_path / "q.csv", {"query": ["a"]})
    assert read_asked(tmp_path / "q.csv") == [Asked("a")]
    for content in ('{"query": 3}', "", '{"query": "a", "agents": [1]}'):
        (tmp_path / "q.jsonl").write_text(content)
        with pytest.raises(InvalidDataError):
            read_asked(tmp_path / "q.jsonl")


def test_conversations_nobody_and_limits():
    router = MoMARouter.from_cards(CARDS, encoder=HashEncoder(), llms=None)
    asked = [Asked("rain at noon", None, "c"), Asked("zebra okapi"), Asked("left out")]
    told = explore(router, asked, limit=2)
    assert (told["left_out"], told["labelled"]) == (1, False)
    assert [row["kind"] for row in told["rows"]] == ["agent", "nobody"]
    assert told["rows"][1]["reason"]
    nobody = explore(MoMARouter.from_cards(encoder=HashEncoder()), [Asked("why?")])
    assert nobody["rows"][0]["kind"] == "llm"


def test_on_the_command_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agents.csv").write_text("name,description\nweather,Weather forecast\nnews,News\n")
    (tmp_path / "q.jsonl").write_text('{"query": "will it rain?"}\n{"query": "prove it"}\n')
    words = ["moma", "report", "q.jsonl", "-o", "r.html", "--from", "agents.csv", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out)["queries"] == 2
    html = (tmp_path / "r.html").read_text()
    assert "will it rain?" in html
    assert not re.search(r'(?:src|href)="(?!#)', html)
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


@pytest.fixture(scope="module")
def browse(found, tmp_path_factory):
    """Opens the page in a headless browser with a state in its address; returns the DOM."""
    if BROWSER is None:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    folder = tmp_path_factory.mktemp("page")
    write_report(found, folder / "report.html")

    def browse(path=folder / "report.html", size="1280,900", **state):
        done = subprocess.run(  # noqa: S603
            [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
             f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000",
             f"--window-size={size}", f"{path.as_uri()}#{urlencode(state)}"],
            capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip
        return done.stdout

    return browse


def items(dom):
    return re.findall(r"<li><details><summary>(.*?)</summary>", dom, re.S)


def tile(dom, name):
    return re.search(rf"<dt>{name}</dt><dd>(.*?)<small>", dom)[1]


def test_a_browser_shows_it_and_runs_no_text(browse, found):
    dom = browse()
    assert "<title>MoMA decisions</title>" in dom
    assert len(items(dom)) == len(ASKED)
    assert "onerror=alert" not in re.sub(r"&lt;.*?&gt;|<script.*?</script>", "", dom, flags=re.S)
    agents = sum(row["kind"] == "agent" for row in found["rows"])
    assert tile(dom, "To agents") == f"{100 * agents / len(ASKED):.1f} %"
    wrong = [row for row in found["rows"] if row["kind"] == "agent" and
             row["targets"][0] not in row["wanted"]]  # fmt: skip
    assert tile(dom, "Wrong agent") == f"{100 * len(wrong) / len(ASKED):.1f} %"
    assert "Expected calibration error" in dom
    assert re.search(r"<th scope=\"row\">weather</th><td>music</td>", dom)


def test_sliders_and_filters_change_what_is_shown(browse, found):
    none = browse(threshold="1", find="rain and")
    assert tile(none, "To agents") == "0.0 %"
    assert len(items(none)) == 1
    assert "moved" in items(none)[0]
    assert "agents would go" not in none
    best = browse(points="0", threshold="1")
    for row, item in zip(found["rows"], items(best), strict=True):
        assert max(row["llms"], key=lambda each: each[1])[0] in item
    default = browse(points=str(found["points"]))
    assert "0 of 11 queries would go elsewhere" in default


AXE = """
document.documentElement.dataset.theme = "@THEME@";
document.querySelectorAll("details").forEach(each => { each.open = true; });
setTimeout(() => axe.run().then(told => {
  const seen = told.violations.map(each => [each.id, each.nodes.map(node => node.html)]);
  const node = document.createElement("pre");
  node.id = "axe";
  node.textContent = JSON.stringify([told.passes.length, seen]);
  document.body.append(node);
}), 200);
"""


@pytest.mark.parametrize(("theme", "size"), [("light", "390,844"), ("dark", "1280,900")])
def test_axe_finds_nothing_with_everything_open(browse, found, tmp_path, theme, size):
    """Of axe-core: the one of PyPI, or another file of it named in MOMA_AXE."""
    packaged = resources.files(pytest.importorskip("axe_core_python")) / "axe.min.js"
    axe = Path(os.environ.get("MOMA_AXE", packaged)).read_text()
    scripts = f"<script>{axe}</script><script>{AXE.replace('@THEME@', theme)}</script></body>"
    bare = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page(found))
    (tmp_path / "axe.html").write_text(bare.replace("</body>", scripts))
    dom = browse(tmp_path / "axe.html", size)
    passed, violations = json.loads(unescape(re.search('<pre id="axe">(.*?)</pre>', dom, re.S)[1]))
    assert violations == []
    assert passed > 40
