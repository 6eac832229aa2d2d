"""Sources and their targets, for models that write the one for the other: rows of a table, or the halves of a text.

A row names its source and its target by keys, such as ``document`` and ``summary``. Plain text has no such rows, so a
document is cut in the middle, at white space, again and again until the two halves of each piece fit into the model::

    a passage = its first part, which is read | its rest, which is written

A figure of such targets says how well a text is continued after its beginning; it compares with that of another model
which was given the same beginning, and with no perplexity of whole texts.

Both sides end with the end-of-text token, as T5's do. What does not fit of a source is cut from its end and counted; a
target that does not fit is refused, for a figure of a part of it would be another figure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, Features, Value
from torch import Tensor

from curvekit.errors import CurvekitError
from curvekit.text.corpora import (
    CORPORA,
    SPLITS,
    _divide,
    _log,
    _require_all,
    _split_files,
    existing_path,
)
from curvekit.text.documents import Announce, suffix
from curvekit.text.tables import TABLES, read_texts
from curvekit.text.tokenization import encodable, start_token

COLUMNS = ("source", "target")
_FEATURES = Features({name: Value("string") for name in COLUMNS})
_IGNORED = -100  # of a label that no loss counts


def load_pairs(
    name_or_path: str | Path,
    data_dir: str | Path | None = None,
    *,
    source: str,
    target: str,
    announce: Announce = _log.info,
) -> DatasetDict:
    """The splits ``train``, ``validation`` and ``test`` of a table's rows, with the columns ``source`` and ``target``.

    A folder has a file for each split, as :func:`curvekit.text.corpora.load_corpus` finds them; one file is split by
    the hash of its rows, and what nearly repeats a held-out row does not train.

    Args:
        name_or_path: a .jsonl, .json, .csv or .parquet file, or a folder of them.
        source, target: the keys, or columns, of the two.
        announce: is told what was loaded, and how many rows were left out because a side is missing.

    Raises:
        CurvekitError: a corpus or file of plain text; a missing file, split or key; no row with both.
    """
    if source == target:
        raise CurvekitError(f"source and target are both {source!r}; name two keys of a row")
    if str(name_or_path) in CORPORA:
        raise CurvekitError(f"corpus {name_or_path} is text without keys; leave the keys of source and target out")
    path = existing_path(str(name_or_path), data_dir)
    keys = (source, target)
    if path.is_dir():
        splits = _split_files(path)
        _require_all(splits, path)
        corpus = DatasetDict({split: _rows(splits[split], keys, announce) for split in SPLITS})
    else:
        rows = _rows([path], keys, announce)
        whole = [f"{row['source']}\n{row['target']}" for row in rows]
        corpus = _divide(rows.add_column("text", whole), str(path), announce).remove_columns("text")
    sizes = ", ".join(f"{corpus[split].num_rows:,} {split}" for split in SPLITS)
    announce(f"corpus {name_or_path}: {sizes} rows of {source} and {target}, from {path.resolve()}")
    return corpus


def _rows(paths: Sequence[Path], keys: tuple[str, str], announce: Announce) -> Dataset:
    """The rows of some files that have both sides."""
    kept: dict[str, list[str]] = {name: [] for name in COLUMNS}
    for path in paths:
        if suffix(path) not in TABLES:
            raise CurvekitError(f"{path} is text without keys; name a table ({', '.join(TABLES)}), or leave them out")
        pairs = list(zip(*(read_texts(path, key) for key in keys), strict=True))
        whole = [pair for pair in pairs if all(text and text.strip() for text in pair)]
        if missing := len(pairs) - len(whole):
            announce(f"{path}: {missing:,} of {len(pairs):,} rows lack {keys[0]} or {keys[1]} and were left out")
        for pair in whole:
            for name, text in zip(COLUMNS, pair, strict=True):
                kept[name].append(text or "")
    if not kept["target"]:
        raise CurvekitError(f"{paths[0]}: no row has both {keys[0]} and {keys[1]}; name keys that are filled")
    return Dataset.from_dict(kept, features=_FEATURES)


def halved(text: str) -> tuple[str, str]:
    """A text's first part and its rest, cut before the white space nearest to its middle; joined they are the text."""
    middle = len(text) // 2
    spaces = (match.start() for match in re.finditer(r"(?<=\S)\s", text))
    cut = min(spaces, key=lambda place: abs(place - middle), default=middle)
    if abs(cut - middle) > len(text) // 4:  # a script without spaces, or one long word
        cut = middle
    return text[:cut], text[cut:]


def passages(texts: Iterable[str], tokenizer: Any, room: int) -> Iterator[tuple[str, str]]:
    """Plain texts as sources and targets of at most ``room`` tokens each, their end-of-text included.

    Pieces of which a half is nothing but white space are left out.
    """
    for text in texts:
        waiting = [text]
        while waiting:
            first, rest = halved(waiting.pop())
            if not first.strip() or not rest.strip():
                continue
            if all(len(_ids(tokenizer, part)) < room for part in (first, rest)):
                yield first, rest
            else:
                waiting += [rest, first]


def pairs_of(rows: Dataset, tokenizer: Any, room: int, most: int | None = None) -> tuple[list[str], list[str]]:
    """Sources and targets: of rows as they are, of plain documents their passages; of the first ``most`` rows."""
    rows = rows if most is None else rows.select(range(min(most, rows.num_rows)))
    if "target" in rows.column_names:
        return list(rows["source"]), list(rows["target"])
    found = list(passages(rows["text"], tokenizer, room))
    return [first for first, _ in found], [rest for _, rest in found]


def source_ids(tokenizer: Any, text: str, room: int) -> tuple[list[int], int]:
    """A source's token ids, its end-of-text the last of at most ``room``, and how many were cut from its end."""
    ids = _ids(tokenizer, text)
    return [*ids[: room - 1], start_token(tokenizer)], max(0, len(ids) - room + 1)


def target_ids(tokenizer: Any, text: str, room: int, name: str) -> list[int]:
    """A target's token ids and its end-of-text.

    Raises:
        CurvekitError: they are more than ``room``; ``name`` is what the target is called.
    """
    ids = [*_ids(tokenizer, text), start_token(tokenizer)]
    if len(ids) > room:
        raise CurvekitError(
            f"{name} has {len(ids):,} tokens with its end-of-text, more than the {room:,} that a target may have here; "
            "shorten it, take the row out, or raise block_size as far as the model has room"
        )
    return ids


def _ids(tokenizer: Any, text: str) -> list[int]:
    (text,) = encodable([text])
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


class PairExamples(torch.utils.data.Dataset):
    """Pairs as examples: item ``i`` is ``{"input_ids", "labels"}``, lists of a source's and its target's token ids.

    Attributes:
        cut: how many sources were longer than ``room``. ``tokens_cut``: how many of their tokens nobody reads.
    """

    def __init__(
        self, sources: Sequence[str], targets: Sequence[str], tokenizer: Any, room: int, name: str = "the corpus"
    ) -> None:
        if not targets:
            raise CurvekitError(f"{name} gives no source with a target; take a larger corpus")
        read = [source_ids(tokenizer, text, room) for text in sources]
        self.sources = [ids for ids, _ in read]
        self.targets = [
            target_ids(tokenizer, text, room, f"row {number:,} of {name}") for number, text in enumerate(targets, 1)
        ]
        self.cut, self.tokens_cut = sum(lost > 0 for _, lost in read), sum(lost for _, lost in read)
        self.room = room

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": self.sources[index], "labels": self.targets[index]}

    def __str__(self) -> str:
        whole = self.tokens_cut + sum(map(len, self.sources))
        return (
            f"{self.cut:,} of {len(self):,} sources are longer than {self.room:,} tokens and were cut: "
            f"{self.tokens_cut / whole:.0%} of their tokens are left out"
        )


def batched(examples: Sequence[dict[str, list[int]]], pad: int = 0) -> dict[str, Tensor]:
    """A batch of examples, padded on the right: ``input_ids``, ``attention_mask`` and ``labels`` (-100: not scored)."""
    sources, targets = ([example[name] for example in examples] for name in ("input_ids", "labels"))
    ids = _padded(sources, pad)
    mask = _padded([[1] * len(row) for row in sources], 0)
    return {"input_ids": ids, "attention_mask": mask, "labels": _padded(targets, _IGNORED)}


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
