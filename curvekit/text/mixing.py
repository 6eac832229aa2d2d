"""Several corpora as one training text: languages by a sampling temperature, or a share of what must not be forgotten.

The first corpus stands in the mixture once, whole; of the others as much is drawn as their shares ask, a document as
often as need be. Shares count UTF-8 bytes. A corpus without a given one takes its part of what is left by size,

    share_l = size_l^(1/T) / sum_k size_k^(1/T),

so that at temperature T = 1 every text counts alike and at a large T every language does (Devlin 2018 used 1/T = 0.7,
XLM-R 0.3). The draw does not depend on a run's seed: all seeds read the same text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, DatasetDict, concatenate_datasets

from curvekit.errors import CurvekitError
from curvekit.text.corpora import load_corpus
from curvekit.text.documents import Announce
from curvekit.text.duplicates import find_duplicates


class Ingredient(NamedTuple):
    """A further corpus, and its share of the mixture if one is given."""

    corpus: str
    share: float | None


def parse_mix(text: str) -> list[Ingredient]:
    """``wikitext-2=0.25`` or ``texts/de,texts/es``, commas or line ends between them.

    Raises:
        CurvekitError: no corpus, one twice, or shares that are not above 0 and together below 1.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        name, equals, share = part.rpartition("=")
        try:
            found.append(Ingredient(name, float(share)) if equals else Ingredient(part, None))
        except ValueError as error:
            raise CurvekitError(f"mix has {part!r}; give CORPUS or CORPUS=SHARE, such as wikitext-2=0.25") from error
    names = [each.corpus for each in found]
    if not found or not all(names):
        raise CurvekitError(f"mix is {text!r} and names no corpus; give CORPUS or CORPUS=SHARE, or leave it out")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CurvekitError(f"mix names {twice!r} twice; name it once")
    given = [each.share for each in found if each.share is not None]
    if not all(0 < share < 1 for share in given) or sum(given) >= 1:
        raise CurvekitError(f"mix is {text!r}; give shares above 0 that leave the corpus itself some, together below 1")
    return found


def shares(sizes: Sequence[int], given: Sequence[float | None], temperature: float = 1.0) -> list[float]:
    """The share of each corpus, of which some are given; the others by the formula above, 1 together."""
    weights = [
        None if share is not None else size ** (1 / temperature) for size, share in zip(sizes, given, strict=True)
    ]
    total = sum(weight for weight in weights if weight is not None)
    left = 1 - sum(share for share in given if share is not None)
    return [
        float(share) if weight is None else left * weight / total  # type: ignore[arg-type]
        for share, weight in zip(given, weights, strict=True)
    ]


def load_mixed(
    name: str,
    data_dir: str | Path | None = None,
    mix: str | None = None,
    temperature: float = 1.0,
    announce: Announce = lambda text: None,
) -> DatasetDict:
    """A corpus, with ``mix`` in its training text; its held-out texts are its own.

    Of what is mixed in, documents that a held-out split of the corpus holds are left out.

    Raises:
        CurvekitError: as :func:`curvekit.text.load_corpus` and :func:`parse_mix`.
    """
    corpus = load_corpus(name, data_dir, announce=announce)
    if mix is None:
        return corpus
    further = parse_mix(mix)
    texts = [corpus["train"]]
    for each in further:
        rows = load_corpus(each.corpus, announce=announce)["train"]
        held_out = [text for split in ("validation", "test") for text in corpus[split]["text"]]
        if gone := {found.text for found in find_duplicates(rows["text"], held_out)}:
            announce(f"{each.corpus}: {len(gone):,} documents that stand in held-out text of {name} left out")
            if len(gone) == rows.num_rows:
                raise CurvekitError(
                    f"every document of {each.corpus} stands in held-out text of {name}; mix another in"
                )
            rows = rows.select([row for row in range(rows.num_rows) if row not in gone])
        texts.append(rows)
    parts = shares([size_of(rows) for rows in texts], [None, *(each.share for each in further)], temperature)
    names = (name, *(each.corpus for each in further))
    announce("mixed: " + ", ".join(f"{Path(each).name} {part:.1%}" for each, part in zip(names, parts, strict=True)))
    corpus["train"] = mixed(texts, parts)
    return corpus


def size_of(rows: Dataset) -> int:
    """UTF-8 bytes of all texts."""
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in rows["text"])


def mixed(corpora: Sequence[Dataset], wanted: Sequence[float], seed: int = 0) -> Dataset:
    """The first corpus once, and of each other as many documents as bring it nearest to its share, in one random order.

    Raises:
        CurvekitError: a corpus without text.
    """
    sizes = [size_of(rows) for rows in corpora]
    if not all(sizes):
        raise CurvekitError("a corpus of the mixture has no text; leave it out")
    whole = sizes[0] / wanted[0]
    dice = random.Random(seed)
    chosen: list[int] = list(range(corpora[0].num_rows))
    offset = corpora[0].num_rows
    for rows, share in zip(corpora[1:], wanted[1:], strict=True):
        lengths = [len(text.encode("utf-8", "surrogatepass")) for text in rows["text"]]
        room, order = share * whole, list(range(rows.num_rows))
        while room > 0:
            dice.shuffle(order)
            for row in order:
                if room < lengths[row] / 2:  # nearer without it
                    room = 0
                    break
                chosen.append(offset + row)
                room -= lengths[row]
        offset += rows.num_rows
    dice.shuffle(chosen)
    return concatenate_datasets(list(corpora)).select(chosen)
