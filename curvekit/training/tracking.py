"""Who watches a run: a progress bar, plain lines, wandb or TensorBoard. Each is told the same rows.

A row is what ``history.jsonl`` keeps, so every tracker has the library's own names: ``loss``,
``validation_loss``, ``perplexity``, ``token_accuracy``, ``bleu``, ``samples``.
"""

from __future__ import annotations

import html
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from curvekit.bases import hub
from curvekit.errors import CurvekitError, first_line, pick
from curvekit.files import read_json, write_json
from curvekit.training.settings import RunConfig

Row = dict[str, Any]
DISPLAYS = ("auto", "bar", "lines", "none")


class Watcher:
    """Told what happens; does nothing with it."""

    def start(self, config: Any, folder: Path, rows: list[Row]) -> None:
        """A run begins, or goes on after ``rows``."""

    def row(self, row: Row) -> None:
        """A step or a validation."""

    def say(self, text: str, lasting: bool = False) -> None:
        """What the run does now, or, ``lasting``, what one may want to read afterwards."""

    def finish(self, metrics: Row, samples: list[Row]) -> None:
        """The run is evaluated."""

    def close(self, failed: bool) -> None:
        """Nothing more will come."""


class Calls(Watcher):
    """Hands every new row to a function, such as a live plot."""

    def __init__(self, function: Callable[[Row], None]) -> None:
        self.function = function

    def row(self, row: Row) -> None:
        self.function(row)


class Lines(Watcher):
    """Plain lines for logs and executed notebooks: about twenty of them, and one a validation."""

    def start(self, config: Any, folder: Path, rows: list[Row]) -> None:
        self.steps = config.steps
        done = rows[-1]["step"] if rows else 0
        self.say(f"{folder.name}: " + (f"goes on after step {done}" if done else f"{self.steps} steps"))

    def row(self, row: Row) -> None:
        step = row["step"]
        if "validation_loss" in row:
            self.say(
                f"step {step}/{self.steps}  validation loss {row['validation_loss']:.4f}"
                f"  perplexity {row['validation_perplexity']:.2f}"
            )
        elif step in (1, self.steps) or step % max(1, self.steps // 20) == 0:
            speed = row["tokens"] / max(row["seconds"], 1e-9)
            self.say(f"step {step}/{self.steps}  loss {row['loss']:.4f}  {speed:,.0f} tokens/s")

    def say(self, text: str, lasting: bool = False) -> None:
        print(text, flush=True)

    def finish(self, metrics: Row, samples: list[Row]) -> None:
        self.say("test " + "  ".join(f"{name} {text}" for name, text in _headline(metrics).items()))


class Bar(Watcher):
    """A tqdm bar: in a terminal, or as a widget in a notebook that someone looks at."""

    def start(self, config: Any, folder: Path, rows: list[Row]) -> None:
        if "ipykernel" in sys.modules:
            from tqdm.notebook import tqdm
        else:
            from tqdm.std import tqdm
        done = rows[-1]["step"] if rows else 0
        self.bar = tqdm(total=config.steps, initial=done, desc=folder.name, unit="step")
        self.shown: dict[str, str] = {}

    def row(self, row: Row) -> None:
        names = {"loss": "loss", "validation_loss": "validation"}
        self.shown |= {names[name]: _short(row[name]) for name in names if name in row}
        self.bar.set_postfix(self.shown, refresh=False)
        self.bar.update(row["step"] - self.bar.n)

    def say(self, text: str, lasting: bool = False) -> None:
        if lasting:
            self.bar.write(text)

    def finish(self, metrics: Row, samples: list[Row]) -> None:
        self.bar.set_postfix(_headline(metrics))

    def close(self, failed: bool) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


class Wandb(Watcher):
    """Logs to wandb, offline or online, under an id that is kept in the run's folder.

    wandb cannot resume an offline run: it begins a new file. So the rows that are already there are logged again,
    and the newest ``wandb/offline-run-*`` always holds the whole run, under the same id.
    """

    def start(self, config: Any, folder: Path, rows: list[Row]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise CurvekitError("track is 'wandb', which is not installed; pip install wandb") from error
        path = folder / "wandb.json"
        if not path.exists():
            write_json(path, {"id": secrets.token_hex(4)})
        try:
            self.run = wandb.init(
                project=config.wandb_project,
                id=read_json(path, shape={"id": str})["id"],
                name=config.slug(),
                group=config.wandb_group,
                job_type=config.recipe,
                dir=str(folder),
                mode=config.wandb_mode,
                resume="allow" if config.wandb_mode == "online" else None,
                config=config.to_dict() | {"fingerprint": config.fingerprint()},
                settings=_wandb_settings(),
            )
        except wandb.Error as error:
            raise CurvekitError(
                f"wandb did not start ({first_line(error)}); run `wandb login`, or use wandb_mode 'offline'"
            ) from error
        if config.wandb_mode == "offline":
            for row in rows:
                self.row(row)

    def row(self, row: Row) -> None:
        self.run.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])

    def finish(self, metrics: Row, samples: list[Row]) -> None:
        import wandb

        columns = tuple(samples[0]) if samples else ("prompt", "continuation", "reference")
        table = wandb.Table(list(columns))
        for row in samples:
            table.add_data(*(html.escape(row[column]) for column in columns))
        self.run.log(_figures(metrics) | {"samples": table}, step=metrics["steps"])

    def close(self, failed: bool) -> None:
        if hasattr(self, "run"):
            self.run.finish(exit_code=int(failed))


@contextmanager
def tracked_trial(
    config: RunConfig, folder: Path, group: str, number: int, values: Row
) -> Iterator[Callable[[Row], None]]:
    """Log a trial of a search as a run of its group: what it yields is called with rows of figures.

    Of TensorBoard there is nothing, which has no groups.
    """
    if config.track != "wandb":
        yield lambda row: None
        return
    import wandb

    run = wandb.init(
        project=config.wandb_project,
        name=f"{config.recipe} trial {number}",
        group=group,
        job_type="trial",
        dir=str(folder),
        mode=config.wandb_mode,  # type: ignore[arg-type]
        config={**config.to_dict(), **values, "trial": number},
        settings=_wandb_settings(),
        reinit="finish_previous",
    )
    failed = True
    try:
        yield lambda row: run.log(row)
        failed = False
    finally:
        run.finish(exit_code=int(failed))


def _wandb_settings() -> Any:
    """Those of this library, over the user's own; a server that says nothing is waited for as every remote is."""
    import wandb

    patience: dict[str, Any] = {} if "WANDB_INIT_TIMEOUT" in os.environ else {"init_timeout": hub.SECONDS}
    return wandb.Settings(console="off", silent=True, **patience)


def check_tracker(config: Any) -> None:
    """Return when what the run is also logged to can be used; of wandb online, when its server answers.

    Raises:
        CurvekitError: the package is missing, or there is no answer within seconds.
    """
    if config.track != "wandb":
        return
    try:
        import wandb
    except ImportError as error:
        raise CurvekitError("track is 'wandb', which is not installed; pip install wandb") from error
    if config.wandb_mode != "online" or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which its service would otherwise wait for at the end
    base = str(wandb.setup().settings.base_url).rstrip("/")
    if reason := hub.no_answer(f"{base}/graphql", "wandb"):
        raise CurvekitError(f"{reason}; use wandb_mode 'offline', and `wandb sync` when there is a network")


class TensorBoard(Watcher):
    """Writes TensorBoard's event files into the run's folder."""

    def start(self, config: Any, folder: Path, rows: list[Row]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            message = "track is 'tensorboard', which is not installed; pip install 'curvekit[tensorboard]'"
            raise CurvekitError(message) from error
        # Whatever a killed process wrote after the checkpoint is taken back, not shown twice.
        self.writer = SummaryWriter(folder / "tensorboard", purge_step=rows[-1]["step"] + 1 if rows else None)

    def row(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                self.writer.add_scalar(name, value, row["step"])

    def finish(self, metrics: Row, samples: list[Row]) -> None:
        self.row(_figures(metrics) | {"step": metrics["steps"]})
        for number, row in enumerate(samples):
            text = "\n\n".join(f"{name}: {html.escape(value)}" for name, value in row.items())
            self.writer.add_text(f"samples/{number}", text, metrics["steps"])

    def close(self, failed: bool) -> None:
        if hasattr(self, "writer"):
            self.writer.close()


@contextmanager
def watching(
    config: Any,
    folder: Path,
    rows: list[Row],
    display: str = "auto",
    on_row: Callable[[Row], None] | None = None,
    first: bool = True,
) -> Iterator[list[Watcher]]:
    """Those who watch a run, started, and closed when it ends or fails.

    Args:
        config: the run's ``RunConfig``, or that of a preference run.
        display: ``bar``, ``lines``, ``none``; ``auto`` is a bar where someone looks at it, else lines.
        on_row: called with every new row.
        first: of several processes the first is watched, and no other.
    """
    if not first:
        yield []
        return
    kinds: dict[str, type[Watcher]] = {"bar": Bar, "lines": Lines, "none": Watcher}
    trackers: dict[str, type[Watcher]] = {"wandb": Wandb, "tensorboard": TensorBoard, "none": Watcher}
    display = pick(display, DISPLAYS, "progress display")
    watchers = [trackers[config.track](), kinds[_looked_at() if display == "auto" else display]()]
    watchers += [Calls(on_row)] if on_row else []
    failed = True
    try:
        for watcher in watchers:
            watcher.start(config, folder, rows)
        yield watchers
        failed = False
    finally:
        for watcher in reversed(watchers):
            watcher.close(failed)


_HEADLINE = ("perplexity", "token_accuracy", "bleu", "reward", "kl")


def _headline(metrics: Row) -> dict[str, str]:
    """What a run says of itself in a line when it ends."""
    return {name: _short(metrics[name]) for name in _HEADLINE if name in metrics}


def _figures(metrics: Row) -> dict[str, float]:
    """The numbers among the metrics, by name; ``loss`` is the name of the training loss already."""
    renamed = {"loss": "test_loss"}
    numbers = {name: value for name, value in metrics.items() if type(value) in (int, float)}
    return {renamed.get(name, name): numbers[name] for name in numbers.keys() - {"steps", "seed"}}


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _looked_at() -> str:
    """A terminal, or a kernel that a Jupyter server started; papermill's and nbconvert's kernels are logs."""
    if "ipykernel" in sys.modules:
        return "bar" if "JPY_SESSION_NAME" in os.environ else "lines"
    return "bar" if sys.stderr.isatty() else "lines"
