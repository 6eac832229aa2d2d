"""Reports: the notebooks executed in order by papermill, as pages that open offline, with an index before them.

<folder>/index.html              what was asked, what was found, and where everything lies
<folder>/NN_name.ipynb, .html    each notebook, executed; the page without its code
<folder>/figures/                every figure as SVG and PNG
<folder>/metrics.json            the results with their settings and signature
<folder>/runs/                   the runs; finished ones are used again
"""

from __future__ import annotations

import glob
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from papermill.exceptions import PapermillExecutionError

import curvekit
from curvekit.decoding import read_whole
from curvekit.errors import CurvekitError, first_line, pick
from curvekit.experiments.comparison import RESULTS, Comparison, load_comparison
from curvekit.figures.drawing import is_figure
from curvekit.files import read_json, write_json, write_text
from curvekit.ownership import Kind, Scratch, Shape, created, json_with, mark, marker, require, text_with
from curvekit.reports.markup import headline
from curvekit.reports.pages import SIGNED, Chapter, duration, index_page, notebook_page
from curvekit.reports.preflight import check
from curvekit.training.fields import as_flags
from curvekit.training.runs import RUN
from curvekit.training.settings import RunConfig, main_recipes

_INSIDE = Path(curvekit.__file__).parent / "notebooks"  # as a wheel carries them
NOTEBOOKS = _INSIDE if _INSIDE.is_dir() else _INSIDE.parents[1] / "notebooks"  # in a checkout: beside the library
PACKAGES = ("curvekit", "torch", "transformers", "tokenizers", "datasets", "numpy", "matplotlib", "sacrebleu")
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
Say = Callable[[str], None]


def report(
    config: RunConfig,
    folder: str | Path,
    *,
    recipes: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    notebooks: Sequence[str | Path] | None = None,
    parameters: Mapping[str, Any] | None = None,
    command: str | None = None,
    progress: Say | None = None,
    plugins: Sequence[str | Path] = (),
    send: Callable[[dict[Path, RunConfig]], None] | None = None,
) -> Path:
    """Execute the notebooks and write the report; return its ``index.html``.

    Each notebook gets those of the following that its parameters cell has: every field of ``config`` by its name,
    ``recipes``, ``seeds``, ``baseline`` (the first recipe), ``report_dir`` (``folder``), ``command``, ``static``
    (True: figures for widgets), and as
    ``settings`` a dictionary of the remaining fields of ``config`` that are not at their defaults.

    Args:
        config: of every run; its recipe is the one that notebook 03 shows, if it is among ``recipes``.
        folder: of the report; runs that are finished in it are used again.
        recipes: what is compared; the first is the baseline. Default: :func:`curvekit.training.settings.main_recipes`.
        seeds: of every recipe.
        notebooks: files, executed in this order; default: curvekit's own, by number.
        parameters: further parameters of the notebooks, by name.
        command: what the reader is told to type for the same report.
        progress: called with plain lines; default: standard error.
        plugins: files that register what the recipes need; each notebook runs them first.
        send: trains the runs that are not finished, by their folders, somewhere else, before the first notebook;
            default: a notebook trains them, one after another.

    Raises:
        CurvekitError: a parameter that no notebook has (with the nearest names), a notebook that cannot be read,
            a cell that failed (the notebook as far as it came is kept as ``NN_name.partial.ipynb``), or a folder
            that cannot be written or holds runs of other settings.
    """
    say = progress or (lambda line: print(line, file=sys.stderr, flush=True))
    recipes = main_recipes(config.base, config.scratch) if recipes is None else recipes
    folder, recipes, seeds = Path(folder), list(dict.fromkeys(recipes)), list(dict.fromkeys(seeds))
    if not recipes or not seeds:
        raise CurvekitError(f"{len(recipes)} recipes by {len(seeds)} seeds give no run: name at least one of each")
    shown = config.recipe if config.recipe in recipes else recipes[-1]
    config = replace(config, recipe=shown, seed=seeds[0]).validate()
    command = command or _command(config, recipes, seeds, folder, notebooks, parameters or {}, plugins)
    paths = _find(notebooks)
    given = {"recipes": recipes, "seeds": seeds, "baseline": recipes[0], "report_dir": str(folder), "command": command}
    given["static"] = True  # nobody can touch a widget while a report is made
    plan = plan_parameters(paths, config, given, parameters or {})
    _require_place(folder, paths)
    left = check(paths, plan, config, recipes, seeds, folder, say)
    _make(folder)

    began, started = time.monotonic(), time.time()
    if send and left:
        send(left)
    chapters = [Chapter.of(path.stem, read_notebook(path)) for path in paths]
    for number, (path, chapter) in enumerate(zip(paths, chapters, strict=True), 1):
        say(f"[{number}/{len(paths)}] {path.stem}")
        start = time.monotonic()
        notebook = execute(path, folder / path.name, plan[path], say, plugins)
        chapter.seconds = time.monotonic() - start
        write_text(folder / f"{path.stem}.html", notebook_page(notebook, chapter, chapters))
        say(f"[{number}/{len(paths)}] {path.stem}: {duration(chapter.seconds)}")
    comparison = _comparison_since(folder, started)
    made_with = versions()
    write_json(folder / "metrics.json", _metrics(config, recipes, seeds, comparison, chapters, command, made_with))
    write_text(folder / "index.html", index_page(config, comparison, chapters, folder, command, made_with))
    say(f"report in {duration(time.monotonic() - began)}: {folder / 'index.html'}")
    return folder / "index.html"


def _require_place(folder: Path, paths: Sequence[Path]) -> None:
    """Refuse a folder in which a report would overwrite its notebooks, each other's pages, or another's page."""
    names = [path.stem for path in paths]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CurvekitError(f"two notebooks are called {twice}, and one page would replace the other; rename one")
    if own := next((path for path in paths if path.resolve() == (folder / path.name).resolve()), None):
        raise CurvekitError(f"the executed notebook would replace {own}; choose another folder for the report")
    pages: dict[str, Shape] = {}
    for name in map(glob.escape, names):
        pages |= {f"{name}.html": text_with(SIGNED), f"{name}.ipynb": _is_executed}
        pages[f"{name}.partial.ipynb"] = lambda path: marker(path.parent).get("kind") == "report" or _is_executed(path)
    require(folder, replace(REPORT, files={**REPORT.files, **pages}))


def _is_executed(path: Path) -> bool:
    """Whether a notebook is one that a report executed: it has papermill's notes without the paths of a machine."""
    notes = read_json(path)["metadata"]["papermill"]
    partial = path.name.endswith(".partial.ipynb")
    return "parameters" in notes and (partial or not {"input_path", "output_path"} & notes.keys())


def _is_place_of_run(path: Path) -> bool:
    require(path, RUN)
    return path.is_dir()


REPORT = Kind(
    "report",
    "a report's folder",
    {
        **RESULTS,
        "index.html": text_with(SIGNED),
        "metrics.json": json_with("command", "recipes", "seeds", "settings", "versions"),
        "figures": Path.is_dir,
        "figures/*.svg": is_figure,
        "figures/*.png": is_figure,
        "runs": Path.is_dir,
        "runs/*": _is_place_of_run,
    },
    proofs=("index.html", "metrics.json", "comparison.json", "runs/*/config.json"),
)


def plan_parameters(
    paths: Sequence[Path], config: RunConfig, given: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[Path, dict[str, Any]]:
    """What each notebook is to be given, of the run's settings, of ``given`` and of ``extra``.

    papermill injects a parameter that does not exist with no more than a warning, so names are checked here.

    Raises:
        CurvekitError: a name in ``extra`` that no notebook has; a file that is no notebook.
    """
    known = {path: list(_inspect(path)) for path in paths}
    every = sorted({name for names in known.values() for name in names})
    for name in extra:
        pick(name, every, "notebook parameter")
    plan = {}
    for path, names in known.items():
        values = config.to_dict() | dict(given) | dict(extra)
        plan[path] = {name: values[name] for name in names if name in values}
        if "settings" in names and "settings" not in extra:
            rest = {name: value for name, value in config.unusual().items() if name not in names}
            plan[path]["settings"] = rest
    return plan


def execute(
    path: Path,
    out: Path,
    parameters: Mapping[str, Any],
    progress: Say | None = None,
    plugins: Sequence[str | Path] = (),
) -> NotebookNode:
    """Execute a notebook in this interpreter's kernel; write it to ``out`` when it is done.

    While it runs, and when it fails, it lies beside as ``NAME.partial.ipynb``, and an older ``out`` stays.

    Raises:
        CurvekitError: a cell failed, the kernel died, or the file cannot be written.
    """
    partial = out.with_name(f"{out.stem}.partial.ipynb")
    stream: Any = _Lines(progress) if progress else None
    try:
        with _mended(path, plugins) as source:
            notebook = papermill.execute_notebook(
                source,
                str(partial),
                dict(parameters),
                kernel_name=KERNEL["name"],
                language=KERNEL["language"],
                progress_bar=False,
                stdout_file=stream,
                stderr_file=stream,
                kernel_manager_class=_Kernel,
            )
        for name in ("input_path", "output_path"):  # of the machine that made it
            notebook.metadata.papermill.pop(name, None)
        notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
        nbformat.write(notebook, partial)
        os.replace(partial, out)
    except PapermillExecutionError as error:
        reason = error.evalue if error.ename == "CurvekitError" else f"{error.ename}: {error.evalue}"
        lines = reason.strip().splitlines() or [error.ename]
        raise CurvekitError(
            f"the notebook {path.stem} failed at In [{error.exec_count}] ({lines[0]}); "
            f"as far as it came it is {partial}"
        ) from error
    except DeadKernelError as error:
        raise CurvekitError(
            f"the kernel of the notebook {path.stem} died, as it does when memory runs out; "
            f"as far as it came it is {partial}"
        ) from error
    except OSError as error:
        where, why = error.filename or partial, error.strerror or error
        raise CurvekitError(f"cannot write {where}: {why}; choose another folder or free some space") from error
    return notebook


class _Kernel(AsyncKernelManager):
    """Starts the kernel in the interpreter that runs curvekit, whatever kernels are installed on the machine.

    Where the system has sockets in files, they are used: ports of parallel reports could collide.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        argv.append("--log-level=CRITICAL")  # what stops a cell is told by the notebook
        self._kernel_spec = KernelSpec(argv=argv, display_name="Python 3", language="python")
        if os.name == "posix":
            self._sockets = Scratch("/tmp" if os.path.isdir("/tmp") else None)
            self.transport = "ipc"
            self.connection_file = str(Path(self._sockets.name) / "kernel.json")

    async def _async_start_kernel(self, **kwargs: Any) -> None:
        # Bars are widgets in a notebook, and a page shows none; what a report says it says in lines.
        env = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1", "TQDM_DISABLE": "1"}
        env.pop("JPY_SESSION_NAME", None)  # even when it is made from JupyterLab
        await super()._async_start_kernel(**kwargs, env=env)

    start_kernel = _async_start_kernel

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart)
        if os.name == "posix" and not restart:
            self._sockets.cleanup()

    cleanup_resources = _async_cleanup_resources


class _Lines:
    """A text file for papermill that hands on whole lines."""

    def __init__(self, say: Say) -> None:
        self.say, self.rest = say, ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.say(f"    {line.rsplit(chr(13))[-1]}")

    def flush(self) -> None:
        """Lines are handed on at once."""


def _find(notebooks: Sequence[str | Path] | None) -> list[Path]:
    experiment = NOTEBOOKS.glob("0[1-4]_*.ipynb")  # the further ones tell of other things
    paths = sorted(experiment) if notebooks is None else [Path(path) for path in notebooks]
    if not paths:
        raise CurvekitError(f"there are no notebooks in {NOTEBOOKS}; install curvekit anew, or name others")
    return paths


def read_notebook(path: Path) -> NotebookNode:
    """A notebook, read as all texts are; its kernel is curvekit's own, whichever it names or lacks.

    Raises:
        CurvekitError: there is none, or the file is no notebook.
    """
    if not path.exists():
        raise CurvekitError(f"there is no notebook {path}; give an existing .ipynb file")
    text = read_whole(path)
    try:
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
        notebook.metadata["kernelspec"] = dict(KERNEL)
        if not all(isinstance(cell.source, str) for cell in notebook.cells):
            raise ValueError("a cell has no source")
    except Exception as error:  # nbformat raises whatever its parsers raise
        raise CurvekitError(f"{path} cannot be read as a notebook ({first_line(error)}); save it anew") from error
    return notebook


@contextmanager
def _mended(path: Path, plugins: Sequence[str | Path] = ()) -> Iterator[str]:
    """The name of a copy that papermill can read: without marks, with a kernel, and with a cell that runs plugins."""
    notebook = read_notebook(path)
    if plugins:
        lines = [f"load_plugin({str(file)!r})" for file in plugins]
        source = "\n".join(["from curvekit.variants import load_plugin", "", *lines])
        notebook.cells.insert(0, new_code_cell(source, id="plugins"))
    with tempfile.TemporaryDirectory(prefix="curvekit-") as folder:
        copy = Path(folder) / path.name
        nbformat.write(notebook, copy)
        yield str(copy)


def _inspect(path: Path) -> dict[str, Any]:
    with _mended(path) as source:
        try:
            return papermill.inspect_notebook(source)
        except Exception as error:  # papermill raises whatever its parsers raise
            raise CurvekitError(f"{path} cannot be read as a notebook ({first_line(error)})") from error


def _comparison_since(folder: Path, started: float) -> Comparison | None:
    """The comparison that these notebooks made; one of an earlier report is not theirs."""
    path = folder / "comparison.json"
    return load_comparison(folder) if path.exists() and path.stat().st_mtime >= started - 1 else None


def _make(folder: Path) -> None:
    try:
        with created(folder):
            mark(folder, REPORT.name)  # first: a kill leaves nothing that a next report takes for another's
            (folder / "figures").mkdir(exist_ok=True)
    except OSError as error:
        raise CurvekitError(f"cannot write to {folder}: {error.strerror or error}; choose another folder") from error


def _command(
    config: RunConfig,
    recipes: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    notebooks: Sequence[str | Path] | None,
    parameters: Mapping[str, Any],
    plugins: Sequence[str | Path] = (),
) -> str:
    """The command line that makes this report, with the settings that are not at their defaults."""
    words = ["curvekit", "report", "--out", str(folder), "--recipes", *recipes, "--seeds", *map(str, seeds)]
    words += as_flags({name: value for name, value in config.unusual().items() if name not in ("recipe", "seed")})
    if notebooks:
        words += ["--notebooks", *map(str, notebooks)]
    if parameters:
        words += ["--parameter", *(f"{name}={json.dumps(value)}" for name, value in parameters.items())]
    words += [word for file in plugins for word in ("--plugin", str(file))]
    return shlex.join(words)


def versions() -> dict[str, str]:
    """What the report was made with."""
    import torch

    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    return {"machine": machine, "python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def _metrics(
    config: RunConfig,
    recipes: Sequence[str],
    seeds: Sequence[int],
    comparison: Comparison | None,
    chapters: Sequence[Chapter],
    command: str,
    made_with: Mapping[str, str],
) -> dict[str, Any]:
    settings = {k: v for k, v in config.results().items() if k not in ("recipe", "seed")}
    metrics: dict[str, Any] = {"command": command, "recipes": list(recipes), "seeds": list(seeds), "settings": settings}
    if comparison is not None:
        metrics |= {
            "headline": headline(comparison),
            "summary": comparison.summary(),
            "baseline": comparison.baseline,
            "base_is_random": comparison.base_is_random,
            "leaks": [row["recipe"] for row in comparison.rows if row["leaks"]],
            "documents": comparison.documents,
            "rows": comparison.rows,
            "contrasts": comparison.contrasts,
            "signature": comparison.signature,
        }
    took = {chapter.name: round(chapter.seconds or 0, 1) for chapter in chapters}
    return metrics | {"seconds": took, "versions": dict(made_with)}
