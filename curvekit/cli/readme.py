"""Blocks of the README that commands write: what stands between two marks, and what a comparison says there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curvekit.evaluation.results import INTERVAL, ROW, cells, markdown_table
from curvekit.files import read_json
from curvekit.shapes import Maybe

LADDER_BEGIN, LADDER_END = "<!-- which-curve:begin -->", "<!-- which-curve:end -->"
LEAK_BEGIN, LEAK_END = "<!-- leak-tax:begin -->", "<!-- leak-tax:end -->"
ZOO_BEGIN, ZOO_END = "<!-- zoo:begin -->", "<!-- zoo:end -->"
BENCHMARKS_BEGIN, BENCHMARKS_END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def results_block(folder: Path) -> str:
    """What the README says of a comparison, from the ``results.json`` in its folder."""
    found = read_json(folder / "results.json", shape={"rows": [ROW], "summary": str, "command": str})
    shown = ("recipe", "perplexity", "bits/byte", INTERVAL, "p (Holm)", "verdict", "trainable parameters")
    table = markdown_table([{column: cells(row)[column] for column in shown} for row in found["rows"]])
    return "\n".join([found["summary"], "", table, "", "```", found["command"], "```"])


_TESTED = {"difference": float, "low": float, "high": float, "relative_perplexity": float}
_BEST, _CANON, _WIDER = "curve3+sites+softemax", "canon:own_rate=4", "plain:like=curve3"
_CANON_A, _SMEAR = "canon-a:own_rate=4", "smear:own_rate=4"
_WORDS, _OVER = (f"{each}+canon+softemax:site_rate=4" for each in ("encoder", "curve3"))
_PUBLISHED = "plain:attention=published"
_SAID = {  # candidates of the ladder that the README shows, and what they are
    "plain": "GPT-2",
    _PUBLISHED: "SoftEMax as published",
    "softemax": "SoftEMax alone",
    _WIDER: "GPT-2, wider",
    "encoder": "BERT's embeddings, no curve",
    _SMEAR: "peer: smear",
    "curve3": "curve through BERT's embeddings",
    "self-curve3": "curve through its own embeddings",
    "trigram:own_rate=4": "peer: trigram embeddings",
    "sites:channels=point+tangent+curvature,own_rate=4": "curves in the blocks alone",
    _BEST: "curves at the input and in the blocks, SoftEMax",
    _CANON: "peer: Canon's free kernels in the blocks",
    _OVER: "curve through BERT's embeddings, Canon's kernels, SoftEMax",
    _WORDS: "BERT's embeddings, Canon's kernels, SoftEMax",
}


def is_ladder(folder: Path) -> bool:
    """Whether the folder holds the report of a ladder."""
    return all((folder / f"{name}.json").is_file() for name in ("medium", "long", "contrasts"))


def is_leak_tax(folder: Path) -> bool:
    """Whether the folder holds the report on what a look at the answer is worth."""
    path = folder / "results.json"
    rows: Any = read_json(path).get("rows") if path.is_file() else None
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and "looking" in rows[0]


def leak_block(folder: Path) -> str:
    """What the README says of that report."""
    from curvekit.reports.leak_tax import cells as told
    from curvekit.reports.leak_tax import load, rows_of, said

    results = load(folder / "results.json")
    return "\n\n".join([said(results), markdown_table([told(row) for row in rows_of(results)])])


def ladder_block(folder: Path) -> str:
    """What the README says of the ladder's report in a folder."""
    row = {"candidate": str, "perplexity": float, "trainable_parameters": int, "seeds": int, **_maybe(_TESTED)}
    medium, long = (read_json(folder / f"{name}.json", list, [row]) for name in ("medium", "long"))
    compared = {"rung": str, "a": str, "b": str, "verdict": str, "seeds": int, **_TESTED}
    pairs = read_json(folder / "contrasts.json", list, [compared])
    pair = {(each["a"], each["b"]): each for each in pairs if each["rung"] == "medium"}
    path, timed = folder / "time.json", {"candidate": str, "ratio": float, **_TESTED}
    at_equal_time = {each["candidate"]: each for each in (read_json(path, list, [timed]) if path.exists() else [])}
    by_name = {each["candidate"]: each for each in medium}
    shown = [by_name[name] for name in _SAID if name in by_name]
    least = min(each["seeds"] for each in shown)
    in_time = " and ".join(
        f"{called}, whose step takes {each['ratio']:.2f} times as long as plain's, changes it by {_percent(each)}, "
        f"{_interval(each)} nats"
        for name, called in {_WORDS: "the best of all", _BEST: f"`{_BEST}`"}.items()
        if (each := at_equal_time.get(name))
    )
    says = [
        f"At equal steps (1,000 of 2,048 tokens from random weights, {least} seeds or more, test) the best of all, "
        "BERT's embedding of each word over Canon's free kernels with SoftEMax, changes GPT-2's perplexity by "
        f"{_percent(by_name[_WORDS])}, `{_BEST}` by {_percent(by_name[_BEST])}, and a curve at the input alone that of "
        f"a GPT-2 widened to as many parameters by {_percent(pair['curve3', _WIDER])}.",
        in_time
        and "At equal time on one thread of a CPU, with plain's loss after as many more steps as one seed of it gained "
        f"there, {in_time}.",
        _against("Against Canon's kernels alone the best of all", pair[_WORDS, _CANON]),
        _against("A curve through BERT's embeddings, in the place of the embeddings themselves,", pair[_OVER, _WORDS]),
        _against(f"Against Canon's kernels `{_BEST}`", pair[_BEST, _CANON]),
        _against("Against Canon's kernels before attention alone it", pair[_BEST, _CANON_A]),
        _against("Against smear it", pair[_BEST, _SMEAR]),
        _against(
            "A curve through BERT's embeddings, against one through the model's own,", pair["curve3", "self-curve3"]
        ),
        _against("SoftEMax, against softmax beside a curve,", pair["curve3+softemax", "curve3"]),
        _against("SoftEMax as published, against softmax,", pair[_PUBLISHED, "plain"]),
        "At 16,000 steps, one seed, perplexities are "
        + ", ".join(
            f"{each['perplexity']:.2f} for `{each['candidate']}`"
            + (f" ({_percent(each)})" if "difference" in each else "")
            for each in long
        )
        + ".",
    ]
    rows = [
        {
            "from random weights, 1,000 steps": f"`{each['candidate']}`: {_SAID[each['candidate']]}",
            "perplexity": f"{each['perplexity']:.1f}",
            "seeds": str(each["seeds"]),
            "change": _percent(each) if "difference" in each else "",
            INTERVAL: _interval(each) if "difference" in each else "baseline",
            "at equal time": _percent(at_equal_time[name]) if (name := each["candidate"]) in at_equal_time else "",
            "trainable parameters": f"{each['trainable_parameters']:,}",
        }
        for each in shown
    ]
    command = f"curvekit compare {folder.as_posix()}"
    return "\n".join([" ".join(filter(None, says)), "", markdown_table(rows), "", "```", command, "```"])


def _maybe(shape: dict[str, Any]) -> dict[str, Any]:
    return {name: Maybe(kind) for name, kind in shape.items()}


def _against(what: str, row: Mapping[str, Any]) -> str:
    verdict = row["verdict"] if row["verdict"] in ("better", "worse") else "not told apart"
    alone = ", one seed" if row["seeds"] == 1 else ""
    return f"{what} is {verdict}: {_percent(row)}, {_interval(row)} nats{alone}."


def _percent(row: Mapping[str, Any]) -> str:
    return f"{row['relative_perplexity']:+.1%}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
