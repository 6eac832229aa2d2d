"""The tokeniser that a base or a saved model brings along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from curvekit.bases import hub
from curvekit.bases.saved import check_saved, check_tokenizer
from curvekit.errors import CurvekitError, first_line, not_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def saved_tokenizer(folder: str | Path, name: str) -> PreTrainedTokenizerBase:
    """The tokeniser saved with a model; ``name`` is what signatures call it.

    Raises:
        CurvekitError: its files are missing, or cut off.
    """
    from transformers import AutoTokenizer

    try:
        check_tokenizer(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises nothing narrower
        raise CurvekitError(not_whole("tokeniser", folder, error)) from error
    tokenizer.name_or_path = Path(name).name  # a signature names no folder of this machine
    return tokenizer


def base_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The tokeniser that a base brings: ``mini``, a folder, or a hub model.

    Raises:
        CurvekitError: the base has no tokeniser here and the hub cannot be reached.
    """
    from transformers import AutoTokenizer

    where = hub.located(hub.SHAPES.get(base, base))
    if Path(where).is_dir():
        check_saved(where)
    hub.require_model(where, "the base", "base='mini'", "tokenizer_config.json")
    try:
        check_tokenizer(where)
        tokenizer = AutoTokenizer.from_pretrained(
            where,
            clean_up_tokenization_spaces=False,
            local_files_only=hub.local_only(where),
            trust_remote_code=False,
        )
    except Exception as error:  # tokenizers raises nothing narrower
        raise CurvekitError(f"the base {base!r} has no readable tokeniser ({first_line(error)})") from error
    if tokenizer.eos_token is None:
        raise CurvekitError(f"the tokeniser of {base!r} has no end-of-text token; curvekit puts one before a document")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
