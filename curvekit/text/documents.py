"""Files to documents: a text cut into them, a table's rows of ``text``, or one sentence on what is wrong.

What one document is, in text files (``.txt``, ``.raw``, ``.tokens``):

==========  ==================================================================================================
article     from one wikitext title (`` = Title = ``, a blank line after it) to the next
passage     4,000 characters or more, cut at a blank line: prose whose parts belong together
paragraph   what stands between blank lines
line        a line that is not blank
file        a whole file
story       from ``<sos>`` to ``<eos>``, as plain text and without a trailer, see ``curvekit.text.stories``
marked      from one end-of-text mark, such as GPT-2's ``<|endoftext|>``, to the next
auto        story where the text begins with ``<sos>``, marked where marks separate its parts, article where it begins
            with a wikitext title, else passage where blank lines separate its parts, else line
==========  ==================================================================================================

A row of a table is one document, but ``article`` reads it as a line, across the shards of a split, and ``story``, or
``auto`` where the first row begins with ``<sos>``, reads the stories in it. Marks of the beginning or the end of a
text separate documents wherever they stand and are no part of them. Joined, the articles, passages or files of a text
are the text again; lines, paragraphs and what stands between marks lose the space around.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import datasets
from datasets import Dataset, Features, Value, concatenate_datasets
from datasets.exceptions import DatasetGenerationError

from curvekit import decoding
from curvekit.decoding import read_lines
from curvekit.errors import CurvekitError, first_line
from curvekit.text import stories, tables
from curvekit.text.stories import StoryReport, is_story, read_stories
from curvekit.text.tables import TABLES, Empty, read_texts

UNITS = ("auto", "article", "passage", "paragraph", "line", "file", "story", "marked")
TEXT = (".txt", ".raw", ".tokens")
SUFFIXES = (*TEXT, *TABLES)
FEATURES = Features({"text": Value("string")})

Announce = Callable[[str], object]

_PASSAGE = 4000  # characters
_LARGE = 32 * 2**20  # bytes, above which a file does not lie in memory as a whole
_LONG = 200  # characters without white space, above which a text is cut inside of it
_MARK = re.compile(r"<\|(?:end_?of_?text|start_?of_?text|begin_?of_?text)\|>")
_TITLE = re.compile(r" ?= (?!= ).*(?<! =) = *\n?")
_log = logging.getLogger(__name__)


def as_dataset(texts: Iterable[str | None]) -> Dataset:
    """Texts as a dataset of one column ``text``, in memory."""
    return Dataset.from_dict({"text": list(texts)}, features=FEATURES)


def read_files(paths: Iterable[Path], unit: str = "auto", announce: Announce = _log.info) -> Dataset:
    """The documents of several files, in the order given.

    Lines without text are left out; so are rows, and of several files those without any, and ``announce`` is told.

    Raises:
        CurvekitError: all files are empty, or one is binary, not UTF-8, cut off, or a table without a column ``text``;
            text outside of a story in a file of stories.
    """
    paths = list(paths)
    if unit == "article" and all(suffix(path) in TABLES for path in paths):
        return _read_articles(paths, announce)
    return read_each([(path, unit) for path in paths], announce)


def read_each(files: Sequence[tuple[Path, str]], announce: Announce = _log.info) -> Dataset:
    """As :func:`read_files`, with a unit for each file."""
    parts = []
    for path, unit in files:
        try:
            parts.append((read_table if suffix(path) in TABLES else read_text)(path, unit, announce))
        except Empty:
            if len(files) == 1:
                raise
            announce(f"{path} is empty and was left out")
    if not parts:
        raise Empty(f"{files[0][0]} and the other {len(files) - 1:,} files are empty; name files with text")
    return concatenate_datasets(parts)


def suffix(path: Path) -> str:
    """The end of the name, which says what the file holds; ``STORY.TXT`` is text too."""
    return path.suffix.lower()


def read_text(path: Path, unit: str = "auto", announce: Announce = _log.info) -> Dataset:
    """The documents of one text file; ``announce`` is told what was cut from stories.

    Large files are memory-mapped from the cache of ``datasets``, unless they are one document.
    """
    unit = natural_unit(path) if unit == "auto" else unit
    if unit == "story":
        return _tell_stories(path, lambda: unmarked(read_lines(path)), announce)

    def texts() -> Iterator[str]:
        for part in _parts(read_lines(path)):
            yield from (text for text in _CUTS[unit](part) if text.strip())

    rows = as_dataset(texts()) if unit == "file" else _mapped_if_large([path], texts, unit)
    if not rows.num_rows:
        raise Empty(f"{path} is empty; name a file with text")
    return rows


def _parts(lines: Iterable[str]) -> Iterator[Iterator[str]]:
    """The lines of each document that marks separate; of a text without marks, all of them."""
    document = 0

    def numbered() -> Iterator[tuple[int, str]]:
        nonlocal document
        for line in lines:
            first, *others = _MARK.split(line)
            yield document, first if not others else first and f"{first}\n"
            for piece in others:
                document += 1
                yield document, piece

    for _, part in itertools.groupby(numbered(), key=lambda each: each[0]):
        yield (line for _, line in part if line)


def unmarked(lines: Iterable[str]) -> Iterator[str]:
    """The lines without marks of the beginning or the end of a text."""
    return (_MARK.sub("", line) for line in lines)


def _tell_stories(path: Path, lines: Callable[[], Iterable[str]], announce: Announce) -> Dataset:
    """The stories of a file's lines; ``announce`` is told what was cut."""
    report = StoryReport()

    def texts() -> Iterator[str]:
        yield from read_stories(lines(), report, str(path))

    rows = _mapped_if_large([path], texts, "story")
    if report == StoryReport():  # the stories were in the cache, and the report was not
        for _ in texts():
            pass
    if not rows.num_rows:
        titles = f": it has {report.empty + report.trailers} titles and no story" if report != StoryReport() else ""
        raise Empty(f"{path} is empty{titles}; name a file with text")
    announce(f"{path}: {report}")
    return rows


def _mapped_if_large(paths: Sequence[Path], texts: Callable[[], Iterable[str | None]], unit: str) -> Dataset:
    """``texts()`` of these files: in memory, or of large ones memory-mapped."""
    if sum(path.stat().st_size for path in paths) < _LARGE:
        return as_dataset(texts())
    return cached(texts, f"{unit}-{_digest(paths)}")


def cached(texts: Callable[[], Iterable[str | None]], key: str) -> Dataset:
    """``texts()``, called the first time only, as a memory-mapped dataset in the cache of ``datasets``."""

    def rows() -> Iterator[dict[str, str | None]]:
        yield from ({"text": text} for text in texts())

    try:
        with quiet_in_logs():
            return Dataset.from_generator(rows, features=FEATURES, fingerprint=key)
    except (DatasetGenerationError, OSError) as error:
        if isinstance(error.__cause__, CurvekitError):
            raise error.__cause__ from None
        reason = first_line(error.__cause__ or error)
        raise CurvekitError(
            f"cannot write {key} into the cache of datasets, {datasets.config.HF_DATASETS_CACHE} ({reason}); "
            "make room in it, or set HF_DATASETS_CACHE to a folder that can be written"
        ) from error


def _digest(paths: Sequence[Path]) -> str:
    """12 hexadecimal digits of files and of how they are read here."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for room in (__file__, stories.__file__, tables.__file__, decoding.__file__):
        digest.update(Path(room).read_bytes())
    return digest.hexdigest()[:12]


def read_table(path: Path, unit: str = "auto", announce: Announce = _log.info) -> Dataset:
    """The column ``text`` of one file: a document a row; of articles a line a row; of stories those in its rows.

    ``announce`` is told how many rows have no text. Large files are memory-mapped from the cache of ``datasets``;
    nothing is written beside the file.
    """
    if unit == "article":
        return _read_articles([path], announce)
    table = _table(path)
    kept = [row for row, text in enumerate(table["text"]) if text and text.strip()]
    if not kept:
        raise Empty(f"{path} is empty: no row has text; name a file with documents")
    if missing := table.num_rows - len(kept):
        announce(f"{path}: {missing:,} of {table.num_rows:,} rows have no text and were left out")
        table = table.select(kept)
    texts = table["text"]
    if unit == "story" or (unit == "auto" and is_story(_MARK.sub("", texts[0]))):
        return _tell_stories(
            path, lambda: unmarked(f"{line}\n" for text in texts for line in text.split("\n")), announce
        )
    if not any("|>" in text and _MARK.search(text) for text in texts):
        return table

    def between() -> Iterator[str]:
        parts = (part.strip() if _MARK.search(text) else part for text in texts for part in _MARK.split(text))
        yield from (part for part in parts if part.strip())

    rows = _mapped_if_large([path], between, "between")
    if not rows.num_rows:
        raise Empty(f"{path} is empty: its rows hold marks and no text; name a file with documents")
    if lost := sum(not _MARK.sub("", text).strip() for text in texts):
        announce(f"{path}: {lost:,} of {table.num_rows:,} rows hold a mark and no text and were left out")
    return rows


def _read_articles(paths: Sequence[Path], announce: Announce) -> Dataset:
    """The articles of tables that hold a line a row; one that goes on in the next shard is one."""
    shards = []
    for path in paths:
        try:
            shards.append(_table(path))
        except Empty:
            if len(paths) == 1:
                raise
            announce(f"{path} is empty and was left out")

    def texts() -> Iterator[str]:  # the hub's blank rows lack the space of the original files
        rows = (row or "" for table in shards for row in table["text"])
        lines = (f"{line or ' '}\n" for row in rows for line in row.removesuffix("\n").split("\n"))
        yield from (article for article in _articles(lines) if article.strip())

    rows = _mapped_if_large(paths, texts, "article")
    if not rows.num_rows:
        raise Empty(f"{paths[0]} is empty: no row has text; name a file with articles")
    return rows


def _table(path: Path) -> Dataset:
    """The texts of all rows, None where there is none."""
    return _mapped_if_large([path], lambda: read_texts(path), "table")


def natural_unit(path: Path) -> str:
    """What ``auto`` means for this text file."""
    first, unit, gap, documents = "", "line", False, 0
    for part in _parts(read_lines(path)):
        begun = False
        for line in part:
            blank = not line.strip()
            if not blank and not first:
                first = line
                if is_story(first):
                    return "story"
                unit = "article" if _TITLE.fullmatch(first) else unit
            elif not blank and gap and unit == "line":
                unit = "passage"
            gap = bool(first) and (gap or blank)
            begun = begun or not blank
        documents += begun
        if documents > 1:
            return "marked"
    return unit


def pieces(text: str) -> list[str]:
    """A text cut into about forty pieces, or, if it is long, into pieces of 4,000 characters.

    The cut is at white space; where a long text has none near, behind the end of a sentence or a clause, else anywhere.
    """
    size = max(1, min(_PASSAGE, len(text) // 40))
    if len(text) <= _LONG:
        return re.findall(rf"(?s).{{{size},}}?(?:\s+|\Z)|.+", text)
    most = size + max(size, _LONG)
    ways = ((most, r"\s+"), (2 * size, r"\Z"), (most, r"[.!?…。！？．｡।॥؟]+[”’」』）)]*"), (most, r"[,;、，；：]"))
    cuts = "|".join(rf".{{{size},{reach}}}?{end}" for reach, end in ways)
    return re.findall(rf"(?s){cuts}|.{{{size}}}|.+", text)


def passages(lines: Iterable[str]) -> Iterator[str]:
    """Lines joined up to the first blank one after 4,000 characters."""
    passage: list[str] = []
    length = 0
    for line in lines:
        passage.append(line)
        length += len(line)
        if length >= _PASSAGE and not line.strip():
            yield "".join(passage)
            passage, length = [], 0
    if passage:
        yield "".join(passage)


def _articles(lines: Iterable[str]) -> Iterator[str]:
    # The blank line after a title tells it from a broken line such as " = Played , W = "; so read, WikiText-2 has
    # the 600, 60 and 60 articles that its authors count (Merity et al. 2016, table 1).
    article: list[str] = []
    for line, following in itertools.pairwise(itertools.chain(lines, [""])):
        if _TITLE.fullmatch(line) and not following.strip() and any(map(str.strip, article)):
            yield "".join(article)
            article = []
        article.append(line)
    yield "".join(article)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    for blank, group in itertools.groupby(lines, key=lambda line: not line.strip()):
        if not blank:
            yield "".join(group).strip()


_CUTS = {
    "article": _articles,
    "passage": passages,
    "paragraph": _paragraphs,
    "line": lambda lines: (line.strip() for line in lines),
    "file": lambda lines: ["".join(lines)],
    "marked": lambda lines: ["".join(lines).strip()],
}


@contextlib.contextmanager
def quiet_in_logs() -> Iterator[None]:
    """No progress bars of ``datasets`` where nobody sees them move."""
    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
