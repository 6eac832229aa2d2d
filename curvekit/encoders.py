"""BERT-family encoders that speak GPT-2's vocabulary: the bridge, and what each position may see.

GPT-2 and BERT cut text differently. The bridge gives each GPT-2 token one encoder position: its WordPieces, found
once per vocabulary entry, averaged at BERT's input layer. The result is a BERT whose word-embedding table has one
row per GPT-2 token, so alignment is exact by construction, works token by token in generation, and nothing of a
later token can leak through it.

=================  ==============================================  ==========================================
context            what position i sees                            use
=================  ==============================================  ==========================================
``static``         its own token (BERT's input embeddings)         language modelling at almost no cost
``causal``         tokens 0..i: BERT under a causal mask           language modelling with contextual states
``bidirectional``  everything                                      prompts that are complete; **leaks** in
                                                                   language modelling
=================  ==============================================  ==========================================
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

CONTEXTS = ("static", "causal", "bidirectional")


def bridge(tokenizer: PreTrainedTokenizerBase, wordpieces: PreTrainedTokenizerBase) -> list[list[int]]:
    """The WordPieces of every entry of ``tokenizer``'s vocabulary: a list of ids for each token id.

    A token that continues a word (no leading space, lower case) is looked up with WordPiece's ``##`` first. The
    end-of-text token becomes ``[SEP]``; bytes that are no text by themselves become ``[UNK]``; white space has no
    WordPieces, and its averaged embedding is zero.
    """
    size = len(tokenizer)
    texts = [str(tokenizer.decode([i], clean_up_tokenization_spaces=False)) for i in range(size)]
    encoded = wordpieces(texts, add_special_tokens=False)["input_ids"]
    vocabulary = wordpieces.get_vocab()
    special = set(tokenizer.all_special_ids)
    pieces = []
    for i, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
        continuation = vocabulary.get("##" + text) if text[:1].islower() else None
        if i in special:
            ids = [wordpieces.sep_token_id]
        elif "\N{REPLACEMENT CHARACTER}" in text:
            ids = [wordpieces.unk_token_id]
        elif continuation is not None:
            ids = [continuation]
        pieces.append(ids)
    return pieces


def bridged_table(word_embeddings: Tensor, pieces: list[list[int]]) -> Tensor:
    """Average the WordPiece embeddings of each token: ``[WordPieces, width]`` to ``[tokens, width]``."""
    lengths = torch.tensor([len(ids) for ids in pieces])
    flat = torch.tensor([i for ids in pieces for i in ids], dtype=torch.long)
    offsets = lengths.cumsum(0) - lengths
    return nn.functional.embedding_bag(flat, word_embeddings, offsets, mode="mean")


class ContextEncoder(nn.Module):
    """The states that the curve runs through: ``[batch, time]`` token ids to ``[batch, time, width]``.

    Args:
        config: the BERT's configuration, with the language model's vocabulary size.
        context: ``static`` keeps the bridged table alone; ``causal`` and ``bidirectional`` keep the whole BERT.
        trainable: False freezes it, keeps its dropout off and builds no graph through it.
    """

    def __init__(self, config: dict[str, Any], context: str = "static", trainable: bool = False) -> None:
        super().__init__()
        self.context, self.trainable = context, trainable
        settings = {k: v for k, v in config.items() if k not in ("model_type", "transformers_version")}
        bert_config = BertConfig(**settings | {"is_decoder": context == "causal", "pad_token_id": None})
        self.width = bert_config.hidden_size
        self.cache_layers = bert_config.num_hidden_layers if context == "causal" else 0
        if context == "static":
            self.table = nn.Embedding(bert_config.vocab_size, bert_config.hidden_size)
        else:
            bert_config._attn_implementation = "sdpa"
            self.bert = BertModel(bert_config, add_pooling_layer=False)
        self.requires_grad_(trainable)

    @property
    def rows(self) -> int:
        """How many tokens it knows."""
        return self.table.num_embeddings if self.context == "static" else self.bert.config.vocab_size

    def follow(self, attention: str | None) -> None:
        """Compute BERT's own softmax attention by the formula where the model's is; its SoftEMax is not BERT's."""
        if self.context != "static":
            self.bert.set_attn_implementation("eager" if attention == "eager" else "sdpa")

    @torch.no_grad()
    def fill(self, bert: BertModel) -> None:
        """Take the weights of a bridged BERT (:func:`curvekit.bases.berts.load_encoder`)."""
        if self.context == "static":
            self.table.weight.copy_(bert.embeddings.word_embeddings.weight)
        else:
            theirs = bert.state_dict()
            self.bert.load_state_dict({name: theirs[name] for name in self.bert.state_dict()})  # the first layers

    @torch.no_grad()
    def resize(self, rows: int) -> None:
        """Give the bridged table so many rows. A new one is zero, as that of a token without WordPieces."""
        words = self.table if self.context == "static" else self.bert.embeddings.word_embeddings
        words.weight = nn.Parameter(nn.functional.pad(words.weight, (0, 0, 0, rows - len(words.weight))))
        words.weight.requires_grad_(self.trainable)
        words.num_embeddings = rows
        if self.context != "static":
            self.bert.config.vocab_size = rows

    def train(self, mode: bool = True) -> ContextEncoder:
        self.requires_grad_(self.trainable)  # again: loading a checkpoint makes new parameters
        return super().train(mode and self.trainable)

    def _steps(self, input_ids: Tensor, mask: Tensor | None, position_ids: Tensor | None) -> bool:
        """Whether this is a single word, of a frozen BERT, which :meth:`_step` computes quicker than the modules.

        A cache of one shape (``is_compileable``) has room behind the word, of which only the modules know.
        """
        frozen = not self.trainable and self.bert.config._attn_implementation == "sdpa"
        known = position_ids is not None and (mask is None or mask.dim() == 2)
        return frozen and known and input_ids.shape[1] == 1

    def _step(self, input_ids: Tensor, mask: Tensor | None, position_ids: Tensor | None, cache: Cache) -> Tensor:
        """What ``self.bert`` computes of one word ``[batch, 1]``, without the wrappers around its matrices.

        These take as long as the matrices where there is a single word. Per layer, with a = attention over the cache,

            x = LayerNorm(W_o a(W_q x, W_k x, W_v x) + x);    x = LayerNorm(W_2 gelu(W_1 x) + x)
        """
        x = self.bert.embeddings(input_ids=input_ids, position_ids=position_ids)
        seen = None if mask is None else mask[:, None, None].bool()
        layers: Any = self.bert.encoder.layer
        for number, layer in enumerate(layers):
            attention, heads = layer.attention.self, layer.attention.self.num_attention_heads
            parts = (linear(x) for linear in (attention.query, attention.key, attention.value))
            query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
            key, value = cache.update(key, value, number)
            mixed = nn.functional.scaled_dot_product_attention(query, key, value, seen).transpose(1, 2).flatten(2)
            after = layer.attention.output
            x = after.LayerNorm(after.dense(mixed) + x)
            inner = layer.intermediate
            x = layer.output.LayerNorm(layer.output.dense(inner.intermediate_act_fn(inner.dense(x))) + x)
        return x

    def forward(
        self,
        input_ids: Tensor,
        mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """States ``[batch, time, width]`` of ``input_ids`` ``[batch, time]``.

        Args:
            mask: ``[batch, past + time]``, nonzero at real words.
            position_ids: ``[batch, time]``.
            cache: the past of a causal encoder.
            documents: ``[batch, time]``, the number of each position's document; none sees another's words.
        """
        if documents is not None and self.context != "static":
            same = documents.unsqueeze(-1) == documents.unsqueeze(-2)  # [batch, time, time]
            mask = (same.tril() if self.context == "causal" else same).unsqueeze(1)
            if self.bert.config._attn_implementation == "eager":
                lowest = torch.finfo(self.bert.dtype).min
                mask = torch.zeros(mask.shape, dtype=self.bert.dtype, device=mask.device).masked_fill(~mask, lowest)
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            if self.context == "static":
                return self.table(input_ids)
            if cache is not None and not cache.is_compileable and self._steps(input_ids, mask, position_ids):
                return self._step(input_ids, mask, position_ids, cache)
            return self.bert(
                input_ids,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=cache is not None,
            ).last_hidden_state
