"""What a run of a T5 does otherwise: its rows, its examples, how they are scored, and what it writes for a source.

The loss is that of the target's tokens, its end-of-text among them: padding has the label -100. Scores and samples are
of rows that were held out; plain text becomes rows of :func:`curvekit.text.pairs.passages`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from curvekit.evaluation.targets import score_targets
from curvekit.generation.streams import generate
from curvekit.text.corpora import load_corpus
from curvekit.text.pairs import PairExamples, batched, load_pairs, pairs_of
from curvekit.training.materials import Material, Measured, Tell, kept
from curvekit.training.preflight import check_texts
from curvekit.training.runs import Run, require_there
from curvekit.training.settings import SPLITS, RunConfig
from curvekit.training.texts import sample_metrics


class Targets(Material):
    """Rows of source and target, or passages of text of which a T5 reads the first half and writes the rest."""

    ahead = False
    counts_padding = False

    def __init__(self, config: RunConfig, announce: Tell) -> None:
        if config.source_key is None or config.target_key is None:
            corpus = load_corpus(config.corpus, config.data_dir, announce=announce)
        else:
            corpus = load_pairs(
                config.corpus, config.data_dir, source=config.source_key, target=config.target_key, announce=announce
            )
        super().__init__(config, corpus)

    def check(self) -> None:
        check_texts(self.config, self.corpus)

    def vocabulary(self) -> list[str]:
        rows = self.corpus["train"]
        return [text for name in rows.column_names for text in rows[name]]

    def examples(self, tokenizer: Any, tokens: Path, progress: bool) -> tuple[PairExamples, PairExamples]:
        config = self.config
        train, validation = (
            PairExamples(
                *pairs_of(self.corpus[split], tokenizer, config.block_size, most), tokenizer, config.block_size,
                f"the {split} split",
            )
            for split, most in (("train", None), ("validation", config.validation_documents))
        )  # fmt: skip
        return train, validation

    def collator(self, model: Any) -> Any:
        return functools.partial(batched, pad=int(model.config.pad_token_id or 0))

    def measure(
        self, run: Run, model: Any, tokenizer: Any, revision: dict[str, str], tell: Tell, progress: bool
    ) -> Measured:
        config, splits = self.config, {}
        for split in SPLITS:
            require_there(run.folder)
            tell(f"scoring the {split} targets")
            score = score_targets(
                model, tokenizer, *self._held_out(split, tokenizer), context=config.window,
                keep_tokens=config.keep_tokens, progress=progress, signature=self.signature(split, revision),
            )  # fmt: skip
            splits[split] = kept(run, split, score)
        if config.sample_prompts:
            tell("writing samples")
        samples = self._samples(model, tokenizer)
        return Measured(splits, samples, sample_metrics(samples, config.sample_tokens))

    def _held_out(self, split: str, tokenizer: Any) -> tuple[list[str], list[str]]:
        """The sources and targets of a split that are scored."""
        most = self.config.eval_documents if split == "test" else self.config.validation_documents
        return pairs_of(self.corpus[split], tokenizer, self.config.window, most)

    def _samples(self, model: Any, tokenizer: Any) -> list[dict[str, str]]:
        """What the model writes for the first held-out sources: rows ``prompt``, ``continuation``, ``reference``."""
        config = self.config
        if not config.sample_prompts:
            return []
        sources, targets = (side[: config.sample_prompts] for side in self._held_out("test", tokenizer))
        written = generate(
            model, tokenizer, sources, max_new_tokens=config.sample_tokens, temperature=config.temperature,
            top_p=config.top_p, seed=config.seed,
        )  # fmt: skip
        return [
            {"prompt": source, "continuation": text, "reference": target}
            for source, text, target in zip(sources, written, targets, strict=True)
        ]
