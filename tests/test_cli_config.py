"""``moma config``: a flag before the environment, that before the file, that before the default."""

import json

import pytest

pytestmark = pytest.mark.usefixtures("one_session")


@pytest.fixture
def moma(run_moma, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("MOMA_ROUTER", "MOMA_PREFERENCE", "MOMA_WORKERS", "MOMA_CACHE", "MOMA_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return run_moma


def shown(moma):
    status, out, err = moma("config", "show", "--json")
    assert status == 0, err
    return {name: (each["value"], each["from"]) for name, each in json.loads(out).items()}


def test_every_setting_says_where_it_comes_from(moma, monkeypatch, tmp_path):
    assert shown(moma)["router"] == (".moma", "default")
    (tmp_path / "moma.toml").write_text("router = 'mine'\nworkers = 1\n")
    monkeypatch.setenv("MOMA_PREFERENCE", "cost")
    monkeypatch.setenv("MOMA_WORKERS", "2")
    found = shown(moma)
    assert found["router"] == ("mine", "moma.toml")
    assert found["preference"] == ("cost", "MOMA_PREFERENCE")
    assert found["workers"] == ("2", "MOMA_WORKERS")
    assert found["cache"] == ("", "default")
    assert "mine" in moma("config", "show")[1]


def test_commands_do_what_the_settings_say_and_flags_go_before(moma, monkeypatch, tmp_path):
    (tmp_path / "moma.toml").write_text("router = 'mine'\npreference = 'performance'\n")
    assert moma("agents", "add", "weather", "Weather forecast for a place")[0] == 0
    assert (tmp_path / "mine" / "router.json").exists()
    asked = ("route", "Prove that there are infinitely many primes.", "--json")
    said = [
        json.loads(moma(*asked, *more)[1])["preference"] for more in ((), ("--preference", "cost"))
    ]
    assert said == ["performance", "cost"]
    monkeypatch.setenv("MOMA_ROUTER", "other")
    status, _, err = moma("agents", "list")
    assert status == 1
    assert "other" in err
    assert moma("agents", "list", "--router", "mine")[0] == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("rooter = 'x'", "router"),
        ("router = 3", "router"),
        ("workers = true", "workers"),
        ("router", "moma.toml"),
        ("a" * 2**21, "MiB"),
    ],
)
def test_a_settings_file_that_is_none_is_an_error(moma, tmp_path, content, said):
    (tmp_path / "moma.toml").write_text(content)
    status, _, err = moma("agents", "list")
    assert status == 1
    assert said in err
    assert "Traceback" not in err


def test_a_file_that_is_named_must_be_there(moma, monkeypatch):
    monkeypatch.setenv("MOMA_CONFIG", "nowhere.toml")
    status, _, err = moma("agents", "list")
    assert status == 1
    assert "nowhere.toml" in err
