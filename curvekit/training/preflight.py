"""What can be found out about a run before its model is built: within seconds, and before anything is written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from transformers import AutoConfig

from curvekit.bases import hub
from curvekit.bases.berts import locate_encoder
from curvekit.bases.building import base_config, is_seq2seq
from curvekit.bases.tokenizer import base_tokenizer
from curvekit.bases.weights import check_files
from curvekit.errors import CurvekitError, first_line
from curvekit.recipes import recipe_settings
from curvekit.text.packing import too_short
from curvekit.text.shards import PreparedCorpus
from curvekit.training.precision import native_bfloat16
from curvekit.training.settings import RunConfig
from curvekit.training.tracking import check_tracker


def check_run(config: RunConfig) -> None:
    """Look up everything that a run needs besides its texts, and measure what must fit.

    Raises:
        CurvekitError: as :meth:`RunConfig.validate`; a base or an encoder that cannot be had or is not whole; a
            block, a window or a sample longer than their positions; a precision that the machine does not have; a
            tracker that does not answer.
    """
    config.validate()
    precision(config)
    check_tracker(config)
    hub.require_model(hub.located(config.base), "the base", "base='mini'", "config.json")
    if not config.scratch:
        hub.require_weights(config.base)
    check_base(config)
    positions = [_positions(hub.located(config.base), f"the base {config.base!r}", not config.scratch)]
    if config.scratch:
        chosen = (config.model.get(name) for name in ("n_positions", "max_position_embeddings"))
        positions = [next((each for each in chosen if each is not None), positions[0])]
    model = recipe_settings(config.recipe, config.overrides())
    if model.get("source") == "encoder":
        where = locate_encoder(config.encoder)
        seen = _positions(where, f"the encoder {config.encoder!r}", True)
        positions += [seen] if model.get("context", "static") != "static" else []
    check_room(config, min((each for each in positions if isinstance(each, int)), default=None))
    if config.tokenizer == "base":
        base_tokenizer(config.base)


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


def check_texts(config: RunConfig, corpus: DatasetDict) -> None:
    """Return if the texts that train and validate fill a block.

    Raises:
        CurvekitError: they do not.
    """
    if "target" in corpus["train"].column_names:  # rows are no text, and each is an example
        return
    tokenizer = base_tokenizer(config.base) if config.tokenizer == "base" else None
    if isinstance(corpus, PreparedCorpus):
        if config.tokenizer != "base" or config.examples != "packed":
            raise CurvekitError(
                f"{corpus.folder} is prepared for the base's own tokeniser and packed blocks; leave tokenizer and "
                "examples as they are, or name the corpus itself"
            )
        corpus.blocks(tokenizer, config.block_size)
    least = config.block_size if config.examples == "packed" and not writes_targets(config) else 2
    for split in ("validation",) if isinstance(corpus, PreparedCorpus) else ("train", "validation"):
        if (tokens := _tokens(corpus[split]["text"], tokenizer, least)) < least:
            raise too_short(tokens, config.block_size, f"the {split} split")


def check_room(config: RunConfig, positions: int | None) -> None:
    """Refuse what is longer than the positions that a model has; None: it has any number of them."""
    wanted = {"block_size": config.block_size, "context_eval": config.context_eval or 1}
    if config.sample_prompts:
        wanted["sample_tokens"] = config.sample_tokens + 1
    for name, tokens in wanted.items():
        if positions is not None and tokens > positions:
            raise CurvekitError(
                f"{name} is {getattr(config, name)}, longer than the {positions} positions of the base "
                f"{config.base!r}; give at most {positions - (name == 'sample_tokens')}"
            )


def precision(config: RunConfig) -> str:
    """What matrices are multiplied in: by default bf16 where the hardware does so, else the GPU's fp16 or float32."""
    cuda = torch.cuda.is_available()
    if config.precision == "fp16" and not cuda:
        raise CurvekitError("precision is 'fp16', which needs a GPU; use 'auto', 'float32' or 'bf16'")
    if config.precision != "auto":
        return config.precision
    if native_bfloat16("cuda" if cuda else "cpu"):
        return "bf16"
    return "fp16" if cuda else "float32"


def _positions(where: str, what: str, weights: bool) -> Any:
    """The positions of a checkpoint, whose configuration, and with ``weights`` whose files, can be read."""
    try:
        found = AutoConfig.from_pretrained(where, local_files_only=hub.local_only(where), trust_remote_code=False)
    except (OSError, ValueError) as error:
        hub.require_answers()
        raise CurvekitError(f"{what} cannot be loaded ({first_line(error)})") from error
    if weights:
        check_files(where)
        if Path(where).is_dir() and not any(Path(where).glob("model*.safetensors*")):
            raise CurvekitError(f"{what} has no weights in safetensors; convert it, or name another")
    if found.is_encoder_decoder:  # as CurveT5Config.max_context
        return getattr(found, "n_positions", 512)
    return getattr(found, "max_position_embeddings", None)


def _tokens(texts: Iterable[str], tokenizer: Any, enough: int) -> int:
    """How many tokens the texts have, counted up to ``enough``; without a tokeniser yet, as many as bytes at most."""
    tokens = 0
    for text in texts:
        ids = text.encode("utf-8", "surrogatepass")
        if tokenizer is not None:
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        tokens += 1 + len(ids)
        if tokens >= enough:
            break
    return tokens
