"""The base that ships: a small GPT-2 pretrained on novels, stories and articles.

Pretraining is a run like any other (:mod:`.trainer`), from random weights on a corpus that is made here.
Several sizes and settings may be tried in one folder, each under a name::

    OUT/corpus/          train, validation and test .jsonl, and sources.json, which tells what is in them
    OUT/start-8192/      the byte-level BPE learned from the training texts, and a GPT-2 configuration
    OUT/NAME/            a run
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import GPT2Config

from curvekit.bases.building import MINI
from curvekit.errors import CurvekitError
from curvekit.files import read_json, write_json, write_jsonl
from curvekit.ownership import MARKER, Kind, broken, json_with, marker, recover, replaced, require, rows_with
from curvekit.text.corpora import SPLITS, load_corpus
from curvekit.text.documents import read_lines
from curvekit.text.duplicates import find_duplicates
from curvekit.text.tokenization import MINI_VOCABULARY, train_bpe
from curvekit.text.typography import plain
from curvekit.training.runs import RUN, Run
from curvekit.training.settings import PRETRAINING, RunConfig
from curvekit.training.trainer import train

UNKNOWN = (" <unk>", "<unk>")  # of WikiText-2: entries of their own, learned where they stand, never generated

LEAST = 80  # characters of a paragraph that can betray a held-out text; shorter ones are "Yes, sir." and chapter heads

Rows = dict[str, list[dict[str, str]]]  # of each split


def pretrain(
    data_dir: str | Path,
    out: str | Path = "runs/pretrain",
    name: str = "mini",
    vocabulary: int = MINI_VOCABULARY,
    announce: Callable[[str], object] = print,
    **settings: Any,
) -> Run:
    """Make the corpus and the vocabulary, or take those that are there; train, or go on with, the run ``OUT/name``.

    Args:
        data_dir: a folder with ``books/*.txt``, ``stories/stories.txt`` and ``wikitext-2/``.
        out: the folder of everything; see the head of this module.
        name: of this run, beside others with other settings.
        vocabulary: entries of the byte-level BPE.
        announce: is told what is being done.
        settings: fields of :class:`RunConfig` over :data:`curvekit.training.settings.PRETRAINING`; ``model`` may hold
            ``n_layer``, ``n_embd``, ``n_head`` and ``n_positions``. ``base`` and ``corpus`` are those made here.

    Raises:
        CurvekitError: data that are not there, a vocabulary learned for a model of another shape, or as
            :func:`curvekit.training.trainer.train`.
    """
    if not re.fullmatch(r"[\w+-][\w.+-]*", name) or re.fullmatch(r"corpus|start-\d+", name):
        raise CurvekitError(
            f"the name {name!r} is none of a run beside corpus/ and start-{vocabulary}/; give letters, digits and -"
        )
    out = Path(out).resolve()
    corpus, start = out / "corpus", out / f"start-{vocabulary}"
    chosen = PRETRAINING | settings | {"vocabulary": vocabulary}
    RunConfig.from_dict(chosen | {"base": "mini", "corpus": "pydocs"}).validate()  # before the long reading
    for folder in (corpus, start):
        recover(folder)
    require(corpus, CORPUS)
    _require_start(start)
    require(out / name, RUN)
    if not (corpus / "sources.json").exists():
        announce("reading the corpus")
        prepare(data_dir, corpus)
    if not _is_start(start):
        announce(f"learning a vocabulary of {vocabulary:,} entries")
        tokenizer = train_bpe(load_corpus(corpus)["train"]["text"], vocabulary, kept=UNKNOWN)
        end = tokenizer.eos_token_id
        with replaced(start, "start") as new:
            tokenizer.save_pretrained(new)
            GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **MINI).save_pretrained(new)
    shape = read_json(start / "config.json")
    if {name: shape.get(name) for name in MINI} != MINI:
        raise CurvekitError(f"{start} was made for a model of another shape; remove it, or choose another --out")
    return train(RunConfig.from_dict(chosen | {"base": str(start), "corpus": str(corpus)}), out / name)


CORPUS = Kind(
    "corpus",
    "a pretraining corpus",
    {
        "*.jsonl": rows_with("text", "source"),
        "sources.json": json_with("train", "validation", "test", "paragraphs_removed"),
    },
    proofs=("sources.json", "*.jsonl"),
)
_START = {  # the files of a start, and how each begins
    "config.json": b'{\n  "',
    "tokenizer.json": b'{\n  "version": "1.0"',
    "tokenizer_config.json": b'{\n  "',
}


def _is_start(start: Path) -> bool:
    """Whether a vocabulary and a configuration are there, whole; an earlier version could leave a part."""
    try:
        return all(read_json(start / name) for name in _START) and broken(start) is None
    except CurvekitError:
        return False


def _require_start(start: Path) -> None:
    """Refuse a folder in the place of the vocabulary that is not what was made here, whole or as a kill left it."""
    if _is_start(start) or not start.exists():
        return
    for path in sorted(start.iterdir()) if start.is_dir() else [start]:
        begins = _START.get(path.name)
        content = path.read_bytes() if path.is_file() and begins else None
        if path.name == MARKER and marker(start):
            continue
        if begins is None or content is None or not begins.startswith(content[: len(begins)]):
            raise CurvekitError(f"{path} is not curvekit's own and would be written over; choose another --out")


def prepare(data_dir: str | Path, folder: str | Path) -> dict[str, Any]:
    """Write the documents of :func:`gather` as ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``.

    A training paragraph that also stands, verbatim, in a held-out text or in ``pydocs`` is left out; of novels and
    stories one that repeats half of its runs of words there as well (WikiText's own splits share such paragraphs, and
    stay as published). The folder is written as a whole. ``sources.json`` counts all this and is returned.
    """
    folder = Path(folder)
    require(folder, CORPUS)
    rows = gather(data_dir)
    documentation = load_corpus("pydocs")
    held_out = [text for split in documentation for text in documentation[split]["text"]]
    held_out += [row["text"] for split in ("validation", "test") for row in rows[split]]
    known = {line for text in [*held_out, *(row["text"] for row in rows["neither"])] for line in _paragraphs(text)}
    told = list(itertools.chain(*(_paragraphs(row["text"]) for row in rows["train"] if row["source"] != "wikitext-2")))
    known |= {told[found.text] for found in find_duplicates(told, held_out)}
    removed = 0
    for row in rows["train"]:
        lines = row["text"].split("\n")
        kept = [line for line in lines if line not in known]
        removed += len(lines) - len(kept)
        row["text"] = "\n".join(kept)

    sources: dict[str, Any] = {split: _counts(of_split) for split, of_split in rows.items()}
    sources["paragraphs_removed"] = removed
    with replaced(folder, CORPUS.name) as new:
        for split in SPLITS:
            written = ({"text": row["text"], "source": row["source"]} for row in rows[split])
            write_jsonl(new / f"{split}.jsonl", written)
        write_json(new / "sources.json", sources)
    return sources


def gather(data_dir: str | Path) -> Rows:
    """The documents of every split: rows ``text``, ``source``, and ``original``, the text as it was published.

    Articles train, validate and test as WikiText-2 publishes them, in plain typography; stories as the corpus
    ``stories`` divides them, but one of which a training paragraph repeats, not verbatim, half of its runs of words
    (see :mod:`curvekit.text.duplicates`) is of the split ``neither``; novels only train. The first documents of a
    held-out split are of every source.
    """
    data_dir = Path(data_dir).expanduser()
    articles, tales = load_corpus("wikitext-2", data_dir), load_corpus("stories", data_dir)
    books = sorted((data_dir / "books").glob("*.txt"))
    novels = {path.stem: [line.strip() for line in read_lines(path)] for path in books}
    if not novels:
        raise CurvekitError(f"{data_dir} lacks novels; expected books/*.txt there, one paragraph a line")
    told = {
        split: [{"text": text, "source": "stories", "original": text} for text in tales[split]["text"]]
        for split in tales
    }
    read = {
        split: [{"text": plain(text), "source": "wikitext-2", "original": text} for text in articles[split]["text"]]
        for split in articles
    }
    whole = [{"text": "\n".join(filter(None, lines)), "source": name} for name, lines in novels.items()]
    train = [*whole, *told["train"], *read["train"]]
    held_out = {
        line for rows in (told, read) for split in ("validation", "test") for row in rows[split]
        for line in _paragraphs(row["text"])
    }  # fmt: skip
    paragraphs = [line for row in train for line in _paragraphs(row["text"]) if line not in held_out]
    neither: list[dict[str, str]] = []
    for split in ("validation", "test"):
        telling = paragraphs
        while again := find_duplicates(telling, [row["text"] for row in told[split]]):
            repeated, telling = {each.held_out for each in again}, [telling[each.text] for each in again]
            neither += [told[split][number] for number in sorted(repeated)]
            told[split] = [row for number, row in enumerate(told[split]) if number not in repeated]
    return {
        "train": train,
        "validation": _interleaved(read["validation"], told["validation"]),
        "test": _interleaved(read["test"], told["test"]),
        "neither": neither,
    }


def _paragraphs(text: str) -> list[str]:
    return [line for line in text.split("\n") if len(line) >= LEAST]


def _interleaved(*parts: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """By turns, so that the first documents of a split are of every source."""
    turns = itertools.zip_longest(*parts)
    return [row for turn in turns for row in turn if row is not None]


def _counts(rows: Iterable[dict[str, str]]) -> dict[str, dict[str, int]]:
    """Documents, words and bytes of each kind of source."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        kind = row["source"] if row["source"] in ("stories", "wikitext-2") else "novels"
        of_kind = counts.setdefault(kind, {"documents": 0, "words": 0, "bytes": 0})
        of_kind["documents"] += 1
        of_kind["words"] += len(row["text"].split())
        of_kind["bytes"] += len(row["text"].encode())
    return counts
