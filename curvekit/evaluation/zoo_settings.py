"""What every model of a zoo is measured on: one dataclass, of which the command's flags are made."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from curvekit.errors import CurvekitError


def _setting(default: Any, help: str, least: int = 1) -> Any:
    return field(default=default, metadata={"help": help, "least": least})


@dataclass(frozen=True)
class ZooSettings:
    """What every model of a zoo is measured on; the ``metadata`` of its fields tell of each its ``help``.

    Raises:
        CurvekitError: a number is too small, or two of them exclude each other.
    """

    corpus: str = _setting("pydocs", "a corpus's name, a file or a folder")
    data_dir: str | None = _setting(None, "folder with the corpus's files, instead of the hub")
    split: str = _setting("test", "train, validation or test")
    documents: int = _setting(32, "the first so many documents that have enough words")
    words: int = _setting(200, "words of each document; the rest is cut off")
    context: int = _setting(512, "tokens of a scoring window, where a model has so many positions")
    stride: int = _setting(256, "tokens that a later window adds")
    prompts: int = _setting(12, "documents of which the beginning is continued; 0: none", least=0)
    prompt_words: int = _setting(40, "words of such a beginning, after which the rest of every document is scored too")
    continuation_words: int = _setting(30, "words of a continuation that are compared with the document's")
    prefill: int = _setting(128, "tokens of the text whose reading is timed")
    decode: int = _setting(24, "tokens whose writing is timed")
    repeats: int = _setting(3, "how often each is timed")
    threads: int | None = _setting(None, "threads of the CPU (default: as many as torch takes)")

    def __post_init__(self) -> None:
        for each in fields(self):
            value, least = getattr(self, each.name), each.metadata["least"]
            if isinstance(value, int) and value < least:
                raise CurvekitError(f"{each.name} is {value}; give {least} or more")
        if self.split not in ("train", "validation", "test"):
            raise CurvekitError(f"split is {self.split!r}; give train, validation or test")
        if self.stride > self.context:
            raise CurvekitError(f"stride is {self.stride} and would skip tokens; give at most {self.context}")
        if self.prompt_words >= self.words:
            raise CurvekitError(
                f"prompt_words is {self.prompt_words}, and the {self.words} words of a document have no rest after "
                "them; give fewer, or more words"
            )
        if self.prompts and self.prompt_words + self.continuation_words > self.words:
            raise CurvekitError(
                f"prompt_words {self.prompt_words} and continuation_words {self.continuation_words} are more than the "
                f"{self.words} words of a document; give fewer, or more words"
            )
