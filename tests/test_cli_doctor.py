"""``moma doctor``: what is well, what wants care, what is wrong."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from moma_core import AgentCard, MoMARouter
from moma_core.cli.main import app


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("router")
    cards = [
        AgentCard("weather", "Forecast for a place", examples=("will it rain?",)),
        AgentCard("bank", "Shows balances", enabled=False),
    ]
    with MoMARouter.from_cards(cards) as router:
        router.save(folder)
    return folder


def examined(folder):
    done = CliRunner().invoke(app, ["doctor", "--router", str(folder), "--json"])
    findings = json.loads(done.output)["findings"]
    assert (done.exit_code == 1) == any(each["state"] == "wrong" for each in findings)
    well = [each["about"] for each in findings if each["state"] == "ok"]
    assert len(set(well)) == len(well)
    return {(each["about"], each["state"]): each["found"] for each in findings}


def test_a_router_that_is_well(saved):
    found = examined(saved)
    assert not [key for key in found if key[1] == "wrong"]
    assert found["packaged encoder", "ok"].startswith("whole")
    assert "2 agents" in found["registry", "ok"]
    assert ("speed", "ok") in found
    assert ("numpy", "ok") in found
    assert "1 have no examples (bank)" in found["agents", "hint"]


def test_a_router_that_is_damaged(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "router")
    ranker = folder / "ranker.safetensors"
    ranker.write_bytes(ranker.read_bytes()[:-9])
    found = examined(folder)
    assert "ranker" in found["router", "wrong"]


def test_no_router_yet(tmp_path):
    found = examined(tmp_path)
    assert "moma agents add" in found["router", "hint"]


def test_a_table_for_people(tmp_path):
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["doctor", "--router", str(tmp_path)])
    assert done.exit_code == 0
    assert "packaged reranker" in done.output
