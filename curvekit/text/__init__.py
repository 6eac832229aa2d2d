"""Text on its way to a model: corpora and their documents, tokenisers, duplicates, blocks for training."""

from curvekit.lazy import public

_HOMES = {
    "CORPORA": "corpora",
    "load_corpus": "corpora",
    "load_pairs": "pairs",
    "pack": "packing",
    "PaddedExamples": "packing",
    "base_tokenizer": "tokenization",
    "run_tokenizer": "tokenization",
    "train_bpe": "tokenization",
    "find_duplicates": "duplicates",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
