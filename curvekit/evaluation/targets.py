r"""How well a model writes a target given its source: every token of the target scored once, and nothing of the source.

    bits a byte = - sum_i log2 p(y_i | x, y_<i) / bytes of y

A T5 reads the source x in the stack that reads. A model that continues text reads the same source, a line break and
then the target, or the two halves of a text as they follow each other: so the two kinds compare, where both read the
same source. With the perplexity of whole texts neither does, for there nothing was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from curvekit.causality import warn_if_leaking
from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import DENOMINATORS, LanguageModelScore, short_hash, signed
from curvekit.modes import evaluating
from curvekit.text.pairs import batched, source_ids, target_ids
from curvekit.text.tokenization import start_token

GIVEN = "the source"  # the signature's prefix
COMPARES = (
    "a figure of targets given their sources compares with one of the same targets after the same sources, and with "
    "no perplexity of whole texts"
)
_ROOM = 4096  # tokens of sources and targets that are read at once


def score_targets(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    context: int | None = None,
    separator: str = "\n",
    batch_size: int | None = None,
    keep_tokens: int = 0,
    signature: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> LanguageModelScore:
    """Score every target: -log p(token | source and the target so far), the end-of-text after it not among them.

    The result is the same for every ``batch_size``; log-probabilities are taken in float32 or better, totals in
    float64. Words and bytes are the original target's.

    Args:
        model: one that writes a target for a source, such as a T5, or one that continues text.
        tokenizer: the model's own.
        sources, targets: in pairs.
        context: tokens of a source at most, of which more is cut from its end, and tokens of a target; default and
            limit: the model's. One that continues text has so many for both: a longer source is cut as far as needed.
        separator: between source and target, for a model that continues text; "" where they are halves of one text.
        batch_size: pairs read at once.
        keep_tokens, signature, progress: as of :func:`curvekit.evaluation.metrics.score_documents`.

    Raises:
        CurvekitError: nothing to score, a target longer than ``context``, or a context beyond the model's.
    """
    if not targets or len(sources) != len(targets):
        raise CurvekitError(f"{len(sources)} sources and {len(targets)} targets are no pairs; give one of each")
    limit: Any = getattr(model.config, "max_context", None) or getattr(model.config, "max_position_embeddings", 512)
    room = limit if context is None else context
    if not 2 <= room <= limit:
        raise CurvekitError(f"context {room} is beyond the model's positions: choose 2 to {limit}")
    seq2seq, leaks = bool(model.config.is_encoder_decoder), warn_if_leaking(model)
    names = [f"target {number:,}" for number in range(1, len(targets) + 1)]
    written = [target_ids(tokenizer, text, room, name)[:-1] for text, name in zip(targets, names, strict=True)]
    read = []
    for text, target in zip(sources, written, strict=True):
        if seq2seq:
            read.append(source_ids(tokenizer, text, room)[0])
        else:  # as much of the source as a T5 reads of it, where there is so much room
            between = tokenizer(separator, add_special_tokens=False)["input_ids"] if separator else []
            fitting = room - len(target) - len(between)
            read.append([start_token(tokenizer), *source_ids(tokenizer, text, max(fitting, 1))[0][:-1], *between])
    order = sorted(range(len(written)), key=lambda i: -len(read[i]) - len(written[i]))
    nll, correct = np.zeros(len(written)), np.zeros(len(written), dtype=np.int64)
    kept: dict[int, np.ndarray] = {}
    with evaluating(model), torch.inference_mode():
        for rows in tqdm(
            list(_batches(order, read, written, batch_size)), "scoring", disable=None if progress else True, leave=False
        ):
            score = _of_source if seq2seq else _of_text
            for i, logits in zip(rows, score(model, [(read[i], written[i]) for i in rows]), strict=True):
                truth = torch.tensor(written[i], device=logits.device)
                precise = logits.to(torch.promote_types(logits.dtype, torch.float32))  # [target, vocabulary]
                losses = F.cross_entropy(precise, truth, reduction="none").double().cpu().numpy()
                nll[i], correct[i] = losses.sum(), int((precise.argmax(-1) == truth).sum())
                if i < keep_tokens:
                    kept[i] = losses
    return LanguageModelScore(
        nll=nll,
        tokens=np.array([len(ids) for ids in written]),
        correct=correct,
        words=np.array([len(text.split()) for text in targets]),
        bytes=np.array([len(text.encode("utf-8")) for text in targets]),
        leaks=leaks,
        signature=signed(
            model,
            tokenizer,
            leaks,
            signature,
            documents=len(targets),
            texts=short_hash(*sources, *targets),
            context=room,
            prefix=GIVEN,
            denominators=f"{DENOMINATORS}, of the target alone",
        ),
        token_nll=[
            {"tokens": [tokenizer.decode([token]) for token in written[i]], "nll": kept[i].tolist()}
            for i in range(min(keep_tokens, len(written)))
        ],
    )


def _batches(
    order: Sequence[int], read: Sequence[list[int]], written: Sequence[list[int]], batch_size: int | None
) -> Iterator[list[int]]:
    """Pairs to read at once, the longest first: ``batch_size``, or as many as :data:`_ROOM` tokens hold."""
    start = 0
    while start < len(order):
        longest = len(read[order[start]]) + len(written[order[start]])
        size = batch_size or max(1, _ROOM // longest)
        yield list(order[start : start + size])
        start += size


def _of_source(model: Any, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[torch.Tensor]:
    """The logits of each target's tokens from an encoder-decoder: ``[target, vocabulary]``."""
    begin = model.config.decoder_start_token_id
    rows = batched([{"input_ids": source, "labels": [begin, *target[:-1]]} for source, target in pairs])
    rows = {name: tensor.to(model.device) for name, tensor in rows.items()}
    begun = rows["labels"].clamp(min=0)  # any token will do behind a target's end
    logits = model(rows["input_ids"], attention_mask=rows["attention_mask"], decoder_input_ids=begun, use_cache=False)
    yield from (each[: len(target)] for each, (_, target) in zip(logits.logits, pairs, strict=True))


def _of_text(model: Any, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[torch.Tensor]:
    """The same from a model that continues text."""
    rows = batched([{"input_ids": source + target[:-1], "labels": [0]} for source, target in pairs])
    ids, mask = (rows[name].to(model.device) for name in ("input_ids", "attention_mask"))
    logits = model(ids, attention_mask=mask, use_cache=False).logits
    for each, (source, target) in zip(logits, pairs, strict=True):
        yield each[len(source) - 1 : len(source) - 1 + len(target)]
