"""What a run reads and is measured by: the side of a run that differs between text, rows of a T5, and a task's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import DatasetDict

from curvekit.evaluation.metrics import LanguageModelScore
from curvekit.files import write_json
from curvekit.training.processes import by_first
from curvekit.training.runs import Run, require_there
from curvekit.training.settings import RunConfig

LANGUAGE_METRICS = ("loss", "perplexity", "word_perplexity", "bits_per_byte", "token_accuracy")
Tell = Callable[[str], object]


class Measured(NamedTuple):
    """The figures of each split, samples, and what else ``metrics.json`` shall hold."""

    splits: dict[str, dict[str, Any]]
    samples: list[dict[str, str]]
    rest: dict[str, Any]


class Material:
    """What a run trains on, ``corpus``, and how the trained model is measured.

    Attributes:
        corpus: its documents by split; whether they are still the same decides whether a run may go on.
        ahead: whether a label stands one place after the logits that it is compared with.
        counts_padding: whether padded tokens count as read.
    """

    ahead = True
    counts_padding = True

    def __init__(self, config: RunConfig, corpus: DatasetDict) -> None:
        self.config, self.corpus = config, corpus

    def check(self) -> None:
        """Refuse what cannot train."""

    def vocabulary(self) -> Sequence[str]:
        """The texts from which a tokeniser is learned."""
        return list(self.corpus["train"]["text"])

    def prepare(self, model: Any) -> None:
        """Let the model know of this material what it must."""

    def examples(self, tokenizer: Any, tokens: Path, progress: bool) -> tuple[Any, Any]:
        """What trains and what validates; ``tokens`` is a folder for what is needed again after a kill."""
        raise NotImplementedError

    def collator(self, model: Any) -> Any:
        """What makes a batch of examples; None: the Trainer's own."""
        return None

    def measure(
        self, run: Run, model: Any, tokenizer: Any, revision: dict[str, str], tell: Tell, progress: bool
    ) -> Measured:
        """Score the trained model and let it write; every process of a run takes part."""
        raise NotImplementedError

    def signature(self, split: str, revision: dict[str, str]) -> dict[str, Any]:
        """What a score of a split depends on."""
        base, corpus = (Path(name).name for name in (self.config.base, self.config.corpus))
        return {"model": base, "corpus": corpus, "revision": revision[split], "split": split}


def kept(run: Run, split: str, score: LanguageModelScore) -> dict[str, Any]:
    """Write a split's score into the run's folder; return what of it stands in ``metrics.json``."""
    values = score.to_dict()
    require_there(run.folder)
    by_first(lambda: write_json(run.folder / f"scores-{split}.json", values) and None)
    return {name: values[name] for name in (*LANGUAGE_METRICS, "leaks", "signature")}
