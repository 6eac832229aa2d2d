"""The report of a ladder: tables of every rung, the contrasts that were fixed before, and figures, from one file.

    python -m curvekit.reports.ladder reports/which-curve

reads ``results.json`` there, as ``ladder collect --brief`` left it, and ``times.json``, if there is one of
:mod:`curvekit.experiments.equal_time`; writes ``small``, ``medium``, ``time``, ``long`` and ``contrasts`` as Markdown,
JSON and LaTeX, the figures, and the tables between the marks of ``README.md``.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from curvekit import figures
from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.results import filled, interval, latex, markdown_table
from curvekit.evaluation.significance import corrected
from curvekit.experiments import equal_time
from curvekit.experiments.ladder import PLAIN, as_latex, as_markdown, difference, load_results, of_common_seeds, table
from curvekit.files import write_text
from curvekit.mixers import Mixer
from curvekit.training.lean import FREQUENCY_BINS, POSITION_BINS

SPLITS = {"small": "validation", "medium": "test", "long": "test"}
PANELS = {"250 steps": "small", "1,000 steps": "medium", "equal time": "time", "16,000 steps": "long"}
SAMPLES = 4_000
CANON, TRIGRAM, SMEAR, WIDER = "canon:own_rate=4", "trigram:own_rate=4", "smear:own_rate=4", "plain:like=curve3"
CANON_A = "canon-a:own_rate=4"
BEST, COMBINED, FASTER = "curve3+sites+softemax", "curve3+canon+softemax", "curve3+canon+softemax:own_rate=4"
# with a rate for each part: curves in the blocks, and a curve or BERT's embedding itself over Canon's kernels
RATED, OVER, WORDS = (f"{each}:site_rate=4" for each in (BEST, COMBINED, "encoder+canon+softemax"))
CANON_SOFT, INSIDE = "canon+softemax:own_rate=4", "sites:channels=point+tangent+curvature,own_rate=4"
CURVED = "encoder+sites+softemax:site_degree=2,site_channels=point+tangent+curvature,site_rate=4"
SHOWN = {  # in figures
    CANON: "canon",
    TRIGRAM: "trigram",
    SMEAR: "smear",
    WIDER: "plain, widened",
    WORDS: "encoder+canon+softemax",
    INSIDE: "sites",
}


class Contrast(NamedTuple):
    """Two candidates whose difference answers a question; ``fixed``: the question stood in the log before the runs."""

    rung: str
    a: str
    b: str
    asks: str
    fixed: bool = True


def _peers(a: str) -> list[Contrast]:
    return [
        Contrast("medium", a, "encoder", "is it the curve, or BERT's embeddings?"),
        Contrast("medium", a, "self-curve3", "does it need BERT's embeddings?"),
        Contrast("medium", a, WIDER, "is it the parameters?"),
        Contrast("medium", a, CANON, "a peer: free kernels of 4 in every block"),
        Contrast("medium", a, TRIGRAM, "a peer: three embeddings through one projection"),
        Contrast("medium", a, SMEAR, "a peer: a gated share of the previous embedding"),
    ]


CONTRASTS = [
    *_peers(BEST),
    *_peers("curve3"),
    Contrast("medium", "curve3+softemax", "curve3", "SoftEMax against softmax"),
    Contrast("medium", "softemax", PLAIN, "SoftEMax against softmax"),
    Contrast("medium", COMBINED, CANON, "what a curve at the input and SoftEMax add to Canon's kernels"),
    Contrast("medium", FASTER, CANON, "the same, all of it at the rate of Canon's kernels"),
    Contrast("medium", BEST, CANON_A, "a peer: Canon's kernels before attention alone"),
    Contrast("medium", CANON_A, CANON, "Canon's kernels before attention alone, against those in every place"),
    Contrast("medium", COMBINED, BEST, "Canon's kernels in the blocks against a curve there"),
    Contrast("medium", OVER, CANON_SOFT, "what a curve at the input adds to Canon's kernels, a rate for each"),
    Contrast("medium", OVER, WORDS, "and is it the curve, or BERT's embeddings?"),
    Contrast("medium", RATED, BEST, "what a rate for each part brings"),
    Contrast("medium", RATED, CANON, "a peer, against curves with that"),
    Contrast("medium", BEST, "token-shift:own_rate=4", "a peer: a share of the word before, in every block"),
    Contrast("medium", BEST, "curve3+sites", "SoftEMax against softmax"),
    Contrast("medium", "plain:attention=published", PLAIN, "SoftEMax as published, against softmax"),
    Contrast("medium", "curve3:train_encoder=true", "curve3", "is an encoder that is trained better?"),
    Contrast("medium", "curve3", "curve3:random_encoder=true", "is it what BERT learned?"),
    Contrast("medium", "curve3:degree=1", "curve3", "two words back, or one?"),
    Contrast("medium", "curve", "learned", "Bernstein's weights against free ones"),
    Contrast("medium", CURVED, CANON, "BERT's embeddings, curves in the blocks and SoftEMax, against a peer alone"),
    Contrast("medium", CURVED, WORDS, "curves in the blocks against Canon's kernels, all else alike"),
    Contrast("medium", WORDS, CANON, "BERT's embeddings and SoftEMax over Canon's kernels, against these alone", False),
    Contrast("medium", WORDS, CANON_SOFT, "BERT's embeddings over Canon's kernels", False),
    Contrast("medium", WORDS, BEST, "the best of all against the best curve of the first runs", False),
    Contrast("medium", CANON_SOFT, CANON, "SoftEMax against softmax over Canon's kernels", False),
    Contrast(
        "medium",
        "self-curve3+canon+softemax:site_rate=4",
        CANON_SOFT,
        "own embeddings' curve over them",
        False,
    ),
    Contrast("medium", "trigram+canon+softemax:site_rate=4", CANON_SOFT, "trigrams over them", False),
    Contrast("medium", INSIDE, CANON, "four numbers a channel in the blocks, on a curve against free", False),
    Contrast("medium", INSIDE, BEST, "curves in the blocks alone, against those at the input and there", False),
    Contrast("medium", BEST, "curve3+softemax", "what a curve in the blocks adds", False),
    Contrast("medium", "self-curve3", TRIGRAM, "three points of a curve against its words side by side", False),
    Contrast("small", "curve3", "curve3:random_encoder=true", "is it what BERT learned?"),
    Contrast("small", "curve", "learned", "Bernstein's weights against free ones"),
    Contrast("small", BEST, "canon-a", "a peer: Canon's kernels before attention alone, at one rate", False),
    Contrast("small", "sites", "canon", "two numbers a channel against four, at one rate", False),
    Contrast("small", "sites:channels=point+tangent+curvature", "canon", "four numbers against four", False),
    Contrast("small", "curve3+sites", "curve3", "do the two gains add up?", False),
    Contrast("small", "curve3", "self-curve3", "does it need BERT's embeddings?", False),
    Contrast("small", "curve3:degree=1", "curve3", "two words back, or one?", False),
]


def contrasts(results: str | Path, samples: int = SAMPLES) -> list[dict[str, Any]]:
    """A row for each of :data:`CONTRASTS`, over the seeds that both have.

    Holm's correction is over those of one rung that were fixed before, and apart from them over those that were not.

    Raises:
        CurvekitError: a candidate has no run at its rung.
    """
    found = {rung: load_results(results, rung) for rung in dict.fromkeys(each.rung for each in CONTRASTS)}
    rows: list[dict[str, Any]] = []
    for each in CONTRASTS:
        if missing := [name for name in (each.a, each.b) if name not in found[each.rung]]:
            raise CurvekitError(f"{results} has no run of {missing[0]!r} at the rung {each.rung}")
        a, b = of_common_seeds(found[each.rung][each.a], found[each.rung][each.b])
        paired = difference(a, b, SPLITS[each.rung], samples)
        rows.append(each._asdict() | {"seeds": len(a)} | paired.figures())
    for rung, fixed in {(row["rung"], row["fixed"]) for row in rows}:
        corrected([row for row in rows if (row["rung"], row["fixed"]) == (rung, fixed)])
    return rows


def contrast_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A contrast as text, by column."""
    return {
        "rung": row["rung"],
        "a": row["a"],
        "minus b": row["b"],
        "seeds": str(row["seeds"]),
        "nats a token [95 %]": interval(row),
        "perplexity": f"{row['relative_perplexity']:+.1%}",
        "p (Holm)": f"{row['p_holm']:.4f}",
        "a is": row["verdict"],
        "asks": row["asks"],
        "fixed before": "yes" if row["fixed"] else "no",
    }


def contrasts_latex(rows: Sequence[Mapping[str, Any]]) -> str:
    """The contrasts as a LaTeX tabular."""
    lines = [r"\begin{tabular}{lllrr}", r"rung & a & minus b & nats [95\,\%] & $p$ (Holm) \\ \hline"]
    for row in rows:
        cells = (row["rung"], row["a"], row["b"], interval(row), f"{row['p_holm']:.4f}")
        lines.append(" & ".join(map(latex, cells)) + r" \\")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def time_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A candidate's claim at equal time as text, by column."""
    return {
        "candidate": row["candidate"],
        "seeds": str(row["seeds"]),
        "a step's time, of plain's": f"{row['ratio']:.3f}",
        "difference at equal time [95 %]": interval(row),
        "perplexity": f"{row['relative_perplexity']:+.1%}",
        "p (Holm)": f"{row['p_holm']:.4f}",
        "is": row["verdict"],
    }


def time_latex(rows: Sequence[Mapping[str, Any]]) -> str:
    """The claims at equal time as a LaTeX tabular."""
    lines = [r"\begin{tabular}{lrrr}", r"recipe & time & nats [95\,\%] & $p$ (Holm) \\ \hline"]
    for row in rows:
        cells = (row["candidate"], f"{row['ratio']:.3f}", interval(row), f"{row['p_holm']:.4f}")
        lines.append(" & ".join(map(latex, cells)) + r" \\")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def written(results: str | Path, samples: int = SAMPLES) -> dict[str, str]:
    """The text of every file of tables, by its name."""
    results = Path(results)
    files: dict[str, str] = {}
    for rung, split in SPLITS.items():
        rows = _lean(table(results, rung, split, samples=samples))
        files |= {f"{rung}.md": as_markdown(rows), f"{rung}.tex": as_latex(rows), f"{rung}.json": _json(rows)}
    if (times := results.with_name("times.json")).exists():
        rows = _lean(equal_time.rows_of(results, equal_time.load(times), samples=samples))
        files["time.md"] = markdown_table(list(map(time_cells, rows))) + "\n"
        files |= {"time.tex": time_latex(rows), "time.json": _json(rows)}
    rows = _lean(contrasts(results, samples))
    files["contrasts.md"] = markdown_table(list(map(contrast_cells, rows))) + "\n"
    return files | {"contrasts.tex": contrasts_latex(rows), "contrasts.json": _json(rows)}


def _lean(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with numbers of six places: a bootstrap tells no more, and another machine may round the last otherwise."""
    lean = lambda value: round(value, 6) if isinstance(value, float) else value  # noqa: E731
    return [{k: [*map(lean, v)] if isinstance(v, list) else lean(v) for k, v in row.items()} for row in rows]


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


# Figures


def pictures(results: str | Path, rows_of: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Figure]:
    """Every figure of the report by name; ``rows_of`` are the tables by rung and, where there is one, of equal time."""
    found = {rung: load_results(results, rung) for rung in SPLITS}
    drawn = {
        "rungs": figures.differences_by_rung(
            {
                title: [_named(row) for row in rows_of[name] if _goes_up(row["candidate"])]
                for title, name in PANELS.items()
                if name in rows_of
            },
            order=[_named(row)["candidate"] for row in rows_of["medium"] if _goes_up(row["candidate"])],
        ),
        "tokens": gains(found["medium"]),
        "curves-look-back": figures.looks_back(
            kernels(found["long"][BEST][0], "curve", ("point", "tangent", "curvature")),
            "How far the curves in the blocks look back",
            f"{BEST}, long rung, seed 0.",
        ),
        "canon-looks-back": figures.looks_back(
            kernels(found["medium"][CANON][0], "canon", ("point",)),
            "How far Canon's free kernels look back",
            "Medium rung, seed 0.",
        ),
    }
    for rung in ("medium", "long"):
        chosen = [
            name for name in (PLAIN, "curve3+softemax", BEST, "self-curve3", CANON, SMEAR, WORDS) if name in found[rung]
        ]
        seeds = _common(found[rung], chosen)
        curves = {
            SHOWN.get(name, name): [learning(run) for run in found[rung][name] if run["seed"] in seeds]
            for name in chosen
        }
        drawn[f"learning-{rung}"] = figures.learning_curves(curves, PLAIN, of="Training losses, smoothed")
    return drawn


def _goes_up(name: str) -> bool:
    return name in (*SHOWN, BEST, "curve3", "curve3+softemax", "self-curve3", "encoder", "softemax")


def _common(runs_of: Mapping[str, Sequence[Mapping[str, Any]]], names: Sequence[str]) -> set[int]:
    """The seeds that all of these have."""
    return set.intersection(*({run["seed"] for run in runs_of[name]} for name in names))


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "candidate": SHOWN.get(row["candidate"], row["candidate"])}


def learning(run: Mapping[str, Any], points: int = 25) -> tuple[list[float], list[float]]:
    """Steps and training losses of a run in equal stretches, the first left out, of which nothing would be seen."""
    losses = np.array(run["losses"], dtype=float)
    size = max(1, len(losses) // points)
    means = [float(losses[i : i + size].mean()) for i in range(0, len(losses) - size + 1, size)]
    steps = [(k + 0.5) * size * run["settings"]["steps"] / len(losses) for k in range(len(means))]
    first = max(1, len(means) // 8)
    return steps[first:], means[first:]


def gains(runs_of: Mapping[str, Sequence[Mapping[str, Any]]], split: str = "test") -> Figure:
    """Difference to plain by a token's frequency in training and by its place in its document, over common seeds."""
    chosen = [name for name in (BEST, "curve3", "encoder", CANON, WORDS) if name in runs_of]
    seeds = _common(runs_of, (PLAIN, *chosen))
    panels = {}
    for what, part, edges in (
        ("occurrences in training", "by_frequency", FREQUENCY_BINS),
        ("place in the document", "by_position", POSITION_BINS),
    ):
        tokens = np.array(runs_of[PLAIN][0]["scores"][split][part]["tokens"], dtype=float)
        kept = tokens >= 500  # tokens; fewer say nothing
        of = {
            name: np.array([run["scores"][split][part]["nats"] for run in runs if run["seed"] in seeds])[:, kept]
            / tokens[kept]
            for name, runs in runs_of.items()
            if name in (PLAIN, *chosen)
        }
        labels = [f"below {edges[0]:,}", *(f"{a:,}–{b - 1:,}" for a, b in itertools.pairwise(edges))]
        labels = [label for label, keep in zip([*labels, f"{edges[-1]:,} and more"], kept, strict=True) if keep]
        panels[what] = (labels, {SHOWN.get(name, name): of[name] - of[PLAIN] for name in chosen})
    return figures.gain_by_bin(panels, PLAIN, "Medium rung, test split; bins of 500 tokens and more.")


def kernels(run: Mapping[str, Any], kind: str, channels: Sequence[str]) -> dict[str, np.ndarray]:
    """The kernel of each mixer of a run, ``[width, n + 1]`` oldest first, as it was learned, in the order of blocks."""
    learned = run["learned"]
    names = sorted({name.rpartition(".")[0] for name in learned if ".mixers." in name}, key=lambda n: n[-1] + n)
    found = {}
    for name in names:
        mixer = Mixer(kind, run["width"], channels=channels)
        with torch.no_grad():
            for own, parameter in mixer.named_parameters():
                parameter.copy_(torch.tensor(learned[f"{name}.{own}"]).view_as(parameter))
            site, _, block = name.rpartition(".")[2].partition("_")
            found[f"block {int(block) + 1}, {'MLP' if site == 'mlp' else site}"] = mixer.kernel().numpy()
    return found


# The page


def begins(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def page(text: str, files: Mapping[str, str]) -> str:
    """The report's page with the tables of medium, time, long and contrasts between their marks.

    Raises:
        CurvekitError: a mark is missing.
    """
    for name in ("medium", "time", "long", "contrasts"):
        if f"{name}.md" in files:
            text = filled(text, files[f"{name}.md"], *begins(name))
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.reports.ladder FOLDER``."""
    parser = argparse.ArgumentParser(prog="curvekit.reports.ladder", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="with results.json and README.md")
    folder = parser.parse_args(arguments).folder
    files = written(folder / "results.json")
    for name, text in files.items():
        write_text(folder / name, text)
    write_text(folder / "README.md", page((folder / "README.md").read_text("utf-8"), files))
    rows_of = {name: json.loads(files[f"{name}.json"]) for name in PANELS.values() if f"{name}.json" in files}
    for name, figure in pictures(folder / "results.json", rows_of).items():
        figures.save(figure, name, folder)


if __name__ == "__main__":
    as_command(main)
