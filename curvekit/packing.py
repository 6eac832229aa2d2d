"""Documents to one stream of tokens on disk, and the stream to blocks of equal length.

Each document follows the end-of-text token, so that a model sees where one begins::

    <eos> first document <eos> second document ...   ->   [block 0][block 1] ... and a rest shorter than a block

The stream is a safetensors file of one tensor ``tokens``. It does not depend on the block size, which is only how
it is read; its metadata hold the fingerprint of the texts and the tokeniser that made it.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

from curvekit.corpora import Revision, text_revision
from curvekit.errors import CurvekitError
from curvekit.files import write_atomically

_HEADER = 512  # bytes before the first token: the length of the JSON header, the header, spaces
_BATCH = 2**19  # characters tokenised at a time
_PIECE = 2**14  # characters after which a document is cut at the next safe place
# A space between two letters: every byte-level tokeniser in use starts a new word there, so that a cut before the
# space changes no token. Scripts that write no spaces are not cut.
_SAFE = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")
_DTYPES: dict[str, np.dtype] = {"U16": np.dtype("<u2"), "U32": np.dtype("<u4")}


class PackedBlocks(torch.utils.data.Dataset):
    """Blocks of a token stream: item ``i`` is ``{"input_ids": LongTensor (block_size,), "labels": the same}``.

    Attributes:
        tokens: how many tokens the stream holds, the last partial block included.
        block_size: tokens a block.
        path: the stream's file, or None where it has no name.

    Blocks are read from disk as they are asked for. A pickled copy, as a worker of a DataLoader gets, opens the
    file again; without a path it carries the tokens.
    """

    def __init__(self, stream: np.ndarray, block_size: int, path: Path | None = None) -> None:
        if len(stream) < block_size:
            raise _too_short(len(stream), block_size)
        self.stream = stream  # (tokens,)
        self.block_size = block_size
        self.path = path

    @property
    def tokens(self) -> int:
        return len(self.stream)

    def __len__(self) -> int:
        return self.tokens // self.block_size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        index = range(len(self))[index]  # negative indices, and the IndexError that ends a loop
        block = self.stream[index * self.block_size : (index + 1) * self.block_size]
        ids = torch.from_numpy(block.astype(np.int64))
        return {"input_ids": ids, "labels": ids.clone()}

    def __getstate__(self) -> dict[str, Any]:
        stream = np.array(self.stream) if self.path is None else None
        return {"block_size": self.block_size, "path": self.path, "tokens": self.tokens, "stream": stream}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.block_size, self.path = state["block_size"], state["path"]
        self.stream = state["stream"] if self.path is None else _open(self.path)
        if self.tokens != state["tokens"]:
            raise CurvekitError(f"{self.path} was written anew with other tokens; pack the corpus again")


def pack(
    texts: Iterable[str],
    tokenizer: Any,
    block_size: int,
    path: str | Path | None = None,
    progress: bool = True,
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

    Raises:
        CurvekitError: fewer tokens than one block, a tokeniser without an end-of-text token, or a file at ``path``
            that holds something else.
    """
    if block_size < 2:
        raise CurvekitError(f"a block of {block_size} tokens leaves nothing to predict; expected 2 or more")
    if isinstance(texts, str | dict):
        raise TypeError("pack takes the documents of one split, for example corpus['train']")
    if "text" in (getattr(texts, "column_names", None) or []):
        texts = texts["text"]  # type: ignore[index]
    if path is None:
        with tempfile.TemporaryFile() as file:
            _write(file, texts, tokenizer, block_size, progress)
            return PackedBlocks(_open(file), block_size)
    path = Path(path)
    known = _metadata(path)
    repeatable = iter(texts) is not texts
    if (
        repeatable
        and known.get("tokenizer") == tokenizer_fingerprint(tokenizer)
        and known.get("texts") == text_revision(texts)
    ):
        return PackedBlocks(_open(path), block_size, path)
    write_atomically(path, lambda file: _write(file, texts, tokenizer, block_size, progress))
    return PackedBlocks(_open(path), block_size, path)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """12 hexadecimal digits that change with anything that changes a tokeniser's tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: dict[str, Any] = {"class": type(tokenizer).__name__, "vocabulary": sorted(tokenizer.get_vocab().items())}
    else:  # the last call's padding and truncation are part of its state, not of its rules
        rules = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    rules["prefix"] = _prefix(tokenizer)
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:12]


def _prefix(tokenizer: Any) -> int:
    """The token before each document."""
    token = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if token is None:
        raise CurvekitError("the tokeniser has no end-of-text token to put between documents; set its eos_token")
    return token


def _write(file: IO[bytes], texts: Iterable[str], tokenizer: Any, block_size: int, progress: bool) -> None:
    """Write the stream after a header, which is filled in when the number of tokens is known."""
    kind = "U16" if len(tokenizer) <= 2**16 else "U32"
    prefix, revision, count = _prefix(tokenizer), Revision(), 0
    file.write(bytes(_HEADER))
    for batch in _batches(_watched(texts, revision, progress)):
        pieces = [piece for piece, _ in batch]
        encoded = tokenizer(pieces, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for (_, begins), ids in zip(batch, encoded["input_ids"], strict=True):
            tokens = np.array([prefix, *ids] if begins else ids, _DTYPES[kind])
            file.write(tokens.tobytes())
            count += len(tokens)
    if count < block_size:
        raise _too_short(count, block_size)
    size = count * _DTYPES[kind].itemsize
    header = {
        "__metadata__": {"texts": str(revision), "tokenizer": tokenizer_fingerprint(tokenizer)},
        "tokens": {"dtype": kind, "shape": [count], "data_offsets": [0, size]},
    }
    file.seek(0)
    file.write((_HEADER - 8).to_bytes(8, "little") + json.dumps(header).encode().ljust(_HEADER - 8))
    file.flush()


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


def _metadata(path: Path) -> dict[str, str]:
    """What made the stream at ``path``; nothing where there is no file or it is cut off."""
    if not path.exists() or not path.stat().st_size:
        return {}
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(_HEADER)[8:])
        made, expected = header["__metadata__"], _HEADER + header["tokens"]["data_offsets"][1]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CurvekitError(f"{path} is no token stream and would be overwritten; name another file") from error
    return made if path.stat().st_size == expected else {}


def _open(source: Path | IO[bytes]) -> np.ndarray:
    """The stream as an array that is read from disk where it is looked at."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _open(file)
    source.seek(0)
    tokens = json.loads(source.read(_HEADER)[8:])["tokens"]
    return np.memmap(source, _DTYPES[tokens["dtype"]], "r", offset=_HEADER, shape=tuple(tokens["shape"]))


def _too_short(tokens: int, block_size: int) -> CurvekitError:
    return CurvekitError(
        f"the corpus has {tokens:,} tokens, fewer than one block of {block_size:,}; "
        "take a larger corpus or a shorter block"
    )
