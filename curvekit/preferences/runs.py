"""A preference run on paper: its folder, which holds the pairs it learned from beside what every run's folder holds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from curvekit.bases.tokenizer import saved_tokenizer
from curvekit.errors import CurvekitError
from curvekit.files import read_json, read_jsonl
from curvekit.ownership import Kind, json_with, rows_with
from curvekit.preferences.gathering import PAIR, Preference
from curvekit.preferences.settings import PreferenceConfig
from curvekit.training.runs import RUN, Run, load_run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRICS: dict[str, Any] = {"method": str, "seed": int, "fingerprint": str}
SAMPLE = {
    **dict.fromkeys(("prompt", "before", "after"), str),
    "before_reward": (float, None),
    "after_reward": (float, None),
}


def _is_config(path: Path) -> bool:
    known = {each.name for each in fields(PreferenceConfig)}
    return path.is_file() and {"method", "base", "seed", "steps"} <= read_json(path).keys() <= known


PREFERENCE = Kind(
    "preference run",
    "a preference run's folder",
    {
        **{name: shape for name, shape in RUN.files.items() if not name.startswith("scores")},
        "config.json": _is_config,
        "metrics.json": json_with("method", "seed", "fingerprint"),
        "samples.jsonl": rows_with("prompt", "before", "after"),
        "pairs.jsonl": rows_with("prompt", "chosen", "rejected", "provenance"),
        "notes.json": json_with("notes", only=True),
        "invariants.json": json_with("checked"),
        "scores-*.json": json_with("signature", "perplexity"),
        "judged.jsonl": rows_with("prompt", "first", "second"),
        "progress.safetensors": Path.is_file,
        "reference.safetensors": Path.is_file,
    },
    proofs=("config.json",),
)


@dataclass
class PreferenceRun(Run):
    """A preference run's folder, read when asked.

    ``pairs.jsonl`` holds what it learned from, ``notes.json`` what was said of it, ``invariants.json`` what was
    checked before the first step, ``samples.jsonl`` answers before and after, ``judged.jsonl`` the same as blind
    ratings. ``metrics.json`` is written last.
    """

    kind: ClassVar[Kind] = PREFERENCE
    settings: ClassVar[Any] = PreferenceConfig
    before: ClassVar[dict[str, Any]] = {}

    @cached_property
    def metrics(self) -> dict[str, Any]:
        if not self.finished:
            raise CurvekitError(f"the run in {self.folder} is not finished; give its command again, it goes on")
        return read_json(self.folder / "metrics.json", shape=METRICS)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return saved_tokenizer(self.folder / "model", self.config.base)

    @property
    def pairs(self) -> list[Preference]:
        """What it learned from; none, where it learned from rewards."""
        return [Preference.from_dict(row) for row in read_jsonl(self.folder / "pairs.jsonl", PAIR)]

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """Rows ``prompt, before, after`` and the rewards of both."""
        return read_jsonl(self.folder / "samples.jsonl", SAMPLE)


def load_preferences(folder: str | Path) -> PreferenceRun:
    """The preference run in ``folder``, finished or not.

    Raises:
        CurvekitError: there is none.
    """
    run = load_run(folder, PreferenceRun)
    assert isinstance(run, PreferenceRun)
    return run
