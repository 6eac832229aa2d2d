"""A search for settings: cross-validated trials of each recipe, then the winner with fresh seeds on untouched text.

The best of many trials looks better than it is, being chosen for it. So the winner and the settings as given are
trained anew, under seeds that no trial had, and tested once on text that no trial saw; what is left of the winner's
advantage is what it is worth, and the rest was optimism.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock

from curvekit.errors import CurvekitError, pick
from curvekit.evaluation.results import INTERVAL, interval
from curvekit.evaluation.significance import paired_bootstrap
from curvekit.experiments.folds import Folds, FoldTokens
from curvekit.experiments.spaces import Space, as_given, tokens_of_step, with_values
from curvekit.experiments.studies import Study
from curvekit.experiments.trials import POINTS, Diverged, Trials, pooled
from curvekit.files import finite, read_json, write_json, write_text
from curvekit.ownership import Kind, created, json_with, mark, marker, require, text_with
from curvekit.recipes import RECIPES
from curvekit.text.corpora import load_corpus
from curvekit.text.tokenization import run_tokenizer
from curvekit.training.checkpoints import writing
from curvekit.training.preflight import check_run
from curvekit.training.settings import RunConfig
from curvekit.training.tracking import tracked_trial
from curvekit.training.trainer import train

SEARCH = Kind(
    "search",
    "a search's folder",
    {
        "search.json": json_with("space", "folds", "recipes"),
        "folds.json": json_with("held", "trained"),
        "results.json": json_with("recipes", "space"),
        "results.md": text_with("bits a byte"),
    },
    proofs=("search.json",),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a search does: ``trials`` of each recipe over ``folds``, then runs under ``seeds`` that no trial had."""

    recipes: tuple[str, ...]
    space: Space
    folds: int = 4
    trials: int = 20
    sampler: str = "tpe"
    seeds: tuple[int, ...] = (1, 2, 3)

    def to_dict(self) -> dict[str, Any]:
        return {
            "recipes": list(self.recipes),
            "space": {each.name: each.to_dict() for each in self.space},
            "folds": self.folds,
            "trials": self.trials,
            "sampler": self.sampler,
            "seeds": list(self.seeds),
        }


def search(
    config: RunConfig, plan: Plan, folder: str | Path, announce: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run a search in ``folder``, or go on with the one that is there; several processes may do so at once.

    Returns:
        what ``results.json`` holds: for each recipe ``given`` and ``trials`` with their folds, ``best``, and ``test``,
        see :func:`verdict`; ``overhead``, the share of time that was neither training nor scoring.

    Raises:
        CurvekitError: another search in the folder, a recipe or value that cannot be used, more folds than documents,
            a full disk.
    """
    folder = Path(folder)
    recipes = tuple(dict.fromkeys(pick(recipe, RECIPES, "recipe") for recipe in plan.recipes))
    if config.seed in plan.seeds:
        raise CurvekitError(f"seed {config.seed} is that of the trials; test the winner under others with --seeds")
    for recipe in recipes:
        check_run(dataclasses.replace(config, recipe=recipe))
    require(folder, SEARCH)
    with created(folder), writing(folder / "trials"):
        wanted = _agreed(config, plan, folder)
        corpus = load_corpus(config.corpus, config.data_dir, announce=announce)
        if not marker(folder):  # before any file: a second process knows the folder by it
            mark(folder, SEARCH.name)
        with FileLock(folder / ".folds.lock"):  # one process divides and tokenises for all
            folds = Folds(corpus, plan.folds, config.seed, folder / "folds.json")
            texts = [text for split in ("train", "validation") for text in corpus[split]["text"]]
            tokenizer = run_tokenizer(config.tokenizer, config.base, texts, config.vocabulary)
            tokens = FoldTokens(
                folds, tokenizer, folder / "tokens.safetensors", Path(config.corpus).name, config.validation_documents
            )
        write_json(folder / "search.json", wanted)
        work = Trials(tokens)
        studies = {}
        for recipe in recipes:
            own = dataclasses.replace(config, recipe=recipe)
            studies[recipe] = Study(folder, recipe, plan.space, plan.sampler, plan.trials, config.seed)
            _given(own, work, folder, len(folds), announce)
        while not all(study.done() for study in studies.values()):
            for recipe, study in studies.items():
                while _one(dataclasses.replace(config, recipe=recipe), work, study, len(folds), announce):
                    pass
            if not all(study.done() for study in studies.values()):
                time.sleep(0.5)  # another process is at the last ones, or was killed at them
        del work
        with FileLock(folder / ".final.lock"):
            return _end(config, plan, folder, studies, folds, announce)


def _agreed(config: RunConfig, plan: Plan, folder: Path) -> dict[str, Any]:
    """What ``search.json`` shall hold; refuse to go on with another search."""
    path, wanted = folder / "search.json", {"settings": config.to_dict(), **plan.to_dict()}
    if path.exists():
        known = read_json(path)
        differences = RunConfig.from_dict(known["settings"]).differences(config) + [
            f"{name} is {known.get(name)!r}, not {wanted[name]!r}"
            for name in ("space", "folds", "sampler", "recipes")
            if known.get(name) != wanted[name]
        ]
        if differences:
            raise CurvekitError(f"{folder} holds another search: its {differences[0]}; choose another folder")
    return wanted


def _given(config: RunConfig, work: Trials, folder: Path, folds: int, announce: Callable[[str], None]) -> None:
    """Score the settings as they were given, once: what the winner must beat."""
    path = folder / "given" / f"{config.recipe}.json"
    path.parent.mkdir(exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            return
        try:
            found = [work.fold(config, fold, lambda *_: None) for fold in range(folds)]
        except Diverged as error:
            raise CurvekitError(
                f"with the settings as given the loss of {config.recipe} is not a number; lower learning_rate"
            ) from error
        write_json(path, {"folds": found, "bits": pooled(found)})
    announce(f"{config.recipe}, as given: {pooled(found):.4f} bits a byte")


def _one(config: RunConfig, work: Trials, study: Study, folds: int, announce: Callable[[str], None]) -> bool:
    """Run one more trial; False where there is none left to begin."""
    began = time.perf_counter()
    with study.asked() as trial:
        if trial is None:
            return False
        values = dict(trial.params)
        said = ", ".join(f"{name} {short(value)}" for name, value in values.items())
        told = f"{config.recipe}, trial {len(study.ended()) + 1} of {study.trials} ({said})"
        with tracked_trial(config, study.folder, _group(config, study.folder), trial.number, values) as log:
            found, why = _folds(with_values(config, values), work, study, trial, folds, log)
            bits = None if why else pooled(found)
            log({"trial_bits": bits} if bits is not None else {"ended": why})
        if why:
            trial.set_user_attr("ended", why)
        trial.set_user_attr("seconds", round(time.perf_counter() - began, 4))
        study.tell(trial, bits)
    announce(f"{told}: {why or f'{bits:.4f} bits a byte; the best so far {study.best().value:.4f}'}")
    return True


def _folds(
    config: RunConfig, work: Trials, study: Study, trial: Any, folds: int, log: Callable[[dict[str, Any]], None]
) -> tuple[list[dict[str, Any]], str]:
    """Each fold of a trial, and why it was given up, if it was; what a killed process had finished is kept."""
    found: list[dict[str, Any]] = []
    known, pruned = study.finished_folds(trial), study.optuna.TrialPruned

    def report(point: int, bits: float) -> None:
        trial.report(bits, point)
        log({f"bits, fold {point // POINTS}": bits})
        if point + 1 < folds * POINTS and trial.should_prune():
            raise pruned

    try:
        config.validate()
        for fold in range(folds):
            if fold in known:
                for point, bits in enumerate(known[fold]["bits"]):
                    trial.report(bits, fold * POINTS + point)
                found.append(known[fold])
            else:
                found.append(work.fold(config, fold, report))
            trial.set_user_attr(f"fold {fold}", found[-1])
    except pruned:
        return found, "given up, being worse than most"
    except Diverged:
        return found, "the loss is not a number"
    return found, ""


def _group(config: RunConfig, folder: Path) -> str:
    """What wandb calls the trials of a recipe."""
    return config.wandb_group or f"{folder.resolve().name}/{config.recipe}"


def short(value: Any) -> str:
    """A value of a setting as tables and lines show it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _end(
    config: RunConfig,
    plan: Plan,
    folder: Path,
    studies: Mapping[str, Study],
    folds: Folds,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Train the winners and the settings as given under fresh seeds, test them, and write what was found."""
    found: dict[str, Any] = {}
    for recipe, study in studies.items():
        own = dataclasses.replace(config, recipe=recipe)
        given = read_json(folder / "given" / f"{recipe}.json")
        best = study.best()
        better = best.value < given["bits"]
        values = dict(best.params) if better else {}
        test: dict[str, list[Any]] = {}
        for kind, wanted in (("given", own), ("winner", with_values(own, values) if values else own)):
            if kind == "winner" and not better:
                test[kind] = test["given"]
                continue
            runs = []
            for seed in plan.seeds:
                announce(f"{recipe}, {kind}, seed {seed}: trained and tested once")
                tracked = dataclasses.replace(wanted, seed=seed, wandb_group=f"{_group(own, folder)}/{kind}")
                place = folder / "runs" / f"{recipe}-{kind}-seed{seed}"
                runs.append(train(tracked, place, progress="auto" if sys.stderr.isatty() else "none"))
            test[kind] = runs
        found[recipe] = {
            "given": {"bits": given["bits"], "values": as_given(own, plan.space), "folds": given["folds"]},
            "best": {"number": best.number, "bits": best.value, "values": dict(best.params)},
            "test": verdict(given["bits"], best.value if better else given["bits"], test["given"], test["winner"]),
            "trials": [_row(each) for each in study.ended()],
            "importance": importance(study),
        }
    done = [each for study in studies.values() for each in study.ended()]
    results = {
        **plan.to_dict(),
        "settings": config.to_dict(),
        "documents": len(folds.texts) - folds.removed,
        "removed": folds.removed,
        "tokens_a_trial": config.steps * tokens_of_step(config) * plan.folds,
        "overhead": overhead([_row(each) for each in done]),
        "recipes": found,
    }
    write_json(folder / "results.json", results)
    write_text(folder / "results.md", to_markdown(results))
    return results


def verdict(given: float, best: float, given_runs: Sequence[Any], winner_runs: Sequence[Any]) -> dict[str, Any]:
    """How much of the winner's advantage in the folds was there on untouched text; bits a byte, positive is better.

    ``advantage = given - best`` in the folds, ``kept`` the same on the test text under fresh seeds, and
    ``optimism = advantage - kept``. ``low`` and ``high`` bound the winner's difference in nats a token, negative
    being better; None for one tokeniser against another, or where the winner is what was given.
    """
    before, after = (fmean(run.metrics["bits_per_byte"] for run in runs) for runs in (given_runs, winner_runs))
    row: dict[str, Any] = {
        "given": before,
        "winner": after,
        "advantage": given - best,
        "kept": before - after,
        "optimism": (given - best) - (before - after),
        "difference": None,
        "low": None,
        "high": None,
        "verdict": "the settings as given are the best found",
        "seeds": [run.config.seed for run in winner_runs],
    }
    if winner_runs is given_runs or list(given_runs) == list(winner_runs):
        return row
    try:
        scores = [[run.scores("test") for run in runs] for runs in (winner_runs, given_runs)]
        tested = paired_bootstrap(scores[0], scores[1])
    except CurvekitError as error:
        return row | {"verdict": f"not tested: {error}"}
    figures = {name: finite(getattr(tested, name)) for name in ("difference", "low", "high")}
    return row | figures | {"verdict": tested.verdict}


def _row(trial: Any) -> dict[str, Any]:
    """A trial in plain values."""
    folds = [trial.user_attrs[name] for name in sorted(trial.user_attrs) if name.startswith("fold ")]
    return {
        "number": trial.number,
        "values": dict(trial.params),
        "bits": trial.value if trial.state.name == "COMPLETE" else None,
        "ended": trial.user_attrs.get("ended", "scored in every fold"),
        "points": {str(point): bits for point, bits in sorted(trial.intermediate_values.items())},
        "folds": folds,
        "seconds": trial.user_attrs.get("seconds"),
    }


def overhead(trials: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of the trials' time that was neither training nor scoring, over the time of training."""
    whole = [each for each in trials if each["bits"] is not None and each["seconds"]]
    trained = sum(fold["train_seconds"] for each in whole for fold in each["folds"])
    scored = sum(fold["score_seconds"] for each in whole for fold in each["folds"])
    return (sum(each["seconds"] for each in whole) - trained - scored) / trained if trained else None


def importance(study: Study) -> dict[str, float]:
    """How much each dimension decides over being among the better trials (PED-ANOVA); empty for too few.

    Source: Watanabe et al. (2023), PED-ANOVA, arXiv 2304.10255.
    """
    done = [each for each in study.ended() if each.state.name == "COMPLETE"]
    if len(done) < 8 or len({each.value for each in done}) < 3:
        return {}
    evaluator = study.optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    try:
        return study.optuna.importance.get_param_importances(study.study, evaluator=evaluator)
    except (ValueError, RuntimeError):  # a setting that never changed
        return {}


def to_markdown(results: Mapping[str, Any]) -> str:
    """The results as a page: each recipe's best, what is left of its advantage, and its trials."""
    lines = [
        f"{results['trials']} trials a recipe over {results['folds']} folds of {results['documents']:,} documents; "
        f"{results['tokens_a_trial']:,} tokens a trial; sampler {results['sampler']}. Figures are bits a byte.",
        "",
        "| recipe | as given, folds | best, folds | advantage | as given, test | best, test | kept | optimism "
        f"| {INTERVAL} | verdict |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for recipe, found in results["recipes"].items():
        test = found["test"]
        cells = (found["given"]["bits"], found["best"]["bits"], test["advantage"], test["given"], test["winner"])
        row = [f"{each:.4f}" for each in (*cells, test["kept"], test["optimism"])]
        lines.append(f"| {recipe} | {' | '.join(row)} | {interval(test)} | {test['verdict']} |")
    for recipe, found in results["recipes"].items():
        names = list(results["space"])
        lines += [
            "",
            f"### {recipe}",
            "",
            f"| {' | '.join(names)} | bits a byte | fold by fold | |",
            f"| {' | '.join('---:' for _ in names)} | ---: | --- | --- |",
        ]
        order = sorted(found["trials"], key=lambda each: (each["bits"] is None, each["bits"] or 0, each["number"]))
        for each in order:
            values = [short(each["values"][name]) for name in names]
            bits = "n/a" if each["bits"] is None else f"{each['bits']:.4f}"
            spread = ", ".join(f"{fold['bits'][-1]:.3f}" for fold in each["folds"])
            lines.append(f"| {' | '.join(values)} | {bits} | {spread} | {each['ended']} |")
    if results["overhead"] is not None:
        lines += ["", f"What was neither training nor scoring took {results['overhead']:.1%} of the time of training."]
    return "\n".join(lines) + "\n"


def load_search(folder: str | Path) -> dict[str, Any]:
    """The results of a finished search.

    Raises:
        CurvekitError: there is none, or it is not finished.
    """
    folder = Path(folder)
    if not (folder / "search.json").exists():
        raise CurvekitError(f"there is no search in {folder} (no search.json); give the folder of a search")
    if not (folder / "results.json").exists():
        raise CurvekitError(f"the search in {folder} is not finished; give its command again, it goes on")
    return read_json(folder / "results.json")
