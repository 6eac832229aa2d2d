"""The row of the whole pipeline: from texts to trained steps, beside the way in which it was published.

The published dataset calls BERT for every item as it is asked for: one text, padded to 128 tokens, its curve computed
in a Python loop over positions and normalised over features; the model then reads embeddings. Ours packs the texts
into full blocks and has the curve inside of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.curve import published
from benchmarks.harness import Case, Goal, Settings, same
from benchmarks.models import SHAPES, pair
from benchmarks.texts import beginning, corpus, tokenizer
from benchmarks.training import stepper
from curvekit.bases.berts import load_bert
from curvekit.curves import bernstein_weights, curve, sinusoidal_positions
from curvekit.normalisers import softemax
from curvekit.text.packing import pack

LENGTH = 128  # of the published items
BLOCK = 256  # of ours, as a run packs them by default


class PublishedDataset(Dataset):
    """Items of one text each: the encoder, the loop and the normaliser run in ``__getitem__``."""

    def __init__(self, texts: list[str], words: Any, vocabulary: int) -> None:
        self.texts, self.words, self.vocabulary = texts, words, vocabulary
        self.bert, self.wordpieces = load_bert("minilm")

    def __len__(self) -> int:
        return len(self.texts)

    @torch.no_grad()
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        options = {"padding": "max_length", "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
        encoded = self.wordpieces(self.texts[index], **options)
        states = self.bert(**encoded).last_hidden_state  # (1, 128, 384)
        positions = sinusoidal_positions(torch.arange(LENGTH), states.shape[-1])
        embeddings = softemax(published(states) + positions, variant="published")[0]
        labels = self.words(self.texts[index], **options)
        seen = labels["attention_mask"][0].bool()
        ids = labels["input_ids"][0].clamp(max=self.vocabulary - 1)
        return {"inputs_embeds": embeddings, "labels": ids.masked_fill(~seen, -100)}


def cases(settings: Settings) -> Iterator[Case]:
    name = "tiny" if settings.quick else "mini"
    words = tokenizer()
    shape = SHAPES[name] | {"vocab_size": len(words), "n_positions": max(BLOCK, SHAPES[name]["n_positions"])}
    text = beginning(settings, "train", 20_000 if settings.quick else 400_000 if settings.cuda else 60_000)
    texts = [line for line in text.splitlines() if line.strip()]
    batch, count = 8, 16 if settings.quick else 64
    ours, _ = pair("curve", shape, settings)
    # The published pipeline hands BERT's states to the model as its embeddings, so that the widths are one.
    _, theirs = pair("gpt2", shape | {"n_embd": 384, "n_head": 6}, settings)
    dataset = PublishedDataset(texts[:count], words, len(words))
    peer_tokens = sum(int((dataset[i]["labels"] != -100).sum()) for i in range(count))
    own_items: dict[str, torch.Tensor] = {}  # what the steps read, filled batch by batch
    peer_items: dict[str, torch.Tensor] = {}
    own_step, peer_step = stepper(ours, own_items), stepper(theirs, peer_items)

    def own() -> None:
        blocks = pack(texts, words, BLOCK, progress=False)
        for items in DataLoader(blocks, batch_size=batch, drop_last=True):
            own_items.update(items)
            own_step()

    def peer() -> None:
        for items in DataLoader(dataset, batch_size=batch, drop_last=True):
            peer_items.update(items)
            peer_step()

    def check() -> str:
        states = torch.randn(1, LENGTH, 384)
        weights = bernstein_weights(2).float()
        said = same(curve(states, weights, "centred"), published(states), 1e-5, "the curves of both")
        return f"{said}; the models differ, as they should: theirs sees the future"

    work = len(pack(texts, words, BLOCK, progress=False)) // batch * batch * BLOCK
    yield Case(
        f"{corpus(settings.data_dir)[0]}, {name}",
        "pack and train the recipe curve",
        "encoder called for each item, padded to 128, loop over positions",
        own,
        peer,
        check,
        Goal("ratio", 20.0),
        work=work,
        peer_work=peer_tokens,
        unit="tokens",
        seconds=30.0,
    )
