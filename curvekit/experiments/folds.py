"""Cross-validation over documents: which are held out in which fold, and their tokens, cut once for all trials.

Folds are of documents and never of blocks, which hold the end of one document and the beginning of the next. Copies
are out before there is a fold: of test documents all, and of a fold's held-out documents those that would train in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from curvekit.errors import CurvekitError
from curvekit.files import read_json, write_json
from curvekit.text.corpora import text_revision
from curvekit.text.duplicates import find_duplicates
from curvekit.text.packing import PackedBlocks, PaddedExamples, pack, tokenizer_fingerprint, too_short
from curvekit.text.tokenization import encodable, start_token
from curvekit.training.lean import Documents, TokenSet

FOLDS = {"texts": str, "folds": int, "seed": int, "held": [[int]], "trained": [[int]], "removed": int}


class Folds:
    """The documents of a search, training and validation text together, and what each fold makes of them.

    Attributes:
        texts: all documents, those that repeat a test document among them.
        held, trained: for each fold the numbers of the documents that are held out, and of those that train.
        removed: how many documents no fold has, being copies of test documents.
    """

    def __init__(self, corpus: DatasetDict, folds: int, seed: int, path: Path) -> None:
        self.texts = [text for split in ("train", "validation") for text in corpus[split]["text"] if text.strip()]
        revision = text_revision([*self.texts, "held out:", *corpus["test"]["text"]])
        known = read_json(path, shape=FOLDS) if path.exists() else {}
        if (known.get("texts"), known.get("folds"), known.get("seed")) != (revision, folds, seed):
            if known:
                raise CurvekitError(
                    f"{path} is of other documents or folds; restore the corpus, or choose another folder"
                )
            known = _divided(self.texts, list(corpus["test"]["text"]), folds, seed) | {"texts": revision}
            write_json(path, known)
        self.held: list[list[int]] = known["held"]
        self.trained: list[list[int]] = known["trained"]
        self.removed: int = known["removed"]

    def __len__(self) -> int:
        return len(self.held)


def _divided(texts: Sequence[str], test: Sequence[str], folds: int, seed: int) -> dict[str, Any]:
    """The folds, after duplicates are gone."""
    copies = {each.text for each in find_duplicates(texts, test)}
    kept = [number for number in range(len(texts)) if number not in copies]
    if not 2 <= folds <= len(kept):
        raise CurvekitError(
            f"{folds} folds of {len(kept)} documents; give 2 or more, and no more than there are documents"
        )
    order = np.random.default_rng(seed).permutation(kept)
    held = [sorted(order[fold::folds].tolist()) for fold in range(folds)]
    trained = []
    for each in held:
        rest = sorted(set(kept) - set(each))
        again = {rest[found.text] for found in find_duplicates([texts[i] for i in rest], [texts[i] for i in each])}
        trained.append([number for number in rest if number not in again])
    return {"folds": folds, "seed": seed, "held": held, "trained": trained, "removed": len(copies)}


class FoldTokens:
    """The documents as tokens, cut once and kept; what a fold trains on and is scored on are views of them."""

    def __init__(self, folds: Folds, tokenizer: Any, path: Path, corpus: str, most: int | None) -> None:
        self.folds, self.tokenizer, self.most = folds, tokenizer, most
        packed = pack(folds.texts, tokenizer, 2, path, name="the corpus")
        self.stream, self.starts = packed.stream, packed.starts
        self.ends = np.append(self.starts[1:], len(self.stream)).astype(np.int64)
        self.facts: dict[str, Any] = {
            "prefix": start_token(tokenizer),
            "vocabulary": len(tokenizer),
            "tokenizer_hash": tokenizer_fingerprint(tokenizer),
            "corpus": corpus,
            "revisions": {"fold": text_revision(folds.texts)},
        }
        self._streams: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._held: dict[int, TokenSet] = {}

    def examples(self, fold: int, block_size: int, padded: bool = False) -> PackedBlocks | PaddedExamples:
        """What trains in a fold."""
        if fold not in self._streams:
            pieces = [self.stream[self.starts[i] : self.ends[i]] for i in self.folds.trained[fold]]
            if not pieces:
                raise too_short(0, block_size, f"fold {fold}")
            self._streams[fold] = (
                np.concatenate(pieces),
                np.cumsum([0, *(len(piece) for piece in pieces[:-1])]).astype(np.uint64),
            )
        stream, starts = self._streams[fold]
        if padded:
            return PaddedExamples(stream, starts, block_size, end=self.facts["prefix"])
        return PackedBlocks(stream, starts, block_size, name=f"what trains in fold {fold}")

    def held_out(self, fold: int) -> TokenSet:
        """What a fold is scored on, at most so many documents."""
        if fold not in self._held:
            numbers = self.folds.held[fold][: self.most]
            texts = list(encodable(self.folds.texts[i] for i in numbers))
            pieces = [self.stream[self.starts[i] + 1 : self.ends[i]] for i in numbers]  # without the end-of-text token
            self._held[fold] = TokenSet(
                np.zeros(0, np.int64),
                {
                    "fold": Documents(
                        ids=np.concatenate(pieces),
                        starts=np.cumsum([0, *(len(piece) for piece in pieces[:-1])]),
                        words=np.array([len(text.split()) for text in texts]),
                        bytes=np.array([len(text.encode()) for text in texts]),
                        sources=[str(i) for i in numbers],
                    )
                },
                self.facts,
            )
        return self._held[fold]
