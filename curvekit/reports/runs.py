"""The page of finished runs side by side: how far they learned, the table with intervals, what each wrote, commands.

<folder>/comparison.json    the comparison, with results.json, results.md and results.tex as every report has them
<folder>/README.md          the page, for a reader of the repository
<folder>/figures/           learning curves, and the differences with their intervals
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from curvekit import figures
from curvekit.errors import CurvekitError
from curvekit.evaluation.results import markdown_table
from curvekit.experiments.comparison import compare
from curvekit.figures.drawing import is_figure, save
from curvekit.files import write_text
from curvekit.ownership import Shape, require_files, text_with
from curvekit.training.cards import quoted
from curvekit.training.runs import Run, load_run

TITLE = "# Runs side by side"
_FIGURES = ("learning", "differences")
_FILES: dict[str, Shape] = {
    "README.md": text_with(TITLE),
    **{f"figures/{name}.{kind}": is_figure for name in _FIGURES for kind in ("svg", "png")},
}
_LONGEST = 400  # characters of one


def write(places: Sequence[Path], baseline: str, folder: str | Path, command: str, samples: int = 4) -> Path:
    """Compare finished runs and write the page; return its ``README.md``.

    Args:
        command: what makes the page again.
        samples: prompts whose continuations are shown; 0 where the text may not be passed on.

    Raises:
        CurvekitError: a file of another's is in its place, a run was not validated while it trained, or as
            :func:`curvekit.experiments.comparison.compare`.
    """
    folder = Path(folder)
    require_files(folder, _FILES)
    runs = [load_run(place) for place in places]
    learned = [_learned(run) for run in runs]
    comparison = compare(places, baseline, folder, command=command)
    histories: dict[str, list[tuple[list[int], list[float]]]] = {}
    for run in runs:
        histories.setdefault(run.config.recipe, []).append(_curve(run))
    leaking = [row["recipe"] for row in comparison.rows if row["leaks"]]
    save(figures.learning_curves(histories, comparison.baseline, leaking), "learning", folder)
    save(figures.difference_intervals(comparison.rows, comparison.baseline), "differences", folder)
    parts = [
        TITLE,
        "![Validation loss while training](figures/learning.png)",
        markdown_table(learned),
        "Leak: how far a change of a later word moves a logit, before the first step; at most the bound is rounding.",
        "## On held-out text",
        "![Differences with their intervals](figures/differences.png)",
        comparison.to_markdown().strip(),
        *(["## What they wrote", *_samples(runs, samples)] if samples else []),
        "## Doing it again",
        "```\n" + "\n".join(f"{run.config.command()} --out runs/{run.folder.name}" for run in runs) + "\n```",
    ]
    write_text(folder / "README.md", "\n\n".join(parts) + "\n")
    return folder / "README.md"


def _curve(run: Run) -> tuple[list[int], list[float]]:
    rows = [row for row in run.history if "validation_loss" in row]
    if not rows:
        raise CurvekitError(f"the run in {run.folder} was not validated while it trained; give it eval_every")
    return [row["step"] for row in rows], [row["validation_loss"] for row in rows]


def _learned(run: Run) -> dict[str, str]:
    """A run's row: what it learned, whether it sees ahead, and what that took."""
    losses, metrics = _curve(run)[1], run.metrics
    first, best = losses[0], min(losses)
    promised = metrics["conformance"]
    return {
        "recipe": run.config.recipe,
        "seed": str(run.config.seed),
        "first validation loss": f"{first:.4f}",
        "best": f"{best:.4f}",
        "below the first": f"{1 - best / first:.0%}",
        "leak": f"{promised['leak']:.1e} (bound {promised['bound']:.1e})",
        "parameters": f"{metrics['parameters']:,}",
        "steps": f"{metrics['steps']:,}",
        "minutes of training": f"{metrics['train_seconds'] / 60:.1f}",
    }


def _samples(runs: Sequence[Run], count: int) -> Iterable[str]:
    """The first prompts, what follows in the text, and what the first seed of each recipe wrote."""
    firsts = list({run.config.recipe: run for run in reversed(runs)}.values())[::-1]
    for place, row in enumerate(firsts[0].samples[:count]):
        yield f"> {quoted(row['prompt'][:_LONGEST] + ('…' if len(row['prompt']) > _LONGEST else ''))}"
        lines = [f"- the text itself: {quoted(row['reference'])}"]
        lines += [f"- `{run.config.recipe}`: {quoted(run.samples[place]['continuation'])}" for run in firsts]
        yield "\n".join(line.replace("\n>\n> ", " ").replace("\n", " ") for line in lines)
