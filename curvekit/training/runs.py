"""A run on paper: the folder that holds what became of it, read when asked, and held by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvekit.bases.opening import load_model, saved_tokenizer
from curvekit.errors import CurvekitError, pick
from curvekit.files import read_json, read_jsonl, write_json
from curvekit.shapes import Maybe
from curvekit.training.settings import SPLITS, RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from curvekit.evaluation.metrics import LanguageModelScore


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

    @property
    def begun(self) -> bool:
        """Whether a step was trained, so that something would be lost with the folder."""
        return self.trained or bool(self.history) or any((self.folder / "checkpoints").glob("checkpoint-*"))

    @property
    def trained(self) -> bool:
        """Whether there is a model, which is written whole or not at all."""
        return (self.folder / "model").exists()

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").exists()

    @cached_property
    def config(self) -> RunConfig:
        path = self.folder / "config.json"
        values = read_json(path)
        try:
            return RunConfig.from_dict(values)
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

    def model(self) -> PreTrainedModel:
        """The trained model, on the CPU, in evaluation mode."""
        if not self.trained:
            raise CurvekitError(f"the run in {self.folder} has no model yet; give its command again, it goes on")
        return load_model(self.folder / "model")

    def tokenizer(self) -> PreTrainedTokenizerBase:
        own = self.config.base if self.config.tokenizer == "base" else self.config.tokenizer
        return saved_tokenizer(self.folder / "model", own)


def load_run(folder: str | Path) -> Run:
    """The run in ``folder``, finished or not.

    Raises:
        CurvekitError: there is none.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise CurvekitError(f"there is no run in {folder} (no config.json); give the folder of a run")
    run = Run(folder)
    run.config  # noqa: B018  a config.json of something else is found out now
    return run


@contextmanager
def claimed(config: RunConfig, folder: Path) -> Iterator[Run]:
    """Hold ``folder`` for this process and this configuration; write ``config.json`` if it is new.

    The lock is the operating system's: it ends with the process, however that ends.

    Raises:
        CurvekitError: another process trains in it; it holds another run or other files; it cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CurvekitError(f"another process trains in {folder}; wait for it or choose another folder") from error
    except OSError as error:
        raise CurvekitError(f"cannot write to {folder}: {error.strerror or error}; choose another folder") from error
    try:
        _agree(config, folder)
        yield Run(folder)
    finally:
        lock.release()


def _agree(config: RunConfig, folder: Path) -> None:
    path = folder / "config.json"
    if path.exists() and not Run(folder).begun:
        (folder / "corpus.json").unlink(missing_ok=True)  # a refused command left it; the mended one may be another
    elif path.exists():
        if differences := load_run(folder).config.differences(config):
            raise CurvekitError(f"{folder} holds another run: its {'; its '.join(differences)}; choose another folder")
    elif visible := sorted(each.name for each in folder.iterdir() if not each.name.startswith(".")):
        raise CurvekitError(f"{folder} is no run's folder, it holds {visible[0]}; choose a new or empty one")
    if not path.exists() or read_json(path) != config.to_dict():
        write_json(path, config.to_dict())
