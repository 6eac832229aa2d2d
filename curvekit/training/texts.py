"""A run on text: its documents as blocks, their scores, also by frequency, and continuations of held-out beginnings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.evaluation.metrics import text_metrics
from curvekit.files import write_json
from curvekit.generation.streams import generate
from curvekit.text.coded import codes_of, dropped, most_codes
from curvekit.text.documents import as_dataset
from curvekit.text.mixing import load_mixed
from curvekit.text.packing import pack, pad, stream_of
from curvekit.text.shards import PreparedCorpus, open_corpus
from curvekit.text.tokenization import DropoutTokenizer
from curvekit.training.materials import Material, Measured, Tell, kept
from curvekit.training.objectives import training_counts
from curvekit.training.preflight import check_texts
from curvekit.training.processes import by_first
from curvekit.training.runs import Run, require_there
from curvekit.training.scoring import shared_score
from curvekit.training.settings import SPLITS, RunConfig

TEXT_METRICS = (
    *("bleu", "chrf", "rouge1", "rouge2", "rougeL"),
    *("distinct_1", "distinct_2", "distinct_3", "repetition_4", "self_bleu"),
)


class Texts(Material):
    """The documents of a corpus."""

    def __init__(self, config: RunConfig, announce: Tell) -> None:
        if config.mix is not None:
            corpus = load_mixed(config.corpus, config.data_dir, config.mix, config.mix_temperature, announce)
        else:
            corpus = open_corpus(config.corpus, config.data_dir, codes=config.codes, announce=announce)
        super().__init__(config, corpus)
        self.counts_padding = config.examples == "packed"

    def check(self) -> None:
        check_texts(self.config, self.corpus)

    def prepare(self, model: Any) -> None:
        if self.config.codes is not None:
            model.config.control_codes = codes_of(self.corpus["train"]["text"], most_codes(self.config.codes))

    def examples(self, tokenizer: Any, tokens: Path, progress: bool) -> tuple[Any, Any]:
        config, corpus = self.config, self.corpus
        laid_out = pad if config.examples == "padded" else pack

        def examples(split: str, texts: Any, cutter: Any) -> Any:
            path = tokens / f"{split}.safetensors"
            return laid_out(texts, cutter, config.block_size, path, progress, f"the {split} split")

        if isinstance(corpus, PreparedCorpus):
            train: Any = corpus.blocks(tokenizer, config.block_size)
        else:
            read = corpus["train"]
            if config.codes is not None:
                read = as_dataset(dropped(read["text"], config.code_dropout, most_codes(config.codes)))
            train = examples("train", *_training_text(config, read, tokenizer))
        return train, examples("validation", _held_out(config, corpus, "validation", tokenizer), tokenizer)

    def measure(
        self, run: Run, model: Any, tokenizer: Any, revision: dict[str, str], tell: Tell, progress: bool
    ) -> Measured:
        config, corpus = self.config, self.corpus
        counts = self._counts(run.folder / "tokens", tokenizer, max(len(tokenizer), model.config.vocab_size))
        splits = {}
        for split in SPLITS:
            require_there(run.folder)
            tell(f"scoring the {split} documents")
            score, frequency = shared_score(
                model,
                tokenizer,
                _held_out(config, corpus, split, tokenizer),
                counts=counts,
                context=config.window,
                stride=config.stride,
                keep_tokens=config.keep_tokens,
                progress=progress,
                signature=self.signature(split, revision),
            )
            splits[split] = kept(run, split, score)
            splits[split] |= {"calibration_error": frequency.calibration_error, "by_frequency": frequency.rows()}
            if split == "test":
                by_first(lambda: write_json(run.folder / "frequency.json", frequency.to_dict()) and None)  # noqa: B023
        if config.sample_prompts:
            tell("writing samples")
        samples = by_first(lambda: _samples(config, model, tokenizer, corpus["test"]["text"]))
        return Measured(splits, samples, sample_metrics(samples, config.sample_tokens))

    def _counts(self, tokens: Path, tokenizer: Any, vocabulary: int) -> np.ndarray:
        """How often the training text has each token."""
        if isinstance(self.corpus, PreparedCorpus):
            streams = self.corpus.blocks(tokenizer, self.config.block_size).streams
        else:
            streams = [stream_of(tokens / "train.safetensors", self.corpus["train"], tokenizer)]
        return np.sum([training_counts(stream, vocabulary) for stream in streams], 0)


def sample_metrics(samples: Sequence[dict[str, str]], tokens: int) -> dict[str, Any]:
    """Figures of the continuations, compared at one length; None of each where there are none."""
    if not samples:
        return dict.fromkeys(TEXT_METRICS)
    return text_metrics(
        [row["continuation"] for row in samples],
        [row["reference"] for row in samples],
        length=max(1, tokens // 3),  # words; the same for every recipe, or diversity compares nothing
    )


def _training_text(config: RunConfig, texts: Dataset, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, Any]:
    """The training text and what cuts it; with dropout, as many passes over it as the steps take, each cut anew.

    All passes lie in one stream, whose blocks are shuffled together. It follows from the texts and the seed, so a
    run goes on with the same cuts.
    """
    if config.tokenizer != "bpe-dropout":
        return texts, tokenizer
    wanted, once = config.steps * config.accumulate * config.batch_size, len(texts)
    if config.examples == "packed":
        once = len(
            pack(texts, tokenizer, config.block_size, progress=False, name="the train split")
        )  # with dropout it is some more
    return texts.repeat(math.ceil(wanted / once)), DropoutTokenizer(tokenizer, seed=config.seed)


def _held_out(config: RunConfig, corpus: DatasetDict, split: str, tokenizer: Any) -> list[str]:
    """The first documents of a split; to validate, as many more as one block needs, if they are very short."""
    texts = corpus[split]["text"]
    if split == "test":
        return list(texts[: config.eval_documents])
    taken, tokens = list(texts[: config.validation_documents]), 0
    for number, text in enumerate(texts):
        if tokens >= config.block_size or config.examples == "padded":
            break
        tokens += len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if number >= len(taken):
            taken.append(text)
    return taken


def _samples(config: RunConfig, model: PreTrainedModel, tokenizer: Any, texts: Sequence[str]) -> list[dict[str, str]]:
    """Continue the beginnings of the first documents that are long enough, or else of the longest.

    A document shorter than a beginning and its continuation is cut in the middle.
    """
    if not config.sample_prompts:
        return []
    whole = config.prompt_tokens + config.sample_tokens
    ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:whole] for text in texts]
    longest = sorted(range(len(ids)), key=lambda i: -len(ids[i]))[: config.sample_prompts]
    rows = []
    for document in (ids[i] for i in sorted(longest) if len(ids[i]) > 1):
        cut = min(config.prompt_tokens, len(document) // 2)
        rows.append((tokenizer.decode(document[:cut]), tokenizer.decode(document[cut:])))
    continuations = generate(
        model,
        tokenizer,
        [prompt for prompt, _ in rows],
        max_new_tokens=config.sample_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
    )
    return [
        {"prompt": prompt, "continuation": text, "reference": reference}
        for (prompt, reference), text in zip(rows, continuations, strict=True)
    ]
