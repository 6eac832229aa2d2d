"""What a run of a T5 does otherwise: its rows, its examples, how they are scored, and what it writes for a source.

The loss is that of the target's tokens, its end-of-text among them: padding has the label -100. Scores and samples are
of rows that were held out; plain text becomes rows of :func:`curvekit.text.pairs.passages`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from curvekit.bases.building import base_config, is_seq2seq
from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import LanguageModelScore
from curvekit.evaluation.targets import score_targets
from curvekit.generation.streams import generate
from curvekit.text.corpora import load_corpus
from curvekit.text.pairs import PairExamples, batched, load_pairs, pairs_of
from curvekit.training.settings import RunConfig


def writes_targets(config: RunConfig) -> bool:
    """Whether a run's base is a T5."""
    return is_seq2seq(base_config(config.base))


def check_base(config: RunConfig) -> None:
    """Refuse settings that a run's base has no use for.

    Raises:
        CurvekitError: keys of rows for a base that continues text; for a T5 an adapter, dropout of merges, or padded
            examples.
    """
    if not writes_targets(config):
        if config.source_key is not None:
            raise CurvekitError(
                f"source_key is {config.source_key!r}, and the base {config.base!r} continues text and writes no "
                "target for a source; take a T5, such as t5-mini with scratch, or leave the keys out"
            )
        return
    for name, value, other in (
        ("adapter", config.adapter, "none"),
        ("examples", config.examples, "packed"),
    ):
        if value != other:
            raise CurvekitError(f"{name} is {value!r}, which a T5 has no place for; leave it at {other!r}")
    if config.tokenizer == "bpe-dropout":
        raise CurvekitError("tokenizer is 'bpe-dropout', which cuts text and no rows; take 'bpe' for a T5")
    if config.stride is not None:
        raise CurvekitError(f"stride is {config.stride}, and a target is scored whole; leave it out for a T5")


def corpus_of(config: RunConfig, announce: Callable[[str], object]) -> DatasetDict:
    """The rows, or the texts, of a run: with keys as :func:`curvekit.text.pairs.load_pairs` reads them."""
    if config.source_key is None or config.target_key is None:
        return load_corpus(config.corpus, config.data_dir, codes=config.codes, announce=announce)
    return load_pairs(
        config.corpus, config.data_dir, source=config.source_key, target=config.target_key, announce=announce
    )


def texts_of(rows: Dataset) -> list[str]:
    """All texts of a split, from which a vocabulary may be learned."""
    return [text for name in rows.column_names for text in rows[name]]


def examples(config: RunConfig, corpus: DatasetDict, tokenizer: Any) -> tuple[PairExamples, PairExamples]:
    """The examples that train, and those that validate."""
    train, validation = (
        PairExamples(
            *pairs_of(corpus[split], tokenizer, config.block_size, most), tokenizer, config.block_size,
            f"the {split} split",
        )
        for split, most in (("train", None), ("validation", config.validation_documents))
    )  # fmt: skip
    return train, validation


def collator(model: PreTrainedModel) -> Callable[..., Any]:
    """What makes a batch of examples."""
    return functools.partial(batched, pad=int(model.config.pad_token_id or 0))


def held_out(config: RunConfig, corpus: DatasetDict, split: str, tokenizer: Any) -> tuple[list[str], list[str]]:
    """The sources and targets of a split that are scored."""
    most = config.eval_documents if split == "test" else config.validation_documents
    return pairs_of(corpus[split], tokenizer, config.window, most)


def score(
    config: RunConfig,
    model: PreTrainedModel,
    tokenizer: Any,
    pairs: tuple[list[str], list[str]],
    signature: Mapping[str, Any],
    progress: bool,
) -> LanguageModelScore:
    """Every target of the pairs, scored."""
    return score_targets(
        model, tokenizer, *pairs, context=config.window, keep_tokens=config.keep_tokens, progress=progress,
        signature=signature,
    )  # fmt: skip


def samples(config: RunConfig, model: PreTrainedModel, tokenizer: Any, corpus: DatasetDict) -> list[dict[str, str]]:
    """What the model writes for the first held-out sources: rows ``prompt``, ``continuation``, ``reference``."""
    if not config.sample_prompts:
        return []
    sources, targets = (side[: config.sample_prompts] for side in held_out(config, corpus, "test", tokenizer))
    written = generate(
        model, tokenizer, sources, max_new_tokens=config.sample_tokens, temperature=config.temperature,
        top_p=config.top_p, seed=config.seed,
    )  # fmt: skip
    return [
        {"prompt": source, "continuation": text, "reference": target}
        for source, text, target in zip(sources, written, targets, strict=True)
    ]
