"""Many runs, compared: recipes by seeds from the same base, data and budget, and whether they differ at all.

The unit of evidence is one document under one seed: two recipes score the same documents, and what is tested is
the difference of their losses, document by document. Nothing here draws a conclusion that the interval does not.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from curvekit.errors import CurvekitError, pick
from curvekit.evaluation import results
from curvekit.evaluation.metrics import LanguageModelScore
from curvekit.evaluation.results import CONTRAST, ROW
from curvekit.evaluation.significance import SAMPLES, PairedDifference, corrected, holm, paired_bootstrap
from curvekit.evaluation.targets import COMPARES, GIVEN
from curvekit.files import by_name, finite, read_json, write_json, write_text
from curvekit.ownership import json_with, require_files, text_with
from curvekit.shapes import Maybe
from curvekit.shapes import require as require_shape
from curvekit.training.runs import Run, load_run, require_place
from curvekit.training.settings import RunConfig

__all__ = [
    "Comparison", "PairedDifference", "compare", "holm", "load_comparison", "paired_bootstrap", "run_experiment",
]  # fmt: skip

RESULTS = {  # the files of a comparison, and what they hold
    "comparison.json": json_with("rows", "contrasts", "baseline", "documents", "runs", "signature"),
    "results.json": json_with("summary", "rows", "contrasts", "signature", "command"),
    "results.md": text_with("is a recipe's loss minus that of"),
    "results.tex": text_with("is a recipe's loss minus that of"),
}
CONTRASTS = (  # what the curve brings apart from what the encoder brings
    ("curve", "encoder"),
    ("curve", "self-curve"),
    ("curve", "random-encoder"),
    ("curve3", "encoder"),
    ("curve3", "self-curve3"),
    ("curve-causal", "curve"),
    ("curve+softemax", "softemax"),
    ("curve+sink", "sink"),
    ("curve3+sites+softemax", "softemax"),
    ("curve3+sink", "sink"),
)


@dataclass
class Comparison:
    """Recipes beside one another, and what may be concluded. ``run_experiment`` and ``compare`` make one.

    Attributes:
        rows: for each recipe ``recipe``, ``leaks``, ``verdict``, ``seeds`` (how many); over seeds the mean of
            ``perplexity``, ``word_perplexity``, ``bits_per_byte``, ``token_accuracy``, ``bleu``,
            ``tokens_per_second``, ``parameters`` and ``trainable_parameters``, each with its ``_sd``;
            ``perplexities`` (seeds,); and against the baseline ``difference``, ``low``, ``high`` (nats a token),
            ``p``, ``p_holm``, ``relative_perplexity``, ``per_seed``: ``None`` where there is nothing to say.
        contrasts: the latter for pairs of recipes without the baseline: ``a``, ``b``, ``recipe`` "a against b".
        baseline: the recipe that all others are compared with.
        documents, seeds, samples: what the intervals rest on.
        runs: ``{"recipe", "seed", "folder"}`` of each run, folders relative to the comparison's.
        settings: what all runs share, and ``differing`` what they do not although it is not the recipe.
        signature: of the scores. ``command``: what makes these results again.
        folder: where it lies.
    """

    rows: list[dict[str, Any]]
    contrasts: list[dict[str, Any]]
    baseline: str
    documents: int
    seeds: list[int]
    samples: int
    runs: list[dict[str, Any]]
    settings: dict[str, Any]
    differing: list[str]
    signature: str
    base_is_random: bool
    command: str
    folder: Path = field(default=Path("."), compare=False)

    def row(self, recipe: str) -> dict[str, Any]:
        """The figures of one recipe."""
        rows = {row["recipe"]: row for row in self.rows}
        return rows[pick(recipe, rows, "recipe")]

    def run_folders(self, recipe: str) -> list[Path]:
        """The folders of a recipe's runs, by seed."""
        recipe = self.row(recipe)["recipe"]
        return [self.folder / run["folder"] for run in self.runs if run["recipe"] == recipe]

    def between(self, a: str, b: str, samples: int = SAMPLES) -> PairedDifference:
        """Test recipe ``a`` against recipe ``b``, from the scores in their folders."""
        for recipe in (a, b):
            if self.row(recipe)["leaks"]:
                raise CurvekitError(f"the recipe {recipe!r} leaks, so nothing can be compared with it")
        first, second = ([load_run(place).scores("test") for place in self.run_folders(x)] for x in (a, b))
        return paired_bootstrap(first, second, samples)

    def summary(self) -> str:
        """What was found, in a paragraph of plain English; a null or a negative result is said to be one."""
        base = self.row(self.baseline)
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        said = [
            f"On {self.settings.get('corpus', 'the corpus')} ({self.documents} test documents, {seeds}) the "
            f"baseline {self.baseline} has perplexity {results.spread(base, 'perplexity', 2)}."
        ]
        for row in self.rows:
            if row["leaks"]:
                said.append(f"{row['recipe']} sees the tokens it predicts: its figures compare with no other.")
            elif row["p"] is not None:
                said.append(f"{row['recipe']} {results.finding(row, self.baseline)}.")
            elif row is not base:
                said.append(f"{row['recipe']} could not be compared ({row['verdict']}).")
        said += [f"{x['a']} {results.finding(x, x['b'])}." for x in _compared(self.contrasts)]
        verdicts = {row["verdict"] for row in _compared(self.rows)}
        if verdicts and "better" not in verdicts:
            kind = "a negative result" if "worse" in verdicts else "a null result"
            said.append(f"No recipe is better than {self.baseline}: {kind}.")
        return " ".join([*said, *self.notes()])

    def notes(self) -> list[str]:
        """What a reader must know before believing the table."""
        notes = []
        tests = _compared([*self.rows, *self.contrasts])
        if tests:
            lost = [x["recipe"] for x in tests if (x["low"] > 0 or x["high"] < 0) and x["p_holm"] >= 0.05]
            kept = f" Corrected for their number (Holm), not significant: {', '.join(lost)}." if lost else ""
            were = "comparison was" if len(tests) == 1 else "comparisons were"
            notes.append(f"{len(tests)} {were} made, each at 95% for itself.{kept}")
        if len(self.seeds) == 1:
            notes.append("Seeds were not resampled, there being one: another seed may change these results.")
        elif len(self.seeds) == 2:
            notes.append("With two seeds only a difference on which they closely agree can show.")
        if self.documents < 20:
            notes.append(f"With {self.documents} documents the intervals are rough.")
        if f"prefix:{GIVEN}" in self.signature.split("|"):
            notes.append(f"{COMPARES[0].upper()}{COMPARES[1:]}.")
        if self.base_is_random:
            notes.append("The base has random weights: these models were trained from scratch, not fine-tuned.")
        if self.differing:
            notes.append(f"The runs differ in more than the recipe: {', '.join(self.differing)}.")
        return notes

    def caption(self) -> str:
        """How to read the table."""
        over = f"{self.documents} documents" + (f" and {len(self.seeds)} seeds" if len(self.seeds) > 1 else "")
        return (
            f"Δ is a recipe's loss minus that of {self.baseline} on the same test documents, in nats a token: "
            f"below zero is better. Intervals: 95% paired bootstrap over {over}, {self.samples:,} samples. "
            "±: standard deviation over seeds."
        )

    def to_markdown(self) -> str:
        """The tables, their notes, the signature and the command, in GitHub's Markdown."""
        parts = [results.markdown_table([results.cells(row) for row in self.rows])]
        if self.contrasts:
            parts.append(results.markdown_table([results.contrast_cells(row) for row in self.contrasts]))
        parts.append("\n".join(f"- {note}" for note in (self.caption(), *self.notes())))
        parts += [f"{what}: `{text}`" for what, text in self._origin().items() if text]
        return "\n\n".join(parts) + "\n"

    def to_latex(self) -> str:
        """The table for a paper (booktabs), notes in its caption, signature and command in comments."""
        remarks = "".join(f"% {what}: {' '.join(text.split())}\n" for what, text in self._origin().items())
        caption = " ".join((self.caption(), *self.notes()))
        return remarks + results.latex_table([results.cells(row) for row in self.rows], caption)

    def _origin(self) -> dict[str, str]:
        return {"Signature": self.signature, "Command": self.command}

    def save(self, folder: str | Path) -> None:
        """Write comparison.json (all of this), results.json (the table), results.md and results.tex.

        Raises:
            CurvekitError: one of them is another's file.
        """
        require_files(folder, RESULTS)
        whole = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "folder"}
        write_json(Path(folder) / "comparison.json", whole)
        table = {"summary": self.summary(), **{k: whole[k] for k in ("rows", "contrasts", "signature", "command")}}
        write_json(Path(folder) / "results.json", table)
        write_text(Path(folder) / "results.md", self.to_markdown())
        write_text(Path(folder) / "results.tex", self.to_latex())


_MOST_SAMPLES = 10**6
_SAVED = {
    "rows": [ROW],
    "contrasts": [CONTRAST],
    "baseline": str,
    "documents": int,
    "seeds": [int],
    "samples": int,
    "runs": [{"recipe": str, "seed": int, "folder": str}],
    "settings": {"corpus": Maybe(str), "base": Maybe(str)},
    "differing": [str],
    "signature": str,
    "base_is_random": bool,
    "command": str,
}


def load_comparison(folder: str | Path) -> Comparison:
    """Read what ``Comparison.save`` wrote.

    Raises:
        CurvekitError: the folder holds no comparison, or one of another version.
    """
    path = Path(folder) / "comparison.json"
    saved = read_json(path)
    names = {each.name for each in dataclasses.fields(Comparison)} - {"folder"}
    if other := sorted(names ^ set(saved)):
        raise CurvekitError(f"{path} is not of this version (see {other[0]!r}); compare again")
    require_shape(saved, _SAVED, path)
    for row in (*saved["rows"], *saved["contrasts"]):
        if row["p"] is not None and None in (row["low"], row["high"], row["difference"], row["p_holm"]):
            raise CurvekitError(f"{path}: {row['recipe']} has a p and no interval; compare again")
    if saved["baseline"] not in [row["recipe"] for row in saved["rows"]]:
        raise CurvekitError(f"{path}: baseline is {saved['baseline']!r}, which is no recipe in rows; compare again")
    if not 1 <= saved["samples"] <= _MOST_SAMPLES:
        raise CurvekitError(f"{path}: samples is {saved['samples']}; expected 1 to {_MOST_SAMPLES:,}; compare again")
    return Comparison(**saved, folder=Path(folder))


def run_experiment(
    config: RunConfig,
    recipes: Sequence[str],
    seeds: Sequence[int],
    folder: str | Path,
    baseline: str = "gpt2",
    progress: Callable[[str], None] | None = None,
    *,
    samples: int = SAMPLES,
    command: str | None = None,
) -> Comparison:
    """Train every recipe under every seed, then compare them; write the results to ``folder``.

    Runs lie in ``folder/runs/<recipe>-seed<k>``. A finished one is kept, an unfinished one goes on from its last
    checkpoint: after a kill, the same call continues. All have the base, data order and budget of ``config``.

    Args:
        config: of every run, but for its ``recipe`` and ``seed``.
        recipes, seeds: what to train; a whole seed is finished before the next begins.
        baseline: one of ``recipes``; all others are compared with it.
        progress: called with one line for each run.
        samples: of the bootstrap.
        command: what the reader is told to type to get these results; default: this call.

    Raises:
        CurvekitError: an unknown recipe, two of which the settings make one model, a baseline that is not among
            them or that leaks, a setting that cannot be used, or a run folder of another configuration; before
            anything is trained.
    """
    from curvekit.training.trainer import train

    folder = Path(folder)
    plan = planned(config, recipes, seeds, folder, baseline)
    finished = {place: is_finished(place, wanted) for place, wanted in plan.items()}
    recipes, seeds = list(dict.fromkeys(recipes)), list(dict.fromkeys(seeds))
    for number, (place, wanted) in enumerate(plan.items(), start=1):
        if progress:
            kept = ", finished before" if finished[place] else ""
            progress(f"run {number} of {len(plan)}: {wanted.recipe}, seed {wanted.seed}{kept}")
        if not finished[place]:
            train(grouped(wanted, folder), place)
    command = command or _command(config, recipes, seeds, folder, baseline)
    return compare(plan, baseline, folder, samples=samples, command=command)


def planned(
    config: RunConfig, recipes: Sequence[str], seeds: Sequence[int], folder: str | Path, baseline: str
) -> dict[Path, RunConfig]:
    """The runs of an experiment by their folders, after all that can be found out before anything is trained.

    Raises:
        CurvekitError: as :func:`run_experiment`; or the folder holds another's file that would be written over.
    """
    from curvekit.bases.berts import locate_encoder
    from curvekit.bases.building import planned_config

    folder, recipes, seeds = Path(folder), list(dict.fromkeys(recipes)), list(dict.fromkeys(seeds))
    if not recipes or not seeds:
        raise CurvekitError(f"{len(recipes)} recipes by {len(seeds)} seeds give no run: name at least one of each")
    models = {recipe: planned_config(recipe, config.base, config.overrides()) for recipe in recipes}
    _refuse_twins(models)
    pick(baseline, recipes, "baseline among the recipes")
    _require_causal(baseline, [recipe for recipe in recipes if not models[recipe].leaks])
    plan = {
        folder / "runs" / f"{recipe}-seed{seed}": dataclasses.replace(config, recipe=recipe, seed=seed)
        for seed in seeds
        for recipe in recipes
    }
    require_files(folder, RESULTS)
    left = [wanted for place, wanted in plan.items() if not is_finished(place, wanted)]
    for wanted in left:
        wanted.validate()
    if any(models[wanted.recipe].source == "encoder" for wanted in left):
        locate_encoder(config.encoder)
    return plan


def grouped(config: RunConfig, folder: Path) -> RunConfig:
    """A run of an experiment with the group under which wandb shows it: the seeds of one recipe."""
    return dataclasses.replace(config, wandb_group=config.wandb_group or f"{folder.resolve().name}/{config.recipe}")


def _refuse_twins(models: Mapping[str, Any]) -> None:
    """Refuse two recipes that settings over them have made one model: their difference would be 0 for no reason."""
    made: dict[str, str] = {}
    for recipe, config in models.items():
        settings = json.dumps({k: v for k, v in config.to_dict().items() if k != "recipe"}, sort_keys=True, default=str)
        if (other := made.setdefault(settings, recipe)) != recipe:
            raise CurvekitError(f"the model settings make {recipe} the same model as {other}; leave one of them out")


def compare(
    run_folders: Iterable[str | Path],
    baseline: str = "gpt2",
    folder: str | Path | None = None,
    *,
    samples: int = SAMPLES,
    command: str = "",
) -> Comparison:
    """Compare finished runs, of any number of recipes by the same seeds; write the results to ``folder`` if given.

    Raises:
        CurvekitError: a run that is not finished, a baseline that is missing or leaks, two runs of one recipe and
            seed, recipes of different seeds, or scores that were measured differently.
    """
    runs: dict[str, dict[int, Run]] = {}
    for run in map(load_run, run_folders):
        of_recipe = runs.setdefault(run.config.recipe, {})
        if run.config.seed in of_recipe:
            raise CurvekitError(f"two runs are {run.config.recipe}, seed {run.config.seed}: leave one out")
        of_recipe[run.config.seed] = run
    pick(baseline, runs, "baseline among the runs")
    seeds = sorted(runs[baseline])
    for recipe, of_recipe in runs.items():
        if sorted(of_recipe) != seeds:
            raise CurvekitError(f"{recipe} has the seeds {sorted(of_recipe)}, {baseline} has {seeds}: use the same")
    metrics = {recipe: [of_recipe[seed].metrics for seed in seeds] for recipe, of_recipe in runs.items()}
    scores = {recipe: [of_recipe[seed].scores("test") for seed in seeds] for recipe, of_recipe in runs.items()}
    causal = [recipe for recipe in runs if not any(score.leaks for score in scores[recipe])]
    _require_causal(baseline, causal)

    rows, contrasts = [], []
    for recipe in runs:
        row = _row(recipe, metrics[recipe], scores[recipe])
        if recipe == baseline:
            row["verdict"] = "baseline"
        elif recipe in causal:
            row |= _tested(paired_bootstrap(scores[recipe], scores[baseline], samples))
        rows.append(row)
    for a, b in CONTRASTS:
        if a in causal and b in causal and baseline not in (a, b):
            tested = _tested(paired_bootstrap(scores[a], scores[b], samples))
            contrasts.append({"recipe": f"{a} against {b}", "a": a, "b": b, **tested})
    corrected(_compared([*rows, *contrasts]))

    all_runs = [runs[recipe][seed] for recipe in runs for seed in seeds]
    settings = [run.config.results() for run in all_runs]
    shared = {name: by_name(value) for name, value in settings[0].items() if all(s[name] == value for s in settings)}
    first, others = scores[baseline][0], [score.signature for of_recipe in scores.values() for score in of_recipe]
    common = {
        key: value
        for key, value in first.signature.items()
        if key not in ("model", "recipe", "leaks") and all(other.get(key) == value for other in others)
    }
    found: dict[str, set[Any]] = {
        "training text": {run.corpus["train"] for run in all_runs},
        "precision": {run.metrics.get("precision") for run in all_runs},
    }
    unlike = [name for name in settings[0] if name not in {*shared, "recipe", "seed"}]
    unlike += [name for name, values in found.items() if len(values) > 1]
    comparison = Comparison(
        rows=rows,
        contrasts=contrasts,
        baseline=baseline,
        documents=int((first.tokens > 0).sum()),
        seeds=seeds,
        samples=samples,
        runs=[
            {
                "recipe": run.config.recipe,
                "seed": run.config.seed,
                "folder": Path(os.path.relpath(run.folder, folder or ".")).as_posix(),
            }
            for run in all_runs
        ],
        settings=shared,
        differing=list(dict.fromkeys(unlike)),
        signature=dataclasses.replace(first, signature=common).signature_string(),
        base_is_random=any(m.get("base_is_random") for of_recipe in metrics.values() for m in of_recipe),
        command=command,
        folder=Path(folder or "."),
    )
    if folder is not None:
        comparison.save(folder)
    return comparison


def _require_causal(baseline: str, causal: Sequence[str]) -> None:
    if baseline not in causal:
        raise CurvekitError(f"the baseline {baseline!r} leaks, so nothing compares with it: choose another")


def is_finished(place: Path, wanted: RunConfig) -> bool:
    """Whether a folder holds the run of these settings, finished.

    Raises:
        CurvekitError: it holds a run of other settings, or another's files.
    """
    require_place(wanted, place)
    return Run(place).finished


def _command(config: RunConfig, recipes: Sequence[str], seeds: Sequence[int], folder: Path, baseline: str) -> str:
    """The call that makes these results again; of the settings, those that would not be chosen anyway."""
    unusual = {name: value for name, value in config.unusual().items() if name not in ("recipe", "seed")}
    settings = ", ".join(f"{name}={value!r}" for name, value in unusual.items())
    return f"run_experiment(RunConfig({settings}), {list(recipes)}, {list(seeds)}, {str(folder)!r}, {baseline!r})"


def _row(recipe: str, metrics: Sequence[Mapping[str, Any]], scores: Sequence[LanguageModelScore]) -> dict[str, Any]:
    leaks = any(score.leaks for score in scores)
    row: dict[str, Any] = {
        "recipe": recipe,
        "leaks": leaks,
        "verdict": "leaks: not comparable" if leaks else "",
        "seeds": len(scores),
        "perplexities": [finite(score.perplexity) for score in scores],
    }
    for name in ("perplexity", "word_perplexity", "bits_per_byte", "token_accuracy"):
        row |= _mean_and_sd(name, [finite(getattr(score, name)) for score in scores])
    for name in ("bleu", "tokens_per_second", "parameters", "trainable_parameters"):
        row |= _mean_and_sd(name, [run.get(name) for run in metrics])
    untested = ("difference", "low", "high", "p", "p_holm", "relative_perplexity", "per_seed")
    return row | dict.fromkeys(untested)


def _mean_and_sd(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    """Both over seeds; a mean that leaves out a diverged run would flatter, so then there is none."""
    present = [value for value in values if value is not None]
    whole = len(present) == len(values)
    return {
        name: fmean(present) if whole else None,
        f"{name}_sd": stdev(present) if whole and len(present) > 1 else None,
    }


def _tested(found: PairedDifference) -> dict[str, Any]:
    figures = {name: finite(getattr(found, name)) for name in ("difference", "low", "high", "p")}
    return {
        **figures,
        "p_holm": None,
        "relative_perplexity": finite(found.relative_perplexity),
        "per_seed": [finite(x) for x in found.per_seed],
        "verdict": found.verdict,
    }


def _compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the baseline, and what leaks or diverged."""
    return [row for row in rows if row["p"] is not None]
