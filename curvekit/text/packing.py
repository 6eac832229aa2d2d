"""Documents to one stream of tokens on disk, and the stream to examples of equal length: packed, or padded.

Each document follows the end-of-text token, so that a model sees where one begins::

    <eos> first document <eos> second document ...   ->   [block 0][block 1] ... and a rest shorter than a block
                                                     ->   [<eos> first document <eos> padding]
                                                          [<eos> second docume] and its rest is cut off

Packing loses nothing and fills every place; padding gives each document its own example and nothing before it.

The stream is a safetensors file of the tensors ``tokens`` and ``starts``, where each document begins. It does not
depend on the length of the examples, which are only how it is read; its metadata hold the fingerprint of the texts
and the tokeniser that made it, and a digest of both tensors.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import time
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from curvekit.errors import CurvekitError
from curvekit.files import write_atomically
from curvekit.ownership import marker
from curvekit.text.corpora import Revision, text_revision
from curvekit.text.fast_bpe import Unlike, fast_bpe, forget
from curvekit.text.tokenization import encodable, start_token

_HEADER = 512  # bytes before the first token: the length of the JSON header, the header, spaces
_BATCH = 2**19  # characters tokenised at a time
_PIECE = 2**14  # characters after which a document is cut at the next safe place
# A space between two letters: every byte-level tokeniser in use starts a new word there, so that a cut before the
# space changes no token. Scripts that write no spaces are not cut.
_SAFE = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")
_DTYPES: dict[str, np.dtype] = {"U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8")}


class _Examples(torch.utils.data.Dataset):
    """Examples of one length, read from a token stream as they are asked for.

    Attributes:
        tokens: how many tokens the stream holds.
        block_size: tokens an example.
        path: the stream's file, or None where it has no name.

    A pickled copy, as a worker of a DataLoader gets, opens the file again; without a path it carries the tokens.
    """

    def __init__(self, stream: np.ndarray, starts: np.ndarray, block_size: int, path: Path | None = None) -> None:
        self.stream = stream  # (tokens,)
        self.starts = starts  # (documents,)
        self.block_size = block_size
        self.path = path

    @property
    def tokens(self) -> int:
        return len(self.stream)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"tokens": self.tokens}
        carried = (np.array(self.stream), np.array(self.starts)) if self.path is None else (None, None)
        return state | dict(zip(("stream", "starts"), carried, strict=True))

    def __setstate__(self, state: dict[str, Any]) -> None:
        tokens = state.pop("tokens")
        self.__dict__ |= state
        if self.path is not None:
            self.stream, self.starts = opened(self.path)
        if self.tokens != tokens:
            raise CurvekitError(f"{self.path} was written anew with other tokens; pack the corpus again")


class PackedBlocks(_Examples):
    """Blocks of a token stream: item ``i`` is ``{"input_ids": LongTensor (block_size,), "labels": the same}``."""

    def __init__(
        self,
        stream: np.ndarray,
        starts: np.ndarray,
        block_size: int,
        path: Path | None = None,
        name: str = "the corpus",
    ) -> None:
        if len(stream) < block_size:
            raise too_short(len(stream), block_size, name)
        super().__init__(stream, starts, block_size, path)

    def __len__(self) -> int:
        return self.tokens // self.block_size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        index = range(len(self))[index]  # negative indices, and the IndexError that ends a loop
        block = self.stream[index * self.block_size : (index + 1) * self.block_size]
        ids = torch.from_numpy(block.astype(np.int64))
        return {"input_ids": ids, "labels": ids.clone()}


class PaddedExamples(_Examples):
    """Documents of a token stream, one an example, cut or padded on the right to ``block_size``.

    Item ``i`` is ``{"input_ids", "attention_mask", "labels"}``, each a LongTensor (block_size,): the end-of-text
    token, the document, and the end-of-text token again where there is room, so that a model learns where texts end.
    Padding has attention 0 and label -100, which no loss counts.

    Attributes:
        cut: how many documents were longer than an example.
        tokens_cut: how many of their tokens no example holds.
    """

    def __init__(
        self, stream: np.ndarray, starts: np.ndarray, block_size: int, path: Path | None = None, *, end: int
    ) -> None:
        super().__init__(stream, starts, block_size, path)
        self.end = end
        longer = np.maximum(0, np.diff(starts, append=len(stream)).astype(np.int64) - block_size)
        self.cut, self.tokens_cut = int(np.count_nonzero(longer)), int(longer.sum())

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        index = range(len(self))[index]
        begin = int(self.starts[index])
        end = int(self.starts[index + 1]) if index + 1 < len(self) else self.tokens
        document = np.append(self.stream[begin : min(end, begin + self.block_size)].astype(np.int64), self.end)
        real = torch.arange(self.block_size) < len(document)
        ids = torch.full((self.block_size,), self.end)  # any token will do where nothing looks
        ids[real] = torch.from_numpy(document[: self.block_size])
        return {"input_ids": ids, "attention_mask": real.long(), "labels": ids.masked_fill(~real, -100)}

    def __str__(self) -> str:
        return (
            f"{self.cut:,} of {len(self):,} documents are longer than {self.block_size:,} tokens and were cut: "
            f"{self.tokens_cut / self.tokens:.0%} of all tokens are left out"
        )


def pack(
    texts: Iterable[str],
    tokenizer: Any,
    block_size: int,
    path: str | Path | None = None,
    progress: bool = True,
    name: str = "the corpus",
) -> PackedBlocks:
    """Tokenise documents into one stream and return its blocks; nothing is lost but the last partial block.

    The memory this takes does not grow with the corpus, nor with the length of a document in which words are
    separated by spaces. The file appears whole or not at all, and is used again by later calls with the same texts
    and the same tokeniser.

    Args:
        texts: documents, or a ``datasets.Dataset`` with a column ``text``.
        tokenizer: a tokeniser of transformers with an end-of-text token.
        block_size: tokens a block.
        path: the file of the stream; None for an unnamed temporary file.
        progress: a bar in a terminal, a line every ten seconds in a log.
        name: what an error calls the documents, such as "the validation split".

    Raises:
        CurvekitError: fewer tokens than one block, a tokeniser without an end-of-text token, or a file at ``path``
            that holds something else.
    """
    stream, starts, named = _stream(texts, tokenizer, block_size, path, progress, block_size, name)
    return PackedBlocks(stream, starts, block_size, named, name)


def pad(
    texts: Iterable[str],
    tokenizer: Any,
    block_size: int,
    path: str | Path | None = None,
    progress: bool = True,
    name: str = "the corpus",
) -> PaddedExamples:
    """As ``pack``, with a document an example, cut or padded to ``block_size`` tokens; both read the same file.

    Prefer ``pack`` for long documents, of which this drops the rest, and for short ones, which it drowns in padding.
    """
    stream, starts, named = _stream(texts, tokenizer, block_size, path, progress, 2, name)
    return PaddedExamples(stream, starts, block_size, named, end=start_token(tokenizer))


def _stream(
    texts: Iterable[str],
    tokenizer: Any,
    block_size: int,
    path: str | Path | None,
    progress: bool,
    least: int,
    name: str,
) -> tuple[np.ndarray, np.ndarray, Path | None]:
    """The tokens and where documents begin, from the file at ``path`` if it has them, else written now."""
    if block_size < 2:
        raise CurvekitError(f"a block of {block_size} tokens leaves nothing to predict; expected 2 or more")
    if isinstance(texts, str | dict):
        raise TypeError("pack takes the documents of one split, for example corpus['train']")
    if "text" in (getattr(texts, "column_names", None) or []):
        texts = texts["text"]  # type: ignore[index]
    if path is None:
        with tempfile.TemporaryFile() as file:
            _write(file, texts, tokenizer, least, progress, name)
            return *opened(file), None
    path = Path(path)
    try:
        known = _metadata(path)
    except CurvekitError:
        if marker(path.parent).get("kind") != "tokens":
            raise
        known = {"digest": "of a file that can be made again"}
    repeatable = iter(texts) is not texts
    if "digest" in known and known["digest"] != _digest(path):
        warnings.warn(f"{path} is damaged; it is made again from the corpus", stacklevel=3)
        known = {}
    if not (
        repeatable
        and "digest" in known
        and known.get("tokenizer") == tokenizer_fingerprint(tokenizer)
        and known.get("texts") == text_revision(texts)
    ):
        write_atomically(path, lambda file: _write(file, texts, tokenizer, least, progress, name))
    return *opened(path), path


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """12 hexadecimal digits that change with anything that changes a tokeniser's tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: dict[str, Any] = {"class": type(tokenizer).__name__, "vocabulary": sorted(tokenizer.get_vocab().items())}
    else:  # the last call's padding and truncation are part of its state, not of its rules
        rules = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    rules["prefix"] = start_token(tokenizer)
    rules |= getattr(tokenizer, "dice", {})  # of one that draws
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:12]


def _write(file: IO[bytes], texts: Iterable[str], tokenizer: Any, least: int, progress: bool, name: str) -> None:
    """Write the stream after a header, which is filled in when the number of tokens is known."""
    kind = "U16" if len(tokenizer) <= 2**16 else "U32"
    prefix, revision, count, starts = start_token(tokenizer), Revision(), 0, array("Q")
    digest, fingerprint = hashlib.sha256(), tokenizer_fingerprint(tokenizer)
    cut = _cutter(tokenizer, fingerprint)

    def put(numbers: Any, dtype: str) -> None:
        content = np.array(numbers, _DTYPES[dtype]).tobytes()
        digest.update(content)
        file.write(content)

    file.write(bytes(_HEADER))
    for batch in _batches(encodable(_watched(texts, revision, progress))):
        encoded = cut([piece for piece, _ in batch])
        for (_, begins), ids in zip(batch, encoded, strict=True):
            if begins:
                starts.append(count)
                put([prefix], kind)
            put(ids, kind)
            count += begins + len(ids)
    if count < least:
        raise too_short(count, least, name)
    put(starts, "U64")
    size, whole = count * _DTYPES[kind].itemsize, count * _DTYPES[kind].itemsize + 8 * len(starts)
    header = {
        "__metadata__": {
            "texts": str(revision),
            "tokenizer": fingerprint,
            "digest": digest.hexdigest(),
        },
        "tokens": {"dtype": kind, "shape": [count], "data_offsets": [0, size]},
        "starts": {"dtype": "U64", "shape": [len(starts)], "data_offsets": [size, whole]},
    }
    file.seek(0)
    file.write((_HEADER - 8).to_bytes(8, "little") + json.dumps(header).encode().ljust(_HEADER - 8))
    file.flush()


def _cutter(tokenizer: Any, fingerprint: str) -> Callable[[list[str]], Iterable[list[int]]]:
    """What gives the token ids of each text."""
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return lambda texts: tokenizer(texts, **options)["input_ids"]
    tokenizer([""], **options)  # takes back what an earlier call set of padding and truncation
    encode = tokenizer.backend_tokenizer.encode_batch_fast

    def usual(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in encode(list(texts), add_special_tokens=False)]

    def cut(texts: list[str]) -> list[list[int]]:
        # Of copies, for what reads a text from outside of Python leaves its UTF-8 in it as long as it lives.
        copies = [text.encode().decode() for text in texts]
        if fast := fast_bpe(tokenizer, fingerprint):
            try:
                return fast.encode(copies, usual)
            except Unlike:
                forget(fingerprint)
        return usual(copies)

    return cut


def _watched(texts: Iterable[str], revision: Revision, progress: bool) -> Iterator[str]:
    """The texts, entered in their revision and shown to the user as they pass."""
    bar = tqdm(texts, desc="packing", unit=" documents", leave=False, disable=None if progress else True)
    due = time.monotonic() + 10
    for done, text in enumerate(bar):
        if progress and bar.disable and time.monotonic() > due:
            print(f"packing: {done:,} documents", file=sys.stderr, flush=True)
            due += 10
        revision.add(text)
        yield text


def _batches(texts: Iterable[str]) -> Iterator[list[tuple[str, bool]]]:
    """Pieces of documents, each with whether it begins one, in batches of about the same number of characters."""
    batch: list[tuple[str, bool]] = []
    size = 0
    for text in texts:
        for number, piece in enumerate(_pieces(text)):
            batch.append((piece, number == 0))
            size += len(piece)
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _PIECE and (cut := _SAFE.search(text, start + _PIECE)):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def stream_of(path: str | Path, texts: Iterable[str], tokenizer: Any) -> np.ndarray:
    """The tokens of the stream at ``path`` as they were written; where none is, those of ``texts``."""
    if is_stream(Path(path)):
        return opened(Path(path))[0]
    return _stream(texts, tokenizer, 2, None, False, 0, "the corpus")[0]


def is_stream(path: Path) -> bool:
    """Whether a file is a token stream."""
    try:
        _metadata(path)
    except CurvekitError:
        return False
    return path.is_file()


def is_whole(path: Path) -> bool:
    """Whether a file is a token stream, to its last byte."""
    return is_stream(path) and bool(_metadata(path))


def _metadata(path: Path) -> dict[str, str]:
    """What made the stream at ``path``; nothing where there is no file or it is cut off."""
    if not path.exists() or not path.stat().st_size:
        return {}
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(_HEADER)[8:])
        made, _ = header["__metadata__"], header["tokens"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CurvekitError(f"{path} is no token stream and would be overwritten; name another file") from error
    if "starts" not in header:  # of an earlier version
        return {}
    return made if path.stat().st_size == _HEADER + header["starts"]["data_offsets"][1] else {}


def _digest(path: Path) -> str:
    """The SHA-256 of what stands behind the header."""
    with path.open("rb") as file:
        file.seek(_HEADER)
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(source: Path | IO[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The tokens and the starts as arrays that are read from disk where they are looked at."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return opened(file)
    source.seek(0)
    header = json.loads(source.read(_HEADER)[8:])
    tokens, starts = (
        np.memmap(
            source,
            _DTYPES[header[name]["dtype"]],
            "r",
            offset=_HEADER + header[name]["data_offsets"][0],
            shape=tuple(header[name]["shape"]),
        )
        for name in ("tokens", "starts")
    )
    return tokens, starts


def too_short(tokens: int, block_size: int, name: str) -> CurvekitError:
    fitting = f", or a block_size of at most {tokens:,}" if tokens >= 2 else ""
    return CurvekitError(
        f"{name} has {tokens:,} tokens, fewer than one block of {block_size:,}; take a larger corpus{fitting}"
    )
