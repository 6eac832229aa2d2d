"""What all tests share: an offline and quiet environment, seeds, and a tiny base, tokenizer and corpus.

Nothing here needs a network, the hub or a file outside the repository.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from sentences import SENTENCES

if "CI" not in os.environ:  # there, hypothesis has a profile of its own
    hypothesis.settings.register_profile("here", deadline=None)  # a machine may be busy
    hypothesis.settings.load_profile("here")

_HOME = tempfile.TemporaryDirectory(prefix="curvekit-tests-")
os.environ |= {
    "HF_HUB_OFFLINE": "1",  # a missing file fails at once instead of after retries
    "HF_HOME": _HOME.name,  # caches of a test run are not the user's
    "XDG_CACHE_HOME": _HOME.name,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "disabled",
    "WANDB_SILENT": "true",
    "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",  # the models are so small that threads only get into each other's way
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
os.environ.pop("CURVEKIT_DATA", None)
# A shell that starts the tests in the background makes them ignore Ctrl-C, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that none of several processes is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _registered_by_this_test_alone() -> Iterator[None]:
    """What a test registers goes with it; nothing is loaded for that."""
    yield
    if "curvekit.variants.recipes" in sys.modules:
        from curvekit.variants.recipes import registered, unregister

        unregister(*registered())
    if "curvekit.variants.plugins" in sys.modules:
        sys.modules["curvekit.variants.plugins"]._loaded.clear()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state; torch and numpy only where something loaded them."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def tiny_texts() -> list[str]:
    """Sixty short documents of real words, no two alike."""
    shuffle = random.Random(0)
    return [" ".join(shuffle.sample(SENTENCES, 3)) + f" That was story number {i}." for i in range(60)]


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_texts):
    """A byte-level BPE of 400 entries with GPT-2's special token."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(tiny_texts, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(bpe.to_str()), eos_token=end, bos_token=end, pad_token=end, unk_token=end
    )


@pytest.fixture(scope="session")
def tiny_bases(tiny_tokenizer, tmp_path_factory) -> dict[str, Path]:
    """Folders of a saved GPT-2, GPT-Neo and LLaMA of 2 layers, 32 wide, 64 positions, with their tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoConfig, LlamaConfig

    end = tiny_tokenizer.eos_token_id
    common = {"vocab_size": len(tiny_tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    configs = {
        "gpt2": GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=2, **common),
        "gpt_neo": GPTNeoConfig(  # its second layer sees a window of 6 words
            max_position_embeddings=64, hidden_size=32, num_layers=2, num_heads=2, window_size=6,
            attention_types=[[["global", "local"], 1]], **common,
        ),
        "llama": LlamaConfig(  # two query heads share a key head
            max_position_embeddings=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=64, tie_word_embeddings=True, **common,
        ),
    }  # fmt: skip
    folders = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        folders[name] = tmp_path_factory.mktemp(f"tiny-{name}")
        AutoModelForCausalLM.from_config(config).save_pretrained(folders[name])
        tiny_tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="session")
def tiny_t5(tiny_tokenizer, tmp_path_factory) -> Path:
    """The folder of a saved T5 of 2 blocks that read and 3 that write, 32 wide, with the same tokenizer."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    end = tiny_tokenizer.eos_token_id
    folder = tmp_path_factory.mktemp("tiny-t5")
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tiny_tokenizer), d_model=32, d_kv=12, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, dropout_rate=0.1, n_positions=64,
        pad_token_id=end, eos_token_id=end, decoder_start_token_id=end,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    for name, parameter in model.named_parameters():  # distances that matter from the start
        if name.endswith("relative_attention_bias.weight"):
            torch.nn.init.normal_(parameter, std=1.0)
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_bases) -> Path:
    """The folder of the tiny GPT-2."""
    return tiny_bases["gpt2"]


@pytest.fixture(scope="session")
def base(request, tiny_bases) -> Path:
    """The folder of the tiny base that :func:`tiny.everywhere` asks a test of."""
    return tiny_bases[request.param]


@pytest.fixture(scope="session")
def tiny_corpus(tiny_texts, tmp_path_factory) -> Path:
    """A folder with train.txt, validation.txt and test.txt, one document a line."""
    folder = tmp_path_factory.mktemp("tiny-corpus")
    for name, texts in {
        "train": tiny_texts[:44], "validation": tiny_texts[44:52], "test": tiny_texts[52:]
    }.items():  # fmt: skip
        (folder / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tiny_texts, tmp_path_factory) -> Path:
    """The folder of a saved BERT of 2 layers, 24 wide, 48 positions, with a WordPiece tokenizer."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-encoder")
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    wordpiece.train_from_iterator(tiny_texts, vocab_size=300, show_progress=False)
    tokenizer = BertTokenizerFast(tokenizer_object=wordpiece._tokenizer)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=48,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make(tiny_base, tiny_encoder, tiny_tokenizer):
    """Build a recipe on the tiny GPT-2, see :func:`tiny.builder`."""
    from tiny import builder

    return builder(tiny_base, tiny_encoder, tiny_tokenizer)


@pytest.fixture(scope="session")
def interrupted():
    """Train, stop from outside when ``step`` has been computed, as a kill does, and return the folder."""
    from curvekit.training.trainer import train

    class Stopped(Exception):
        pass

    def interrupted(config, folder: Path, step: int) -> Path:
        def on_row(row: dict) -> None:
            if row["step"] == step and "loss" in row:
                raise Stopped

        with pytest.raises(Stopped):
            train(config, folder, progress="none", on_row=on_row)
        return folder

    return interrupted
