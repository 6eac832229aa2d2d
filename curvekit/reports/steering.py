"""Studies of steering as pages: what each way brings and costs, and how often styles are recognised.

    python -m curvekit.reports.steering reports/styles studies/austen studies/darwin ...

makes one page of several studies with the same rows and model, a label each; ``curvekit steering`` makes that of one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curvekit import figures
from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.intervals import cluster_interval, ratio
from curvekit.evaluation.results import markdown_table
from curvekit.experiments.steering import STUDY
from curvekit.files import read_json, read_jsonl, write_text
from curvekit.ownership import require
from curvekit.training.cards import continued, quoted

DEAREST = 1.3  # times the perplexity of texts that are not steered
SHOWN = 3  # texts of each way


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a study as Markdown."""
    return markdown_table(
        [
            {
                "way": row["way"],
                "strength": f"{row['strength']:g}",
                "success [95%]": f"{row['success']:.0%} [{row['success_low']:.0%}, {row['success_high']:.0%}]",
                "perplexity [95%]": f"{row['perplexity']:.1f} "
                f"[{row['perplexity_low']:.1f}, {row['perplexity_high']:.1f}]",
                "distinct pairs": f"{row['distinct_2'] or 0:.2f}",
                "ms a token": f"{row['ms_per_token'] or math.nan:.0f}",
            }
            for row in rows
        ]
    )


def verdict(study: Mapping[str, Any]) -> str:
    """The best row that costs no more than :data:`DEAREST` times the perplexity, in a sentence."""
    none, others = _as_it_is(study), [row for row in study["rows"] if row["way"] != "none"]
    cheap = [row for row in others if row["perplexity"] <= DEAREST * none["perplexity"]]
    begin = f"{none['success']:.0%} of the texts are {study['label']} to the judge as the model is"
    if not cheap:
        return f"{begin}; no way that was tried costs at most {DEAREST:g} times the perplexity."
    best = max(cheap, key=lambda row: row["success"])
    sure = "" if best["success_low"] > none["success_high"] else "; the intervals overlap"
    return (
        f"{begin}, and {best['success']:.0%} with {best['way']} {best['strength']:g}, at "
        f"{best['perplexity'] / none['perplexity']:.2f} times the perplexity under another model{sure}."
    )


def page(study: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], command: str) -> str:
    """A study as Markdown: verdict, figure, table, and the first texts of each way at its best strength."""
    parts = [
        f"# Steering toward {study['label']}",
        verdict(study),
        "![Success against perplexity](figures/success-against-perplexity.png)",
        table(study["rows"]),
        f"The judge knows words, was trained on {study['judge_rows']:,} rows that steer nothing, and is right on "
        f"{study['judge_accuracy']:.1%} of {study['test_rows']:,} held-out ones. {len(study['prompts'])} prompts, "
        f"{study['count']} texts each of {study['tokens']} tokens, seed {study['seed']}; intervals are over prompts. "
        "Milliseconds are of the processor, for a token of all texts together.",
        f"```\n{command}\n```",
        "## Texts",
        "The first of each way at the strength that succeeds most often; none was chosen.",
    ]
    for way in dict.fromkeys(row["way"] for row in study["rows"]):
        best = max((row for row in study["rows"] if row["way"] == way), key=lambda row: row["success"])
        own = _texts_of(best, samples)
        parts.append(f"### {way} {best['strength']:g}" if best["strength"] else "### As it is")
        parts += [continued(each["prompt"], each["text"]) for each in own[:SHOWN]]
    return "\n\n".join(parts) + "\n"


def write(folder: Path, command: str) -> Path:
    """Write ``README.md`` and the figure of the study in a folder; return the page."""
    study, samples = read_json(folder / "study.json"), read_jsonl(folder / "samples.jsonl")
    figure = figures.success_against_perplexity(study["rows"], study["label"])
    figures.save(figure, "success-against-perplexity", folder)
    return write_text(folder / "README.md", page(study, samples, command))


# Several labels


def recognised(studies: Sequence[Mapping[str, Any]], samples: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """How often texts have the label that was sought: steered at the first strength, and not, over all labels.

    Returns:
        ``chance`` (one in the labels that the judge knows), ``steered`` and ``plain`` with ``share, low, high`` over
        prompts of all labels, and ``rows`` of each label.

    Raises:
        CurvekitError: studies of other rows, models or prompts, or none that steers.
    """
    first = studies[0]
    for name in ("model", "rows_digest", "prompts", "count", "tokens", "seed"):
        if any(study[name] != first[name] for study in studies):
            raise CurvekitError(f"the studies differ in {name}; give studies of the same rows and model, a label each")
    found: dict[str, Any] = {"rows": []}
    hits: dict[str, list[np.ndarray]] = {"plain": [], "steered": []}
    for study, own in zip(studies, samples, strict=True):
        steered = next((row for row in study["rows"] if row["way"] != "none"), None)
        if steered is None:
            raise CurvekitError(f"the study of {study['label']!r} steers nothing; give it a way")
        row = {"label": study["label"], "way": steered["way"], "strength": steered["strength"]}
        row["text"] = _texts_of(steered, own)[0]
        for name, wanted in (("plain", _as_it_is(study)), ("steered", steered)):
            right = [each["success"] for each in _texts_of(wanted, own)]
            hits[name].append(np.array(right, float).reshape(len(study["prompts"]), -1))
            row[name] = float(np.mean(right))
        found["rows"].append(row)
    for name, of_labels in hits.items():
        every = np.concatenate(of_labels)  # [labels * prompts, texts]
        groups = np.stack([every.sum(1), np.full(len(every), every.shape[1])], axis=1)
        low, high = cluster_interval(groups, ratio)
        found[name] = {"share": float(every.mean()), "low": low, "high": high}
    return found | {"chance": 1 / first["labels"]}


def styles_page(studies: Sequence[Mapping[str, Any]], found: Mapping[str, Any], note: str = "") -> str:
    """Several labels as Markdown."""
    first, steered, plain, chance = studies[0], found["steered"], found["plain"], found["chance"]
    rows = [
        {"label": quoted(row["label"]), "as it is": f"{row['plain']:.0%}", "steered": f"{row['steered']:.0%}"}
        for row in found["rows"]
    ]
    way = found["rows"][0]
    parts = [
        "# Styles that a judge recognises",
        f"Of texts with the way {way['way']} at strength {way['strength']:g}, {steered['share']:.0%} "
        f"[{steered['low']:.0%}, {steered['high']:.0%}] are found to have the label that was sought, "
        f"{steered['share'] / chance:.1f} times as many as by chance ({100 * chance:.3g} %); of texts of the same "
        f"model without it {plain['share']:.0%} [{plain['low']:.0%}, {plain['high']:.0%}].",
        "![How often each style is recognised](figures/recognised.png)",
        markdown_table(rows),
        f"The judge knows words, was trained on {first['judge_rows']:,} rows that trained no model, and is right on "
        f"{first['judge_accuracy']:.1%} of {first['test_rows']:,} held-out ones. For each label "
        f"{len(first['prompts'])} prompts, {first['count']} texts each of {first['tokens']} tokens, seed "
        f"{first['seed']}; intervals are over prompts and labels together.",
        note,
        "## The first text of each, steered",
        *(f"{quoted(row['label'])}\n\n{continued(row['text']['prompt'], row['text']['text'])}"
          for row in found["rows"]),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _texts_of(row: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The samples that a row of a study counts."""
    return [each for each in samples if (each["way"], each["strength"]) == (row["way"], row["strength"])]


def _as_it_is(study: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(row for row in study["rows"] if row["way"] == "none")


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.reports.steering FOLDER STUDY ...``."""
    parser = argparse.ArgumentParser(prog="curvekit.reports.steering", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the page")
    parser.add_argument("studies", type=Path, nargs="+", help="folders of studies, a label each")
    parser.add_argument("--note", default="", help="a last paragraph: how rows and model were made")
    given = parser.parse_args(arguments)
    for each in given.studies:
        require(each, STUDY)
    studies = [read_json(each / "study.json") for each in given.studies]
    found = recognised(studies, [read_jsonl(each / "samples.jsonl") for each in given.studies])
    figures.save(figures.recognised(found["rows"], found["chance"]), "recognised", given.folder)
    write_text(given.folder / "README.md", styles_page(studies, found, given.note))


if __name__ == "__main__":
    as_command(main)
