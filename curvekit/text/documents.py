"""Files to documents: text, JSON lines, CSV and Parquet as rows of ``text``, or one sentence on what is wrong.

What one document is, in text files (``.txt``, ``.raw``, ``.tokens``):

==========  ==================================================================================================
article     from one wikitext title (`` = Title = ``, a blank line after it) to the next
passage     4,000 characters or more, cut at a blank line: prose whose parts belong together
paragraph   what stands between blank lines
line        a line that is not blank
file        a whole file
story       from ``<sos>`` to ``<eos>``, as plain text and without a trailer, see ``curvekit.text.stories``
auto        story where the text begins with ``<sos>``, article where it begins with a wikitext title, else
            passage where blank lines separate its parts, else line
==========  ==================================================================================================

A row of a table is one document, but ``article`` reads it as a line, across the shards of a split, and ``story``, or
``auto`` where the first row begins with ``<sos>``, reads the stories in it. Joined, the articles, passages or files of
a text are the text again; lines and paragraphs lose the space around.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import itertools
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import datasets
from datasets import Dataset, Features, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError

from curvekit.errors import CurvekitError, first_line
from curvekit.text import stories
from curvekit.text.stories import StoryReport, is_story, read_stories

UNITS = ("auto", "article", "passage", "paragraph", "line", "file", "story")
TEXT = (".txt", ".raw", ".tokens")
TABLES = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}  # to builders
SUFFIXES = (*TEXT, *TABLES)
FEATURES = Features({"text": Value("string")})

Announce = Callable[[str], object]

_PASSAGE = 4000  # characters
_LARGE = 32 * 2**20  # bytes, above which a file does not lie in memory as a whole
_RETURNS = re.compile(r"\r+\n")
_TITLE = re.compile(r" ?= (?!= ).*(?<! =) = *\n?")
_log = logging.getLogger(__name__)


def as_dataset(texts: Iterable[str]) -> Dataset:
    """Texts as a dataset of one column ``text``, in memory."""
    return Dataset.from_dict({"text": list(texts)}, features=FEATURES)


def read_files(paths: Iterable[Path], unit: str = "auto", announce: Announce = _log.info) -> Dataset:
    """The documents of several files, in the order given. Rows and lines without text are left out.

    Raises:
        CurvekitError: a file is empty, binary, not UTF-8, cut off, or a table without a column ``text``; text outside
            of a story in a file of stories.
    """
    paths = list(paths)
    if unit == "article" and all(suffix(path) in TABLES for path in paths):
        return _read_articles(paths)
    return concatenate_datasets(
        [(read_table if suffix(path) in TABLES else read_text)(path, unit, announce) for path in paths]
    )


def suffix(path: Path) -> str:
    """The end of the name, which says what the file holds; ``STORY.TXT`` is text too."""
    return path.suffix.lower()


def read_text(path: Path, unit: str = "auto", announce: Announce = _log.info) -> Dataset:
    """The documents of one text file; ``announce`` is told what was cut from stories.

    Large files are memory-mapped from the cache of ``datasets``, unless they are one document.
    """
    unit = natural_unit(path) if unit == "auto" else unit
    if unit == "story":
        return _tell_stories(path, lambda: read_lines(path), announce)

    def texts() -> Iterator[str]:
        yield from (text for text in _CUTS[unit](read_lines(path)) if text.strip())

    rows = as_dataset(texts()) if unit == "file" else _mapped_if_large([path], texts, unit)
    if not rows.num_rows:
        raise CurvekitError(f"{path} is empty; name a file with text")
    return rows


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
        raise CurvekitError(f"{path} is empty{titles}; name a file with text")
    announce(f"{path}: {report}")
    return rows


def _mapped_if_large(paths: Sequence[Path], texts: Callable[[], Iterable[str]], unit: str) -> Dataset:
    """``texts()`` of these files: in memory, or of large ones memory-mapped."""
    if sum(path.stat().st_size for path in paths) < _LARGE:
        return as_dataset(texts())
    return cached(texts, f"{unit}-{_digest(paths)}")


def cached(texts: Callable[[], Iterable[str]], key: str) -> Dataset:
    """``texts()``, called the first time only, as a memory-mapped dataset in the cache of ``datasets``."""

    def rows() -> Iterator[dict[str, str]]:
        yield from ({"text": text} for text in texts())

    try:
        with quiet_in_logs():
            return Dataset.from_generator(rows, features=FEATURES, fingerprint=key)
    except (DatasetGenerationError, OSError) as error:
        if isinstance(error.__cause__, CurvekitError):
            raise error.__cause__ from None
        reason = error.__cause__ or error
        raise CurvekitError(
            f"cannot read {key} into the cache of datasets ({reason}); "
            "try again, or set HF_DATASETS_CACHE to a folder with room"
        ) from error


def _digest(paths: Sequence[Path]) -> str:
    """12 hexadecimal digits of files and of how they are read here."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for room in (__file__, stories.__file__):
        digest.update(Path(room).read_bytes())
    return digest.hexdigest()[:12]


def read_table(path: Path, unit: str = "auto", announce: Announce = _log.info) -> Dataset:
    """The column ``text`` of one file: a document a row; of articles a line a row; of stories those in its rows.

    Large files are memory-mapped from the cache of ``datasets``; nothing is written beside the file.
    """
    if unit == "article":
        return _read_articles([path])
    table = _table(path)
    kept = [row for row, text in enumerate(table["text"]) if text and text.strip()]
    if not kept:
        raise CurvekitError(f"{path} is empty: no row has text; name a file with documents")
    if unit == "story" or (unit == "auto" and is_story(table[kept[0]]["text"])):
        return _tell_stories(
            path, lambda: (f"{line}\n" for text in table["text"] for line in (text or "").split("\n")), announce
        )
    table = table.select_columns("text")
    table = table if len(kept) == table.num_rows else table.select(kept)
    return table if table.features == FEATURES else as_dataset(table["text"])


def _read_articles(paths: Sequence[Path]) -> Dataset:
    """The articles of tables that hold a line a row; one that goes on in the next shard is one."""
    tables = [_table(path) for path in paths]

    def texts() -> Iterator[str]:  # the hub's blank rows lack the space of the original files
        rows = (row or "" for table in tables for row in table["text"])
        lines = (f"{line or ' '}\n" for row in rows for line in row.removesuffix("\n").split("\n"))
        yield from (article for article in _articles(lines) if article.strip())

    rows = _mapped_if_large(paths, texts, "article")
    if not rows.num_rows:
        raise CurvekitError(f"{paths[0]} is empty: no row has text; name a file with articles")
    return rows


def _table(path: Path) -> Dataset:
    """The rows of a file that has a column ``text`` of strings."""
    ending = suffix(path)
    if not path.stat().st_size:
        raise CurvekitError(f"{path} is empty; name a file with documents")
    if ending != ".parquet":
        for _ in read_lines(path):  # says which byte is wrong, as the parsers do not
            pass
    options = {"keep_default_na": False} if ending == ".csv" else {}  # "None" and "NA" are words here
    try:
        with quiet_in_logs():
            builder, files = TABLES[ending], glob.escape(str(path.resolve()))
            table = load_dataset(builder, data_files=files, split="train", **options)
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise CurvekitError(
            f"{path} is cut off or is not {ending[1:]} ({reason}); restore or convert the file"
        ) from error
    if ending == ".csv" and any(name.startswith("__index_level_") for name in table.column_names):
        raise CurvekitError(f"{path} has more fields in its rows than names in its header; quote texts with commas")
    if ending == ".csv" and {"text", "text.1"} <= {*table.column_names}:  # so a second one is called
        raise CurvekitError(f"{path} has two columns 'text'; rename the one without the documents")
    if "text" not in table.column_names:
        names = ", ".join(map(repr, table.column_names))
        raise CurvekitError(f"{path} has no column 'text' (columns: {names}); rename the one with the documents")
    kind = getattr(table.features["text"], "dtype", "lists")
    if kind not in ("string", "large_string"):
        raise CurvekitError(f"the column 'text' of {path} holds {kind}, expected strings")
    return table


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, one at a time; a byte order mark goes, carriage returns end a line.

    Raises:
        CurvekitError: a NUL byte or a byte that is not UTF-8, with its offset.
    """
    place = 0
    try:
        with path.open("rb") as file:
            binary = b"\0" in file.read(8192)
            file.seek(0)
            for line in file:
                if binary or b"\0" in line:
                    raise CurvekitError(f"{path} is a binary file (it holds NUL bytes), expected UTF-8 text")
                text = line.decode("utf-8")
                text = text.removeprefix("\ufeff") if place == 0 else text
                yield from [text] if "\r" not in text else io.StringIO(_RETURNS.sub("\n", text), newline=None)
                place += len(line)
    except UnicodeDecodeError as error:
        raise CurvekitError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {place + error.start:,}; "
            "convert it, for example with iconv -f latin1 -t utf-8"
        ) from error
    except OSError as error:
        raise CurvekitError(f"cannot read {path}: {error.strerror or error}") from error


def natural_unit(path: Path) -> str:
    """What ``auto`` means for this text file."""
    lines = itertools.dropwhile(lambda line: not line.strip(), read_lines(path))
    first = next(lines, "")
    if is_story(first):
        return "story"
    if _TITLE.fullmatch(first):
        return "article"
    gap = False
    for line in lines:
        if gap and line.strip():
            return "passage"
        gap = gap or not line.strip()
    return "line"


def pieces(text: str) -> list[str]:
    """A text cut at any white space: about forty pieces of a short one, pieces of 4,000 characters of a long one."""
    size = max(1, min(_PASSAGE, len(text) // 40))
    return re.findall(rf"(?s).{{{size},}}?(?:\s+|\Z)|.+", text)


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
