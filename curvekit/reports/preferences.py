"""The report of preference runs: reward beside a judge that did not train, KL, length, diversity, perplexity, wins.

    python -m curvekit.reports.preferences reports/preferences DPO=runs/dpo PPO=runs/ppo
    python -m curvekit.reports.preferences reports/preferences

The first gathers finished runs, a folder for each name with a run for each seed in it, into ``results.json``; both
write from that file ``README.md``, ``results.tex`` and the figures. Nothing in them is typed by hand.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from curvekit import figures
from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.metrics import diversity
from curvekit.evaluation.results import markdown_table
from curvekit.evaluation.significance import resampled
from curvekit.files import read_json, write_json, write_text
from curvekit.preferences.measuring import END
from curvekit.preferences.ratings import read_ratings, win_rates
from curvekit.preferences.runs import PreferenceRun, load_preferences
from curvekit.training.cards import continued

RESULTS = {"conditions": {str: {"settings": dict, "runs": [dict]}}}
_PATHS = ("base", "pairs", "reward", "prompts", "data_dir", "held_out", "corpus")  # whose folders are nobody's business
_OF_A_SAMPLE = ("reward", "judge", "tokens")
_SHOWN = 4  # prompts whose answers are shown
_STEPS = ("step", "loss", "reward", "kl", "reward_margin")


def gather(conditions: Mapping[str, str | Path]) -> dict[str, Any]:
    """What the page needs of finished runs: per condition the settings, and of each seed its measurements.

    Raises:
        CurvekitError: a folder has no finished run, or runs that differ in more than their seed.
    """
    found = {}
    for name, folder in conditions.items():
        folder = Path(folder)
        places = sorted(path.parent for path in folder.glob("*/metrics.json")) or [folder]
        runs = [load_preferences(place) for place in places]
        for run in runs[1:]:
            if other := [each for each in runs[0].config.differences(run.config) if not each.startswith("seed ")]:
                raise CurvekitError(
                    f"{run.folder} is no other seed of {places[0]}: {other[0]}; name one condition each"
                )
        settings = runs[0].config.results()
        settings |= {key: Path(str(settings[key])).name for key in _PATHS if settings.get(key)}
        found[name] = {"settings": settings, "runs": [_gathered(run) for run in runs]}
    return {"conditions": found}


def _gathered(run: PreferenceRun) -> dict[str, Any]:
    metrics, samples = run.metrics, run.samples
    kept = {name: metrics[name] for name in ("seed", "start", "end", "kl", "judge", "rewarded_by", "invariants")}
    kept |= {name: metrics[name] for name in ("seconds", "steps", "pairs", "trainable_parameters", "notes")}
    kept["signature"] = metrics["signature"]
    kept["history"] = [{name: row[name] for name in _STEPS if name in row} for row in run.history]
    kept["answers"] = {
        f"{when}_{what}": [round(row[f"{when}_{what}"], 6) for row in samples]
        for when in ("before", "after")
        for what in _OF_A_SAMPLE
    }
    scores = {when: read_json(run.folder / f"scores-{when}.json") for when in ("start", "end")}
    kept["documents"] = {
        "tokens": scores["start"]["tokens"],
        **{when: [round(value, 4) for value in each["nll"]] for when, each in scores.items()},
    }
    kept["texts"] = [{name: row[name] for name in ("prompt", "before", "after")} for row in samples]
    kept["wins"] = win_rates(read_ratings(run.folder / "judged.jsonl"))
    return kept


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each condition: what changed, with intervals over prompts (or documents) and seeds together."""
    rows = []
    for name, condition in results["conditions"].items():
        runs = condition["runs"]
        row: dict[str, Any] = {"name": name, "seeds": len(runs), "kl": float(np.mean([run["kl"] for run in runs]))}
        for what in _OF_A_SAMPLE:
            before, after = (np.array([run["answers"][f"{w}_{what}"] for run in runs]) for w in ("before", "after"))
            row[what] = _change(after - before, np.ones(before.shape[1]))
            row[f"{what}_start"], row[f"{what}_end"] = float(before.mean()), float(after.mean())
        tokens = np.array(runs[0]["documents"]["tokens"], float)
        start, end = (np.array([run["documents"][when] for run in runs]) for when in ("start", "end"))
        change = _change(end - start, tokens)
        row["perplexity"] = {key: None if v is None else float(np.expm1(v)) for key, v in change.items()}
        row["perplexity_start"], row["perplexity_end"] = (
            float(np.exp(each.sum() / tokens.sum() / len(runs))) for each in (start, end)
        )
        length = max(1, int(condition["settings"]["answer_tokens"]) // 4)
        alike = [[_distinct(run, when, length) for when in ("before", "after")] for run in runs]
        both = np.array(alike)
        row["distinct"] = {"difference": float((both[:, 1] - both[:, 0]).mean()), "low": None, "high": None}
        row["distinct_start"], row["distinct_end"] = map(float, both.mean(0))
        row["wins"] = _wins(runs)
        rows.append(row)
    return rows


def _change(delta: np.ndarray, count: np.ndarray) -> dict[str, float | None]:
    found = resampled(delta, count)
    return {name: round(float(getattr(found, name)), 6) for name in ("difference", "low", "high")}


def _distinct(run: Mapping[str, Any], when: str, length: int) -> float:
    found = diversity([row[when] for row in run["texts"]], length)["distinct_2"]
    return float("nan") if found is None else float(found)


def _wins(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How often the end won against the start in the judge's blind ratings, a tie as half, over prompts and seeds."""
    points = []
    for run in runs:
        before, after = (np.array(run["answers"][f"{when}_judge"]) for when in ("before", "after"))
        points.append(np.where(after > before, 1.0, np.where(after < before, 0.0, 0.5)))
    found = resampled(np.array(points), np.ones(len(points[0])))
    return {"rate": float(found.difference), "low": float(found.low), "high": float(found.high)}


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A condition as text, by column."""

    def told(what: str, places: int = 2) -> str:
        change = row[what]
        return (
            f"{row[f'{what}_start']:.{places}f} → {row[f'{what}_end']:.{places}f} "
            f"({change['difference']:+.{places}f} [{change['low']:+.{places}f}, {change['high']:+.{places}f}])"
        )

    change = row["perplexity"]
    return {
        "run": row["name"],
        "seeds": str(row["seeds"]),
        "reward [95 %]": told("reward"),
        "held-out reward": told("judge"),
        "KL, nats an answer": f"{row['kl']:.2f}",
        "perplexity": f"{row['perplexity_start']:.1f} → {row['perplexity_end']:.1f} ({change['difference']:+.1%} "
        f"[{change['low']:+.1%}, {change['high']:+.1%}])",
        "tokens": f"{row['tokens_start']:.1f} → {row['tokens_end']:.1f}",
        "distinct bigrams": f"{row['distinct_start']:.2f} → {row['distinct_end']:.2f}",
        f"wins of the {END}": f"{row['wins']['rate']:.0%} [{row['wins']['low']:.0%}, {row['wins']['high']:.0%}]",
    }


def is_hacked(row: Mapping[str, Any]) -> bool:
    """The reward that trained rose while the judge's did not, and text became worse by the one measure or the other."""
    gained, judged, cost = row["reward"], row["judge"], row["perplexity"]
    return gained["low"] > 0 and not judged["low"] > 0 and (judged["high"] < 0 or cost["low"] > 0.02)


def verdict(row: Mapping[str, Any]) -> str:
    """A condition in a sentence."""
    rose = "rose" if row["reward"]["low"] > 0 else "fell" if row["reward"]["high"] < 0 else "did not change surely"
    cost = row["perplexity"]
    within = "at most 2 %" if cost["high"] <= 0.02 else "by more than 2 %" if cost["low"] > 0.02 else "by about 2 %"
    if cost["difference"] <= 0:
        within = "not at all"
    held = row["judge"]
    judged = "rose too" if held["low"] > 0 else "fell" if held["high"] < 0 else "did not change surely"
    hacked = " **This is reward hacking**: what was paid for was not what was wanted." if is_hacked(row) else ""
    return (
        f"**{row['name']}**: the reward {rose} ({row['reward']['difference']:+.2f}), the held-out one {judged} "
        f"({held['difference']:+.2f}), perplexity rose {within} ({cost['difference']:+.1%}).{hacked}"
    )


def command_of(settings: Mapping[str, Any], seeds: Sequence[int], name: str) -> str:
    """The command that makes a condition's runs."""
    from curvekit.preferences.settings import PreferenceConfig

    config = PreferenceConfig.from_dict(settings)
    usual = PreferenceConfig(method=config.method, base=config.base).results()
    asked = ["--seeds", *map(str, seeds), "--out", f"runs/{name}"]
    flags = config.flags(usual | {"base": PreferenceConfig.base, "seed": config.seed})
    return shlex.join(["curvekit", "prefer", "--method", config.method, *asked, *flags])


def page(results: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    rows, conditions = rows_of(results), results["conditions"]
    first = next(iter(conditions.values()))
    some = first["runs"][0]
    prompts = len(some["texts"])
    text = [
        "# What preferences taught, and what it cost",
        f"Start and end of each run answer the same {prompts} prompts that trained nothing, with the same dice. The "
        "reward is what trained; the held-out reward is a judge that did not. The KL is that of the end's own answers "
        "from the start; perplexity is measured on documents that have nothing to do with either; distinct bigrams are "
        "counted at a fixed length. Intervals are 95 %, over prompts or documents, and seeds together.",
        *([results["note"]] if "note" in results else []),
        markdown_table([cells(row) for row in rows]),
        "\n".join(f"- {verdict(row)}" for row in rows),
        "![End minus start](figures/preferences-changes.svg)",
        "![Loss, reward and KL](figures/preferences-histories.svg)",
        "## Checked before the first step",
        markdown_table([_started(name, condition["runs"][0]) for name, condition in conditions.items()]),
        "## Answers before and after",
        "The first held-out prompts, seed by seed the first; none was chosen.",
    ]
    for name, condition in conditions.items():
        text.append(f"### {name}")
        for sample in condition["runs"][0]["texts"][:_SHOWN]:
            text.append(
                f"{continued(sample['prompt'], sample['before'])}\n\n"
                f"{continued(sample['prompt'], sample['after'], '⟹')}"
            )
    names = {name: name.split(",")[0].lower().replace(" ", "-") for name in conditions}
    commands = [
        command_of(each["settings"], [run["seed"] for run in each["runs"]], names[name])
        for name, each in conditions.items()
    ]
    gathered = " ".join(shlex.quote(f"{name}=runs/{short}") for name, short in names.items())
    commands.append(f"python -m curvekit.reports.preferences reports/preferences {gathered}")
    text += ["An arrow **⟶** leads to the start's answer, **⟹** to the end's.", "## Doing it again"]
    text += ["```\n" + "\n".join(commands) + "\n```"]
    signature = "|".join(f"{key}:{value}" for key, value in some["signature"].items())
    return "\n\n".join(text) + f"\n\nSignature of the perplexities: `{signature}`\n"


def _started(name: str, run: Mapping[str, Any]) -> dict[str, str]:
    checked = run["invariants"] or {}
    loss = checked.get("loss")
    return {
        "run": name,
        "loss": "not known beforehand" if loss is None else f"{loss:.6f}",
        "margin": "" if checked.get("margin") is None else f"{checked['margin']:.0e}",
        "KL": f"{checked.get('kl', 0):.0e}",
        "reference": str(checked.get("reference", "none")),
        "pairs": f"{run['pairs']:,}",
        "trained parameters": f"{run['trainable_parameters']:,}",
        "seconds of training": f"{run['seconds']:.0f}",
    }


def latex(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as a LaTeX tabular."""
    lines = [r"\begin{tabular}{lrrrr}", r"run & reward & held-out & KL & perplexity \\ \hline"]
    for row in rows:
        name = row["name"].replace("_", r"\_")
        parts = [
            f"${row[w]['difference']:+.2f}$ [${row[w]['low']:+.2f}$, ${row[w]['high']:+.2f}$]"
            for w in ("reward", "judge")
        ]
        cost = rf"${100 * row['perplexity']['difference']:+.1f}\,\%$"
        lines.append(f"{name} & {parts[0]} & {parts[1]} & {row['kl']:.2f} & {cost} " + r"\\")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def pictures(results: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of the page by name."""
    histories = {
        name: [run["history"] for run in condition["runs"]] for name, condition in results["conditions"].items()
    }
    return {
        "preferences-changes": figures.preference_changes(rows_of(results)),
        "preferences-histories": figures.preference_histories(histories),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.reports.preferences FOLDER [NAME=RUNS ...]``."""
    parser = argparse.ArgumentParser(prog="curvekit.reports.preferences", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where results.json and the page are")
    parser.add_argument("runs", nargs="*", metavar="NAME=FOLDER", help="finished runs to gather anew")
    parser.add_argument("--note", default="", metavar="WORDS", help="what a reader must know of these runs, Markdown")
    given = parser.parse_args(arguments)
    if wrong := [each for each in given.runs if "=" not in each]:
        raise CurvekitError(f"{wrong[0]!r} is no NAME=FOLDER; write for example DPO=runs/dpo")
    if given.runs:
        found = gather(dict(each.split("=", 1) for each in given.runs))
        write_json(given.folder / "results.json", found | ({"note": given.note} if given.note else {}))
    results = read_json(given.folder / "results.json", shape=RESULTS)
    write_text(given.folder / "README.md", page(results))
    write_text(given.folder / "results.tex", latex(rows_of(results)))
    for name, figure in pictures(results).items():
        figures.save(figure, name, given.folder)


if __name__ == "__main__":
    as_command(main)
