"""Fill README and docs with figures from benchmarks/results, and draw their pictures.

    python benchmarks/page.py            # after any benchmark: rewrites what stands between marks
    python benchmarks/page.py --check    # says what differs, and exits 1

Between ``<!-- figures: NAME -->`` and ``<!-- end -->`` stands what `FIGURES[NAME]` makes of the
result files. benchmarks/results/measured.json keeps the day on which each part of a file last
changed; a table says the day of its oldest part.
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pictures

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DAYS = RESULTS / "measured.json"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.S)

Part = tuple[str, str]
"""A result file without ``.json``, and one of its keys; "" for the whole of a list."""


def load(name: str) -> Any:
    """Return a result file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@functools.cache
def days() -> dict[str, dict[str, list[str]]]:
    """Return, for each part of each file, the day it last changed and the digest of its value."""
    known = json.loads(DAYS.read_text(encoding="utf-8")) if DAYS.exists() else {}
    today = dt.datetime.now(dt.UTC).date().isoformat()
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        if path == DAYS:
            continue
        value = load(path.stem)
        before = known.get(path.stem, {})
        found[path.stem] = rows = {}
        for key, part in (value if isinstance(value, dict) else {"": value}).items():
            digest = hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:8]
            rows[key] = before[key] if before.get(key, ["", ""])[1] == digest else [today, digest]
    return found


def table(head: str, rows: Iterable[Iterable[object]], command: str, *parts: Part) -> str:
    """Return a Markdown table, with its command and the days of its parts below."""
    columns = head.split(" | ")
    lines = [f"| {head} |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + f"\n\n{source(command, *parts)}"


def source(command: str, *parts: Part) -> str:
    """Return the command and the day, or the first and last of the days, of the parts."""
    known = days()
    when = sorted(
        day for name, key in parts for at, (day, _) in known[name].items() if key in ("", at)
    )
    span = when[0] if when[0] == when[-1] else f"{when[0]} to {when[-1]}"
    return f"`python benchmarks/{command}`, measured {span}."


def rate(value: float | None, digits: int = 3) -> str:
    """Return .941 for .9413, and nothing for None."""
    if value is None:
        return ""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def points(value: float) -> str:
    """Return +3.7 for .0372."""
    return f"{100 * value:+.1f}"


AGENT_RUNS = {
    "clinc150": "CLINC150, 150 agents, all examples",
    "clinc150-10-shot": "CLINC150, 10 examples an agent",
    "metatool": "MetaTool, 199 tools, all examples",
    "metatool-descriptions": "MetaTool, descriptions alone",
    "banking50": "banking50, 50 intents of one bank, all examples",
    "sealtools-descriptions": "Seal-Tools, 4,076 tools, descriptions alone",
    "lobe-descriptions": "lobe, 505 community agents, descriptions alone",
}


def agents() -> str:
    found, known = load("agents"), days()["agents"]
    rows = [
        (
            title,
            rate(found[name]["in_scope_top1"]),
            rate(found[name]["recall_at_5"]),
            rate(found[name]["oos_auroc"]),
            rate(found[name]["kept_in_scope_top1"]),
            rate(found[name]["oos_recall"], 2),
            known[name][0],
        )
        for name, title in AGENT_RUNS.items()
    ]
    head = "validation rows | right first | in five | in / out AUROC | kept | caught | measured"
    return table(head, rows, "agents.py", ("agents", ""))


def beside() -> str:
    found = load("agents_vs_peers")["rows"]
    names = {
        "moma-router": "moma-router",
        "semantic-router mean": "semantic-router, mean",
        "semantic-router max": "semantic-router, max",
        "llama-index embedding": "LlamaIndex EmbeddingSingleSelector (descriptions)",
    }
    rows = [
        (
            title,
            rate(found[name]["in_scope_top1"]),
            rate(found[name]["oos_auroc"]),
            rate(found[name]["kept_in_scope_top1"]),
            rate(found[name]["oos_recall"]),
        )
        for name, title in names.items()
        if name in found
    ]
    head = "CLINC150, 20 examples an agent | right first | in / out AUROC | kept | caught"
    return table(head, rows, "agents_vs_peers.py", ("agents_vs_peers", ""))


DAY_ONE = {"metatool-0": "MetaTool, 199", "clinc150-0": "CLINC150, 150", "banking50-0": "banking50"}
FIRST = {
    "moma": "moma-router",
    "cosine, MiniLM": "cosine of all-MiniLM-L6-v2",
    "BM25": "BM25",
    "cosine, MiniLM + BM25": "both, ranks fused",
}


def day_one() -> str:
    found = load("day_one")
    rows = [
        (
            title,
            *(rate(found[name][way]["right_first"]) for name in DAY_ONE),
            *(rate(found[name][way]["auroc"]) for name in DAY_ONE),
        )
        for way, title in FIRST.items()
    ]
    head = "descriptions alone | " + " | ".join(f"{name}: first" for name in DAY_ONE.values())
    head += " | " + " | ".join(f"{name}: AUROC" for name in DAY_ONE.values())
    sizes = {f"{found[name]['inside']} + {found[name]['outside']}" for name in DAY_ONE}
    note = f" Queries asked (in + out of scope): {', '.join(sorted(sizes))}."
    return table(head, rows, "day_one.py", *(("day_one", name) for name in DAY_ONE)) + note


POOLS = {"ulab": "ulab, 9 LLMs", "zeroeval": "ZeroEval, 16", "mmlu_pro": "MMLU-Pro, 12"}


def llms() -> str:
    ours = {row["pool"]: row for row in load("llms")["summary"] if row["head"] == "ours (auto)"}
    rows = [
        (
            title,
            f"{points(ours[pool]['performance'][0])} at "
            f"{rate(ours[pool]['performance cost'][0], 2)}",
            f"{points(ours[pool]['auto'][0])}, {100 * ours[pool]['auto saves'][0]:.0f} % saved",
            rate(ours[pool]["match"][0], 2),
        )
        for pool, title in POOLS.items()
    ]
    head = (
        "against the best single LLM | `performance`: points, at share of its cost | "
        "`auto`: points, against `performance`'s cost | its score is reached at"
    )
    return table(head, rows, "llms.py", ("llms", "summary"))


def heads() -> str:
    names = {
        "ours (auto)": "`--head auto`",
        "plain neighbours 100": "100 nearest neighbours",
        "plain clusters 32": "32 clusters",
        "plain linear": "ridge",
        "plain mlp 64": "a small network",
    }
    by = {(row["pool"], row["head"]): row for row in load("llms")["summary"]}
    rows = [
        (
            title,
            *(
                f"{points(by[pool, name]['performance'][0])} at "
                f"{rate(by[pool, name]['performance cost'][0], 2)}"
                for pool in POOLS
            ),
        )
        for name, title in names.items()
    ]
    head = "`performance`: points over the best single LLM, at share of its cost | "
    return table(head + " | ".join(POOLS.values()), rows, "llms.py", ("llms", "summary"))


WAYS = {
    "by benchmark": "scores by benchmark or subject",
    "one score": "one score",
    "like": "`like` another LLM",
    "price": "the price alone",
}


def own_llms() -> str:
    by = {(row["table"], row["way"]): row for row in load("own_llms")["summary"]}
    rows = [
        (
            title,
            *(
                f"{points(by[pool, way][over][0])} ± {100 * by[pool, way][over][1]:.1f}"
                for pool in ("mmlu_pro", "ulab")
                for over in ("over_random", "over_single")
            ),
        )
        for way, title in WAYS.items()
    ]
    head = (
        "what the card says: points at equal cost | MMLU-Pro: over the best random mix | "
        "over the best single LLM | ulab: random mix | single LLM"
    )
    return table(head, rows, "own_llms.py", ("own_llms", "summary"))


def knobs() -> str:
    rows = [
        (
            name,
            rate(row["right"]),
            rate(row["wrong"]),
            rate(row["turned_away"]),
            rate(row["caught"], 2),
        )
        for name, row in load("knobs").items()
    ]
    head = "MetaTool, 199 tools | right | wrong tool | turned away | foreign caught"
    return table(head, rows, "knobs.py", ("knobs", ""))


def shots() -> str:
    found = load("shots")
    names = {"metatool": "MetaTool, 199", "clinc150": "CLINC150, 150", "banking50": "banking50, 50"}
    counts = sorted(int(key.split()[0]) for key in found["metatool"] if key.endswith(" moma"))
    keys = ("right_first", "kept", "wrong", "caught")

    def cell(row: Mapping[str, float]) -> str:
        return " / ".join(rate(row[key], 2) for key in keys)

    rows = [(count, *(cell(found[name][f"{count} moma"]) for name in names)) for count in counts]
    head = "examples an agent: right first / kept / wrong / caught | " + " | ".join(names.values())
    return table(head, rows, "shots.py", *(("shots", name) for name in names))


def languages() -> str:
    rows = [
        (
            name,
            row["agents"],
            rate(row["multilingual"]["right_first"], 2),
            rate(row["English"]["right_first"], 2),
            rate(row["English"]["noticed"], 2),
            rate(row["English"]["sure_and_wrong"], 2),
        )
        for name, row in load("languages").items()
    ]
    head = (
        "descriptions alone | agents | multilingual: right first | English: right first | "
        "noticed as unread | wrong and sure"
    )
    return table(head, rows, "languages.py", ("languages", ""))


def promise() -> str:
    rows = [
        (
            name.split(",")[0],
            rate(row["mean_realised"], 4),
            rate(row["splits_over"], 2),
            rate(row["in_scope_kept_and_right"]),
        )
        for name, row in load("conformal").items()
        if "90%" in name
    ]
    head = (
        "`max_wrong_agent_rate` | realised, mean of 200 splits | splits above it | kept and right"
    )
    return table(head, rows, "conformal.py", ("conformal", ""))


def feedback() -> str:
    found = [run for run in load("feedback") if run["variant"] == "memory"]
    rows = []
    for pool, scenario in dict.fromkeys((run["pool"], run["scenario"]) for run in found):
        runs = [run for run in found if (run["pool"], run["scenario"]) == (pool, scenario)]
        mean = {
            key: sum(run[key] for run in runs) / len(runs)
            for key in ("stream_static", "stream_learnt", "val_learnt", "val_retrained")
        }
        rows.append((f"{pool}, {scenario}", *(rate(value) for value in mean.values())))
    head = "mean score | without learning | with | later queries, learnt | retrained"
    return table(head, rows, "feedback.py", ("feedback", ""))


def selectors() -> str:
    rows = []
    for name, row in load("llamaindex_selectors")["selectors"].items():
        out = row["outcomes"]
        errors = sum(count for key, count in out.items() if key.startswith("error"))
        rows.append(
            (
                name,
                rate(row["accuracy"]),
                out.get("silently_wrong", 0),
                errors,
                out.get("none_fits", 0),
                f"{row['llm_calls_per_query']:.0f}",
                f"{row['embeddings_per_query']:.0f}",
                row["caught"],
            )
        )
    head = (
        "12 engines, 120 questions | right engine only | wrong, silently | errors | none fits | "
        "LLM calls | embeddings | foreign caught"
    )
    return table(head, rows, "llamaindex_selectors.py", ("llamaindex_selectors", "selectors"))


def tools() -> str:
    found, big = load("langgraph_tools"), load("bigtool")
    agent, rival = found["agent"], found["ours_against_rival"]["LLMToolSelectorMiddleware"]
    rows = [
        (
            "MoMAMiddleware",
            "0",
            f"{agent['tool_tokens_per_call'] * agent['llm_calls_per_turn']:,.0f}",
            "0",
        ),
        (
            "LLMToolSelectorMiddleware",
            f"{rival['llm_calls_per_turn'] - agent['llm_calls_per_turn']:.0f}",
            f"{rival['tool_and_schema_tokens_per_turn']:,.0f}",
            f"{rival['turns_that_raised_for_an_invented_name']} of {rival['turns']}",
        ),
        (
            "langgraph-bigtool (MiniLM)",
            f"{big['llm_calls_per_turn'] - agent['llm_calls_per_turn']:.0f}",
            f"{big['tool_and_schema_tokens_per_turn']:,.0f}",
            "0",
        ),
    ]
    head = (
        f"{found['tools']} tools, {found['max_tools']} bound | extra LLM calls a turn | "
        "tool tokens a turn | turns ended by an invented name"
    )
    note = (
        f" The right tool is among the {found['max_tools']} for "
        f"{rate(found['val']['right_tool_present'])} of MetaTool's validation queries; "
        f"{agent['added_ms_p50']:.1f} ms are added to a turn. bigtool's search, which has no "
        f"examples, has it among as many for {rate(big['right_tool_bound'], 2)}."
    )
    return table(head, rows, "langgraph_tools.py", ("langgraph_tools", "")) + note


CACHES = {
    "topical, large tools": "seven turns in ten come back to a tool, large tools",
    "wide, large tools": "every turn draws anew, large tools",
    "topical, small tools": "seven in ten come back, small tools",
    "wide, small tools": "every turn draws anew, small tools",
}


def prompt_cache() -> str:
    found = load("prompt_cache")
    ways = ("all", "turn", "stable", "deferred", "LLMToolSelectorMiddleware")
    rows = [
        (
            title,
            *(f"{found[name][way]['input_usd_per_talk']['cached_10_percent']:.2f}" for way in ways),
            f"{100 * found[name]['stable']['prefix_equal_mean']:.0f} %",
            rate(found[name]["stable"]["right_tool_bound"], 2),
            rate(found[name]["deferred"]["right_tool_bound"], 2),
        )
        for name, title in CACHES.items()
    ]
    head = (
        'input USD a conversation, a cached token costs a tenth | all tools | `"turn"` | '
        '`"stable"` | `"deferred"` | LLMToolSelectorMiddleware | prompt equal (stable) | '
        "right tool bound (stable) | (deferred)"
    )
    return table(head, rows, "prompt_cache.py", *(("prompt_cache", name) for name in CACHES))


def rules() -> str:
    found = load("auto_rules")["summary"]
    pools = ("ulab", "zeroeval", "mmlu_pro", "alpaca_eval2", "livecodebench", "bfcl_v1")
    rows = [
        (
            f"`{rule}`",
            *(
                f"{points(row['pools'][pool]['score'])} at {rate(row['pools'][pool]['cost'], 2)}"
                for pool in pools
            ),
        )
        for rule, row in found.items()
    ]
    head = "points over the best single LLM, at share of its cost | " + " | ".join(pools)
    return table(head, rows, "auto_rules.py", ("auto_rules", "summary"))


def final() -> str:
    names = {
        "metatool-unseen, descriptions, 8": "MetaTool, tools never seen, descriptions",
        "clinc150, descriptions, 8": "CLINC150, never seen, names alone",
        "metatool, examples, 8": "MetaTool, 10 examples a tool",
        "clinc150, examples, 8": "CLINC150, 10 examples an agent",
    }
    ways = ("ranker", "noisy channel", "fused, noisy channel", "fused, adapted noisy channel")
    cells = load("decoding_quality")["cells"]
    rows = [
        (title, *(rate(cells[name][way]["right"]) for way in ways)) for name, title in names.items()
    ]
    head = "shortlist of 8: right | ranker alone | LLM alone | both, plain | both, with the adapter"
    return table(head, rows, "decoding_quality.py", ("decoding_quality", "cells"))


def added() -> str:
    rows = [
        (
            row["pool"],
            rate(row["share"]["all"]["share"][0], 2),
            rate(row["share"]["all"]["share"][1], 2),
        )
        for row in load("llm_added")
    ]
    head = "100 scored queries of a new LLM | share of what retraining brings | ±"
    return table(head, rows, "llm_added.py", ("llm_added", ""))


def pairs() -> str:
    runs = load("pairs")
    keys = ("outcome_log_loss", "bradley_terry_log_loss", "base_rate_log_loss")
    keys += ("winner_accuracy", "bradley_terry_accuracy")

    def span(name: str, key: str) -> str:
        values = sorted(run[key] for run in runs if run["pairs"] == name)
        return f"{rate(values[0])} to {rate(values[-1])}"

    names = dict.fromkeys(run["pairs"] for run in runs)
    rows = [(name, *(span(name, key) for key in keys)) for name in names]
    head = (
        "three seeds | log loss | by levels alone | by frequencies | winner right | by levels alone"
    )
    return table(head, rows, "pairs.py", ("pairs", ""))


def weight() -> str:
    found = load("installed")
    rows = [
        (
            f"`{name}`",
            row["packages"],
            f"{row['mb']:.0f}",
            f"{row['import_ms']:.0f}",
            row["python"],
            row.get("tests", "").partition(" in ")[0],
        )
        for name, row in found.items()
        if name != "files"
    ]
    head = (
        "the wheel in a bare environment | packages | MB | `import moma_core`, ms | Python | tests"
    )
    note = f" The wheel has {found['files']['wheel_mb']:.1f} MB."
    return table(head, rows, "installed.py", ("installed", "")) + note


def several() -> str:
    names = {"ours": "`several=True`", "whole": "never cut", "every clause": "cut at every clause"}
    found = load("several_agents")["two in one"]
    rows = [
        (title, rate(found[name]["all found"], 2), rate(found[name]["false cuts"], 2))
        for name, title in names.items()
    ]
    head = "two requests in one query | both agents found | single requests cut"
    return table(head, rows, "several_agents.py", ("several_agents", "two in one"))


def speed() -> str:
    found, grown = load("speed"), load("scale")
    most = max((key for key in grown if key.isdigit()), key=int)
    start = grown[most]["files"]["start"]
    ways = ("without_reranker", "with_reranker")
    plain, read = (sorted(q["route_over_encode"] for q in start[way].values()) for way in ways)
    return (
        f"A route takes {found['route_over_encode']:.1f} times what the encoder takes at 150 "
        f"agents with ten examples each ({found['p50_ms']['route']:.1f} ms in the median). At "
        f"{int(most):,} agents by descriptions alone it takes {plain[0]:.1f} times (short queries) "
        f"to {plain[-1]:.1f} times (long ones), with the reranker {read[0]:.0f} to {read[-1]:.0f}."
        "\n\n" + source("speed.py", ("speed", "")) + " " + source("scale.py", ("scale", most))
    )


def tokens() -> str:
    errors = {
        kind: error
        for kind, (error, _) in load("fit_tokens")["median_error_and_total_by_kind"].items()
    }
    low, high = (pick(errors, key=errors.__getitem__) for pick in (min, max))
    return (
        f"Its median error over {len(errors)} kinds of text (languages, code, prompts of "
        f"benchmarks) is {100 * errors[low]:.0f} % ({low}) to {100 * errors[high]:.0f} % ({high})."
        "\n\n" + source("fit_tokens.py", ("fit_tokens", ""))
    )


def shared() -> str:
    rows = [
        (
            f"{name.replace(' on ', ' processes on ').replace('dir', 'directory')}",
            row["trials"],
            row["trials_after_bound"],
            f"{row['latest_seconds']:.1f}",
            f"{row['load']:.0f}",
        )
        for name, row in load("processes").items()
    ]
    head = (
        "all changing agents all the time, some killed | trials of a disable | "
        "still chosen after 2 s | latest, s | load of two cores"
    )
    return table(head, rows, "processes.py", ("processes", ""))


def limits() -> str:
    rungs, cold = load("knobs"), load("day_one")["metatool-0"]["moma"]
    alone, known = rungs["a description each"], rungs["and 10 examples each"]
    pools = load("auto_rules")["summary"]["auto"]["pools"]
    worst = min(pools, key=lambda pool: pools[pool]["score"])
    cards = load("own_llms")["summary"]
    price = [points(row["over_random"][0]) for row in cards if row["way"] == "price"]
    found = load("several_agents")["two in one"]["ours"]["all found"]
    return (
        f"- With descriptions alone, {100 * alone['wrong']:.0f} % of queries for one of 199 "
        f"overlapping tools go to a wrong one in silence, {100 * alone['turned_away']:.0f} % are "
        f"turned away, and probabilities are {100 * cold['calibration_error']:.0f} points off on "
        f"average. With ten examples each it is {100 * known['wrong']:.0f} % and "
        f"{100 * known['turned_away']:.0f} %.\n"
        f"- LLMs known by price alone are routed no better than a random mix "
        f"({' and '.join(price)} points): give scores.\n"
        f"- `auto` loses {abs(100 * pools[worst]['score']):.1f} points on {worst}, where the best "
        "LLM is nearly the cheapest.\n"
        f"- Of queries that ask for two things, both are found in {100 * found:.0f} %.\n\n"
        + source("knobs.py", ("knobs", ""))
        + " "
        + source("auto_rules.py", ("auto_rules", "summary"))
    )


def every() -> str:
    """All result files, their benchmark, days, and what the last run of `make bench` took."""
    runs = load("bench") if (RESULTS / "bench.json").exists() else {}
    runs = {name: run for name, run in runs.items() if run["ended"] == 0}
    lines = ["| benchmark | question | measured | seconds (load) |", "|---|---|---|---|"]
    for name, parts in days().items():
        script = ROOT / "benchmarks" / f"{name}.py"
        if name == "bench" or not script.exists():
            continue
        about = " ".join(
            script.read_text(encoding="utf-8").split('"""')[1].split("\n\n")[0].split()
        )
        when = sorted({day for day, _ in parts.values()})
        span = " to ".join(dict.fromkeys((when[0], when[-1])))
        took = f"{runs[name]['seconds']:.0f} ({runs[name]['load']})" if name in runs else ""
        lines.append(f"| `{name}.py` | {about} | {span} | {took} |")
    machines = {json.dumps(run["machine"]): run["machine"] for run in runs.values()}
    noted = [
        f"{m['cpu']}, {m['cores']} cores, {m['gib']} GiB, {m['system']}, Python {m['python']}."
        for m in machines.values()
    ]
    return "\n".join(lines + [""] * bool(noted) + noted)


FIGURES: Mapping[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        added, agents, beside, day_one, every, feedback, final, heads, knobs, languages, limits,
        llms, own_llms, pairs, promise, prompt_cache, rules, selectors, several, shared, shots,
        speed, tokens, tools, weight,
    )
}  # fmt: skip


def filled(text: str) -> str:
    """Return a page with its figures in place."""
    return BLOCK.sub(lambda found: found[1] + FIGURES[found[2]]() + "\n" + found[3], text)


def parted() -> list[str]:
    """Return what differs from the result files: pages, the days, pictures."""
    stale = [
        str(page.relative_to(ROOT))
        for page in PAGES
        if filled(page.read_text()) != page.read_text()
    ]
    if json.loads(DAYS.read_text()) != days():
        stale.append(str(DAYS.relative_to(ROOT)))
    return stale + pictures.parted()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        stale = parted()
        print("\n".join(stale) or "equal to the result files")
        sys.exit(bool(stale))
    DAYS.write_text(json.dumps(days(), indent=1) + "\n", encoding="utf-8")
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    pictures.draw()


if __name__ == "__main__":
    main()
