"""The report of a zoo: its table, with what may not be compared, its picture, and the published claim beside it.

<folder>/results.json       rows with every document's score, differences, settings, command
<folder>/README.md          the tables, for a reader of the repository
<folder>/index.html         the same as a page that opens offline
<folder>/figures/           the picture as SVG and PNG
<folder>/rows/              what each model measured; used again
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curvekit.evaluation.results import interval, markdown_table, number
from curvekit.evaluation.zoo import COSTS, NOTHING, REST, ROW, overhead, refusals, taken
from curvekit.figures.drawing import is_figure, save
from curvekit.figures.zoo import quality_and_cost
from curvekit.files import read_json, write_json, write_text
from curvekit.ownership import Shape, json_with, require_files, text_with
from curvekit.reports.markup import table
from curvekit.reports.pages import SIGNED, image, page
from curvekit.shapes import Maybe
from curvekit.training.runs import load_run

CLAIMED = (  # as published for this field, without a corpus, tokeniser, context, references or machine
    {"model": "GPT-2", "perplexity": "29.41", "BLEU": "0.42", "ms": "25"},
    {"model": "GPT-Neo", "perplexity": "24.57", "BLEU": "0.48", "ms": "85"},
    {"model": "T5-large", "perplexity": "22.89", "BLEU": "0.51", "ms": "95"},
)
ABOUT_THE_CLAIM = (
    "29.41 is also what the paper of GPT-2 gives its smallest model on WikiText-2, zero-shot and a token, after "
    "detokenisers: a figure for that text and those tokens alone.",
    "GPT-Neo has GPT-2's tokens, so its perplexity compares with GPT-2's on the same text; T5 has others, drops line "
    "breaks and writes a target for a source, so its perplexity compares with neither.",
    "BLEU says nothing without its references and its signature, and 0.42 is on a scale to 1, where sacrebleu's goes "
    "to 100; no machine, batch, length or cache stands beside the milliseconds.",
    "What compares across tokens is bits a byte and perplexity a word of the same text, and BLEU of continuations of "
    "the same prompts cut at the same number of words: the table above has these.",
)
COLUMNS = {  # metric -> its heading and digits
    "perplexity": ("perplexity", 2),
    "word_perplexity": ("word perplexity", 2),
    "bits_per_byte": ("bits/byte", 4),
    REST: ("bits/byte of the rest", 4),
    "token_accuracy": ("token accuracy", 4),
    "bleu": ("BLEU", 2),
    "chrf": ("chrF", 2),
    "prefill_ms": ("prefill ms", 1),
    "decode_ms": ("ms/token", 2),
    "peak_memory_mb": ("peak MB", 0),
}
DIFFERENCE = "Δ bits/byte [95% interval]"
_PAIR = {
    **dict.fromkeys(("a", "b", "of"), str),
    **dict.fromkeys(("difference", "low", "high", "p"), Maybe((float, None))),
    **dict.fromkeys(("verdict", "why_not"), Maybe(str)),
}
FILES: dict[str, Shape] = {
    "results.json": json_with("settings", "texts", "rows", "differences", "command"),
    "README.md": text_with("# The zoo"),
    "index.html": text_with(SIGNED),
    "figures/quality.svg": is_figure,
    "figures/quality.png": is_figure,
}


def require_place(folder: str | Path) -> None:
    """Refuse a folder in which another's file would be written over, before anything is measured."""
    require_files(folder, FILES)


def write(found: Mapping[str, Any], folder: str | Path, command: str) -> Path:
    """Write the report of what :func:`curvekit.evaluation.zoo.zoo` found; return its ``index.html``.

    Raises:
        CurvekitError: a file of another's is in its place, or the folder cannot be written.
    """
    folder = Path(folder)
    require_place(folder)
    write_json(folder / "results.json", {**found, "command": command})
    rows = [row for row in found["rows"] if "error" not in row]
    if rows:
        metric = "bits_per_byte" if all(row["given"] == NOTHING for row in rows) else REST
        apart = [row["name"] for row in rows if metric in refusals(row, rows[0])]
        drawn = [
            {**row, "bits": row[metric], **{cost: taken(row, cost)[0] for cost in ("prefill_ms", "decode_ms")}}
            for row in rows
        ]
        said = on_what(rows) + (", processor time" if any(taken(row, "decode_ms")[1] for row in rows) else "")
        given = f" after their first {found['settings']['prompt_words']} words" if metric == REST else ""
        save(quality_and_cost(drawn, apart, said, given), "quality", folder)
    write_text(folder / "README.md", _markdown(found, command, bool(rows)))
    write_text(folder / "index.html", _html(found, command, folder if rows else None))
    return folder / "index.html"


def trainings(names: Sequence[str | Path]) -> dict[str, str]:
    """Of each finished run among the models, by the name of its folder: how it was made and what that took."""
    told = {}
    for run in (load_run(name) for name in names if (Path(name) / "metrics.json").is_file()):
        name, metrics = run.folder.resolve().name, run.metrics
        told[name] = (
            f"`{run.config.command()} --out runs/{name}`; {metrics['train_tokens']:,} tokens, "
            f"{metrics['train_seconds'] / 60:.1f} minutes of training"
        )
    return told


def load(folder: str | Path) -> dict[str, Any]:
    """What :func:`write` wrote.

    Raises:
        CurvekitError: the folder holds no zoo, or one that is not whole.
    """
    row = ({"name": str, "error": str}, ROW)
    shape = {"texts": {"documents": int, "words": int}, "rows": [row], "differences": [_PAIR], "command": str}
    shape["trainings"] = Maybe({str: str})
    found: dict[str, Any] = read_json(
        Path(folder) / "results.json", shape={**shape, "settings": dict, "minutes": float}
    )
    return found


def cells(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of the table as text: the first model that was measured is what the others are compared with."""
    rows = found["rows"]
    first = next((row for row in rows if "error" not in row), None)
    pairs = {(each["a"], each["b"]): each for each in found["differences"]}
    told = []
    for row in rows:
        line = {"model": row["name"]}
        if first is None or "error" in row:
            line |= {heading: "" for heading, _ in COLUMNS.values()} | {DIFFERENCE: "not had"}
            told.append(line | {"verdict": row["error"], "parameters": ""})
            continue
        why = refusals(row, first) if row is not first else {}
        for metric, (heading, digits) in COLUMNS.items():
            text, busy = number(row[metric], digits), False
            if metric.endswith("_ms"):
                value, busy = taken(row, metric)
                text = f"{value:,.{digits}f}"
            said = [*(["processor time"] if busy else []), *([why[metric]] if metric in why else [])]
            line[heading] = f"{text} ({'; '.join(said)})" if said and row[metric] is not None else text
        line |= _difference(pairs.get((row["name"], first["name"])), row is first)
        told.append(line | {"parameters": f"{row['parameters']:,}"})
    return told


def _difference(pair: Mapping[str, Any] | None, is_first: bool) -> dict[str, str]:
    if is_first:
        return {DIFFERENCE: "", "verdict": "compared with"}
    if pair is None or "why_not" in pair:
        return {DIFFERENCE: "not compared", "verdict": "" if pair is None else pair["why_not"]}
    if pair.get("low") is None:
        return {DIFFERENCE: "n/a", "verdict": pair["verdict"]}
    return {
        DIFFERENCE: interval(pair),
        "verdict": pair["verdict"] + (" (the rest)" if pair["of"] == "the rest" else ""),
    }


def block(folder: str | Path) -> str:
    """What the README shows of a zoo: its table in short, its notes and its command."""
    found = load(folder)
    shown = (
        *("model", "word perplexity", "bits/byte", COLUMNS[REST][0], DIFFERENCE, "verdict", "BLEU"),
        *("prefill ms", "ms/token", "peak MB", "parameters"),
    )
    lines = [{column: line[column] for column in shown} for line in cells(found)]
    return "\n".join([_short_note(found), "", markdown_table(lines), "", "```", found["command"], "```"])


def _short_note(found: Mapping[str, Any]) -> str:
    settings, texts = found["settings"], found["texts"]
    rows = [row for row in found["rows"] if "error" not in row]
    return (
        f"The first {settings['words']} words of {texts['documents']} {settings['split']} documents of "
        f"{Path(settings['corpus']).name}, windows of {settings['context']} tokens; "
        f"{on_what(rows) if rows else 'nothing was measured'}."
    )


def on_what(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the times were taken on."""
    return "; ".join(dict.fromkeys(f"{row['machine']}, {_threads(row['threads'])}, {row['dtype']}" for row in rows))


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def notes(found: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the table."""
    settings, texts = found["settings"], found["texts"]
    rows = [row for row in found["rows"] if "error" not in row]
    said = [
        f"Texts: {_short_note(found)} {texts['words']:,} words, {texts['bytes']:,} bytes, sha256 {texts['sha256']}.",
        f"Δ is a model's bits a byte minus those of {rows[0]['name'] if rows else 'the first'}, on the same documents; "
        "below zero is better. Intervals: 95% paired bootstrap over documents.",
        "The models have read different texts before, a large one perhaps these: what differs is the models as they "
        "are, not their architectures alone.",
        "Perplexity and token accuracy are of a model's own tokens, and compare between models that share them; "
        "perplexity a word and bits a byte compare across tokens.",
    ]
    said.append(
        f"The rest: the words of each document after its first {settings['prompt_words']}, given those. A T5 writes it "
        "as the target of that source: its figures are of the rest, and compare with other models' of the same rest, "
        "with no perplexity of whole texts."
    )
    if rows and (written := rows[0]["written"]):
        short = sum(row["short"] or 0 for row in rows)
        said.append(
            f"BLEU and chrF: the likeliest {settings['continuation_words']} words after the first "
            f"{settings['prompt_words']} of {written['prompts']} documents, against the document's own; "
            f"{short or 'no'} continuation{'' if short == 1 else 's'} ended sooner. {written['signatures']['bleu']}"
        )
    if rows:
        reading = sorted({row["prefill_tokens"] for row in rows})
        said.append(
            f"Prefill: milliseconds to read {' or '.join(map(str, reading))} tokens and write one; ms/token: of the "
            f"next {rows[0]['decode_tokens']}, with the cache; medians of {settings['repeats']}, warm, one text alone, "
            f"nothing ends early. {on_what(rows)}. Peak MB: above what the libraries hold, from opening to the last "
            "token."
        )
        if busy := [row for row in rows if taken(row, "decode_ms")[1]]:
            most = max(row["busy"] for row in busy)
            said.append(
                f"The machine had other work, up to {most:.0%} of the time: where it says so, milliseconds are the "
                "processor's own, over its threads, and about what a machine without other work would take."
            )
        share = overhead(rows)
        spent = sum(sum(row["seconds"].values()) for row in rows)
        own = "" if share is None else f"; starting, opening and taking times took {share:.0%} of it"
        said.append(f"The measuring took {spent / 60:.1f} minutes{own}.")
    return [*said, *(f"{name}: {how}." for name, how in found.get("trainings", {}).items())]


def _markdown(found: Mapping[str, Any], command: str, drawn: bool) -> str:
    parts = ["# The zoo", "Models on the same texts: how well they read and write, and what that costs."]
    parts += ["![How well models read, against what it costs](figures/quality.png)"] if drawn else []
    parts += [markdown_table(cells(found)), "\n".join(f"- {note}" for note in notes(found))]
    if pairs := _pairs(found):
        parts += ["## Every pair", markdown_table(pairs)]
    claim = "\n".join(f"- {each}" for each in ABOUT_THE_CLAIM)
    parts += ["## The published claim", markdown_table(CLAIMED), claim]
    return "\n\n".join([*parts, "## Doing it again", f"```\n{command}\n```"]) + "\n"


def _html(found: Mapping[str, Any], command: str, folder: Path | None) -> str:
    lines = cells(found)
    costs = [COLUMNS[metric][0] for metric in COSTS]
    apart = (*costs, "parameters", DIFFERENCE, "verdict")
    quality = [{k: v for k, v in line.items() if k not in apart} for line in lines]
    against = [{k: line[k] for k in ("model", DIFFERENCE, "verdict")} for line in lines]
    prices = [{k: line[k] for k in ("model", "parameters", *costs)} for line in lines]
    listed = lambda texts: "<ul>" + "".join(f"<li>{html.escape(each)}</li>" for each in texts) + "</ul>"  # noqa: E731
    picture = "How well models read, against what it costs"
    parts = [
        "<h1>The zoo</h1><p>Models on the same texts: how well they read and write, and what that costs.</p>",
        f"<figure>{image(folder / 'figures' / 'quality.svg', picture)}</figure>" if folder else "",
        f"<h2>How well they read and write</h2>{table(quality)}{table(against)}<h2>What it costs</h2>{table(prices)}",
        listed(notes(found)),
    ]
    if pairs := _pairs(found):
        parts.append(f"<h2>Every pair</h2>{table(pairs)}")
    parts.append(f"<h2>The published claim</h2>{table(CLAIMED)}{listed(ABOUT_THE_CLAIM)}")
    parts.append(f"<h2>Doing it again</h2><pre>{html.escape(command)}</pre>")
    parts.append('<p>Files: <a href="results.json">results.json</a>, <a href="README.md">README.md</a>.</p>')
    return page("The zoo", f"<main>{''.join(parts)}</main>", [], "index")


def _pairs(found: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"model": each["a"], "minus": each["b"], **_difference(each, False)} for each in found["differences"]]
