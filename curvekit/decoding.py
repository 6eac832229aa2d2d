"""Files to characters: one rule for encodings, marks and line ends, for corpora, prompts, settings and notebooks.

Text is UTF-8. Byte-order marks (U+FEFF) go wherever they stand: joined files have one in the middle, and Unicode has
kept no other use of them since 3.2. Lines end in ``\\n``, ``\\r\\n`` or ``\\r`` alike; what else Unicode has of
separators stays in the text. What is no UTF-8 is refused, with what its bytes look like. Only regular files are opened:
a pipe would be waited for, and a device may have no end.
"""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from curvekit.errors import CurvekitError

MARK = "\ufeff"

_RETURNS = re.compile(r"\r+\n|\r")
_SAMPLE = 2**24  # bytes that are looked at to say what an encoding is
_NOT_IN_CP1252 = {0x81, 0x8D, 0x8F, 0x90, 0x9D}
_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def open_regular(path: str | Path) -> BinaryIO:
    """The file, open for reading bytes.

    Raises:
        CurvekitError: it is a folder, a pipe, a socket or a device, or cannot be read. A missing file raises
            ``FileNotFoundError``, of which callers know more.
    """
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            raise CurvekitError(f"cannot read {path}: it is a folder; name a file")
        if not stat.S_ISREG(mode):
            raise CurvekitError(f"cannot read {path}: it is no regular file but {_kind(mode)}; name a file on a disk")
        return Path(path).open("rb")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, CurvekitError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise CurvekitError(f"cannot read {path}: {reason}; name a file that can be read") from error


def _kind(mode: int) -> str:
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a file, each with its ``\\n``, one at a time.

    Raises:
        CurvekitError: it cannot be read, is UTF-16, holds a NUL byte, or a byte that is not UTF-8, with its offset.
    """
    try:
        with open_regular(path) as file:
            if wide := _wide(file.read(4096)):
                raise _converted(path, wide)
            file.seek(0)
            place = 0
            for number, line in enumerate(file, start=1):
                if (nul := line.find(b"\0")) >= 0:
                    raise _binary(path, place + nul, number)
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    file.seek(0)
                    raise _not_utf8(path, file.read(max(_SAMPLE, place + len(line))), place, number, error) from error
                yield from [text] if text.isascii() and "\r" not in text else io.StringIO(even(text))
                place += len(line)
    except OSError as error:
        raise CurvekitError(f"cannot read {path}: {error.strerror or error}; name a file that can be read") from error


def read_whole(path: str | Path) -> str:
    """The text of a file, as :func:`read_lines` reads it."""
    return "".join(read_lines(path))


def decoded(data: bytes, source: str | Path) -> str:
    """The text of ``data``, by the same rule; ``source`` is what messages call it."""
    if wide := _wide(data[:4096]):
        raise _converted(source, wide)
    if (nul := data.find(b"\0")) >= 0:
        raise _binary(source, nul, data.count(b"\n", 0, nul) + 1)
    try:
        return even(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(source, data, 0, data.count(b"\n", 0, error.start) + 1, error) from error


def even(text: str) -> str:
    """A text without byte-order marks and with ``\\n`` at the ends of its lines; a cell or a string is one too."""
    text = text.replace(MARK, "") if MARK in text else text
    return _RETURNS.sub("\n", text) if "\r" in text else text


def _wide(head: bytes) -> str | None:
    """``UTF-16`` or ``UTF-32`` where the first bytes look like it, with a mark or without."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    if len(head) < 8:
        return None
    first, second = (head[side::2].count(0) / len(head[side::2]) for side in (0, 1))
    if head.count(0) > 0.7 * len(head):
        return "UTF-32"
    if max(first, second) > 0.4 and min(first, second) < 0.02:  # Latin letters have a NUL on one side, text on neither
        return "UTF-16LE" if second > first else "UTF-16BE"
    return None


def _converted(source: str | Path, encoding: str) -> CurvekitError:
    return CurvekitError(
        f"{source} is {encoding} text, expected UTF-8; "
        f"convert it, for example with iconv -f {encoding.lower()} -t utf-8"
    )


def _binary(source: str | Path, offset: int, line: int) -> CurvekitError:
    return CurvekitError(
        f"{source} is a binary file (it holds a NUL byte at offset {offset:,}, in line {line:,}), expected UTF-8 text; "
        "name a text file, or take the byte out"
    )


def _not_utf8(source: str | Path, data: bytes, place: int, line: int, error: UnicodeDecodeError) -> CurvekitError:
    offset = place + error.start
    found = f"byte 0x{error.object[error.start]:02x} at offset {offset:,}, in line {line:,}"
    if error.reason == "unexpected end of data" and len(data) <= place + len(error.object):
        return CurvekitError(f"{source} is not UTF-8: {found}, where it ends inside of a character; restore it")
    return CurvekitError(f"{source} is not UTF-8: {found}; {_advice(data)}")


def _advice(data: bytes) -> str:
    """How to convert what is no UTF-8, by what its bytes are."""
    rest = data.decode("utf-8", "ignore")
    whole = sum(not character.isascii() for character in rest)
    wrong = len(data) - len(rest.encode())
    if whole > wrong:
        return "the rest of it is UTF-8: mend this place, or convert the part that another program wrote"
    high = {byte for byte in data if byte >= 0x80}
    dense = sum(byte >= 0x80 for byte in data) > 0.4 * max(1, len(data.translate(None, b" \t\r\n")))
    if dense or high & _NOT_IN_CP1252:
        return (
            "find out its encoding and convert it, for example with iconv -f ENCODING -t utf-8 "
            "(often cp1251 or koi8-r for Russian, gb18030 for Chinese, shift_jis for Japanese)"
        )
    encoding = "cp1252" if any(byte < 0xA0 for byte in high) else "latin1"
    return f"convert it, for example with iconv -f {encoding} -t utf-8"
