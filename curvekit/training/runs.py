"""A run on paper: the folder that holds what became of it, read when asked, and held by one process at a time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from curvekit.bases.opening import load_model
from curvekit.bases.tokenizer import saved_tokenizer
from curvekit.errors import CurvekitError, pick
from curvekit.files import read_json, read_jsonl, write_json
from curvekit.ownership import (
    MARKER,
    Kind,
    created,
    empty_file,
    is_ours,
    json_with,
    mark,
    marker,
    recover,
    require,
    rows_with,
)
from curvekit.shapes import Maybe
from curvekit.training.settings import SPLITS, RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from curvekit.evaluation.frequency import FrequencyScore
    from curvekit.evaluation.metrics import LanguageModelScore


_FIRST = ("recipe", "base", "corpus", "seed", "steps")  # settings that every version had


def _is_config(path: Path) -> bool:
    return path.is_file() and set(_FIRST) <= read_json(path).keys() <= {each.name for each in fields(RunConfig)}


def _is_corpus(path: Path) -> bool:
    found = read_json(path)
    return "train" in found and found.keys() <= {"train", *SPLITS} and all(isinstance(x, str) for x in found.values())


def _is_model(path: Path) -> bool:
    return bool(marker(path)) or isinstance(read_json(path / "config.json").get("model_type"), str)


def _is_tokens(path: Path) -> bool:
    """A folder of token streams: marked, as those of this version are, or holding nothing else."""
    from curvekit.text.packing import is_stream

    return path.is_dir() and (is_ours(path, "tokens") or all(map(is_stream, path.iterdir())))


def _is_checkpoints(path: Path) -> bool:
    """A folder of checkpoints; what else somebody has put into it is left alone."""
    return path.is_dir() and (is_ours(path, "checkpoints") or any(map(is_checkpoint, path.iterdir())))


def is_checkpoint(path: Path) -> bool:
    """A folder ``checkpoint-N`` of this trainer: whole, or as far as a kill let it come."""
    if not re.fullmatch(r"checkpoint-\d+", path.name) or path.is_symlink() or not path.is_dir():
        return False
    return {each.name for each in path.iterdir()} <= _CHECKPOINT


LOCK = ".lock"
_CHECKPOINT = {
    *("config.json", "generation_config.json", "model.safetensors", "optimizer.safetensors", "rng.safetensors"),
    *("trainer_state.json", MARKER),
}
RUN = Kind(
    "run",
    "a run's folder",
    {
        LOCK: empty_file,
        "config.json": _is_config,
        "corpus.json": _is_corpus,
        "history.jsonl": rows_with("step"),
        "samples.jsonl": rows_with("prompt", "continuation", "reference"),
        "answers.jsonl": rows_with("source", "answer", "references"),
        "scores-*.json": json_with("signature", "perplexity"),
        "frequency.json": json_with("edges", "nll", "held"),
        "metrics.json": json_with("recipe", "seed", "fingerprint"),
        "wandb.json": json_with("id", only=True),
        "conformance.json": json_with("attention", "leak", "bound", "tokens"),
        "model": _is_model,
        "tokens": _is_tokens,
        "checkpoints": _is_checkpoints,
    },
    proofs=("config.json",),
)
_MEASURED = (
    *("loss", "perplexity", "word_perplexity", "bits_per_byte", "token_accuracy", "bleu", "chrf"),
    *("tokens_per_second", "train_seconds", "train_tokens", "parameters", "trainable_parameters", "steps"),
)
METRICS = {
    "recipe": Maybe(str),
    "seed": Maybe(int),
    "leaks": bool,
    "precision": Maybe((str, None)),
    "base_is_random": Maybe(bool),
    "signature": Maybe(dict),
    "signatures": Maybe(dict),
    "task": Maybe({"task": str, "figure": str, "counts": {str: int}}),
    "validation": Maybe({"leaks": Maybe(bool), **dict.fromkeys(_MEASURED[:5], Maybe((float, None)))}),
    **dict.fromkeys(_MEASURED, Maybe((float, None))),
}
_OF_A_STEP = ("loss", "learning_rate", "tokens", "seconds")
_OF_A_VALIDATION = ("validation_loss", "validation_perplexity", "validation_accuracy")
HISTORY = {
    "step": int,
    "grad_norm": Maybe((float, None)),
    **dict.fromkeys((*_OF_A_STEP, *_OF_A_VALIDATION), Maybe(float)),
}


@dataclass
class Run:
    """A run's folder, read when asked.

    ``config.json`` holds the settings, ``history.jsonl`` a row for each step and each validation,
    ``samples.jsonl`` texts, ``scores-validation.json`` and ``scores-test.json`` the documents' scores, ``model/``
    weights and tokeniser. ``metrics.json`` is written last: a run that has it is finished.
    """

    folder: Path
    kind: ClassVar[Kind] = RUN  # of the folder
    settings: ClassVar[Any] = RunConfig  # what config.json holds
    before: ClassVar[dict[str, Any]] = {"added_rate": 1.0}  # what was done before it was a setting

    @property
    def begun(self) -> bool:
        """Whether a step was trained, so that something would be lost with the folder."""
        return self.trained or bool(self.history) or any(map(is_checkpoint, (self.folder / "checkpoints").glob("*")))

    @property
    def trained(self) -> bool:
        """Whether there is a model, which is written whole or not at all."""
        return (self.folder / "model").exists()

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").exists()

    @cached_property
    def config(self) -> Any:
        """The settings: a ``RunConfig``, or what ``settings`` of this kind of run is."""
        path = self.folder / "config.json"
        values = self.before | read_json(path)
        try:
            return self.settings.from_dict(values)
        except CurvekitError as error:
            raise CurvekitError(f"{path}: {error}") from error

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Figures of the test split, and under ``validation`` of the other; see ``training.evaluate``."""
        if not self.finished:
            raise CurvekitError(f"the run in {self.folder} is not finished; give its command again, it goes on")
        return read_json(self.folder / "metrics.json", shape=METRICS)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows ``step, loss, learning_rate, grad_norm, tokens, seconds`` of steps, and ``step, validation_loss,
        validation_perplexity, validation_accuracy`` of validations.

        Losses are nats a token; tokens and seconds are counted from the beginning, without validations. Before there
        is a model, rows from a damaged one on are left out: they can be computed again.
        """
        return read_jsonl(self.folder / "history.jsonl", HISTORY, whole=self.trained)

    @property
    def corpus(self) -> dict[str, str]:
        """The revision of each split that the run read."""
        return read_json(self.folder / "corpus.json", shape={"train": str, str: str})

    @cached_property
    def samples(self) -> list[dict[str, str]]:
        """Rows ``prompt, continuation, reference``: what the model wrote, and what the document says."""
        return read_jsonl(self.folder / "samples.jsonl", dict.fromkeys(("prompt", "continuation", "reference"), str))

    def scores(self, split: str = "test") -> LanguageModelScore:
        """The score of every document of a split, ``validation`` or ``test``."""
        from curvekit.evaluation.metrics import LanguageModelScore

        path = self.folder / f"scores-{pick(split, SPLITS, 'split')}.json"
        return LanguageModelScore.from_dict(read_json(path), path)

    def frequency(self) -> FrequencyScore:
        """The test split by how often the training text has its tokens."""
        from curvekit.evaluation.frequency import FrequencyScore

        path = self.folder / "frequency.json"
        return FrequencyScore.from_dict(read_json(path), path)

    def model(self) -> PreTrainedModel:
        """The trained model, on the CPU, in evaluation mode."""
        if not self.trained:
            raise CurvekitError(f"the run in {self.folder} has no model yet; give its command again, it goes on")
        return load_model(self.folder / "model")

    def tokenizer(self) -> PreTrainedTokenizerBase:
        own = self.config.base if self.config.tokenizer == "base" else self.config.tokenizer
        return saved_tokenizer(self.folder / "model", own)


def load_run(folder: str | Path, of: type[Run] = Run) -> Run:
    """The run in ``folder``, finished or not, of this kind.

    Raises:
        CurvekitError: there is none.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise CurvekitError(f"there is no run in {folder} (no config.json); give the folder of a run")
    run = of(folder)
    run.config  # noqa: B018  a config.json of something else is found out now
    return run


@contextmanager
def claimed(config: Any, folder: Path, of: type[Run] = Run) -> Iterator[Run]:
    """Hold ``folder`` for this process and this configuration; write ``config.json`` if it is new.

    The lock is the operating system's: it ends with the process, however that ends. A command that is refused before
    its first step leaves everything as it was, the folder included.

    Raises:
        CurvekitError: another process trains in it; it holds another run or other files; it cannot be written.
    """
    from filelock import FileLock, Timeout

    require_place(config, folder, of)
    with ExitStack() as stack:
        try:
            stack.enter_context(created(folder))
            lock, fresh = FileLock(folder / LOCK), not (folder / LOCK).exists()
            lock.acquire(timeout=0)
        except Timeout as error:
            raise CurvekitError(f"another process trains in {folder}; wait for it or choose another folder") from error
        except OSError as error:
            reason = error.strerror or error
            raise CurvekitError(f"cannot write to {folder}: {reason}; choose another folder") from error
        stack.callback(lock.release)
        require_place(config, folder, of)  # now that nobody else is at it
        run = of(folder)
        before = {} if run.begun else {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        known, begun = set(folder.iterdir()), run.begun or run.finished
        try:
            recover(folder / "model")
            _agree(config, run)
            yield run
        except CurvekitError:
            if not begun and folder.exists() and not run.begun:
                _undo(folder, known, before)
                if fresh:
                    (folder / LOCK).unlink(missing_ok=True)
            raise


def require_place(config: Any, folder: Path, of: type[Run] = Run) -> None:
    """Return where a run of these settings may be trained: in a new or an empty folder, or in its own.

    Raises:
        CurvekitError: the folder, or a file that would be written over, is another's; it holds another run.
    """
    require(folder, of.kind)
    begun = of(folder).begun or of(folder).finished
    if begun and (differences := load_run(folder, of).config.differences(config)):
        raise CurvekitError(f"{folder} holds another run: its {'; its '.join(differences)}; choose another folder")


def _agree(config: Any, run: Run) -> None:
    folder = run.folder
    path = folder / "config.json"
    if not run.begun and not run.finished:
        (folder / "corpus.json").unlink(missing_ok=True)  # a killed command left it; the mended one may be another
    if not marker(folder):
        mark(folder, run.kind.name)
    if not path.exists() or read_json(path) != config.to_dict():
        write_json(path, config.to_dict())


def _undo(folder: Path, known: set[Path], before: dict[Path, bytes]) -> None:
    """Take back what a command that is refused has written into a folder that it holds."""
    for path in set(folder.iterdir()) - known:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    for path, content in before.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def gone(folder: Path) -> CurvekitError:
    """What a run says whose folder somebody has removed, or moved, while it was trained."""
    return CurvekitError(
        f"{folder} was removed or moved while the run was trained in it; move it back to go on from its last "
        "checkpoint, or give the same command again to begin anew"
    )


def require_there(folder: Path) -> None:
    """Refuse to go on where the run's folder is no more."""
    if not (folder / LOCK).exists():
        raise gone(folder)
