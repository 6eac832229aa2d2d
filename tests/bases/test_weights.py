"""Weights are what they say: what is missing, unknown, of another shape, a pickle or changed is refused by name."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from curvekit.bases.opening import load_model
from curvekit.bases.weights import check_files, check_loaded
from curvekit.errors import CurvekitError
from curvekit.files import read_json, write_json
from curvekit.ownership import seal


@pytest.fixture(scope="module")
def saved(make, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    make("curve+softemax").save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def changed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_model_loads_and_its_tied_matrix_is_not_missing(folder):
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = load_model(folder)
    assert model.lm_head.weight is model.transformer.wte.weight and not model.training


CHANGES = {
    "a block is missing": (lambda t: {k: v for k, v in t.items() if ".h.1." not in k}, r"lacks transformer\.h\.1\."),
    "a prefix of torch.compile": (lambda t: {f"_orig_mod.{k}": v for k, v in t.items()}, "lacks .* and [0-9]+ more"),
    "a tensor that nobody knows": (lambda t: t | {"extra.weight": torch.ones(3)}, r"does not know, extra\.weight"),
    "another shape": (lambda t: t | {"transformer.ln_f.weight": torch.ones(7)}, "shape|size mismatch"),
    "the curve is missing": (lambda t: {k: v for k, v in t.items() if "curve." not in k}, r"lacks .*curve\."),
    "quantised": (
        lambda t: t | {"transformer.wte.weight": torch.ones_like(t["transformer.wte.weight"]).to(torch.int8)},
        "holds I8 numbers",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_tensors_that_are_not_the_model_s_are_refused_by_name(folder, what):
    change, said = CHANGES[what]
    changed(folder, change)
    with pytest.raises(CurvekitError, match=said):
        load_model(folder)


def test_weights_of_another_recipe_are_refused(folder, make, tmp_path):
    make("gpt2").save_pretrained(tmp_path / "gpt2")
    shutil.copy(tmp_path / "gpt2" / "model.safetensors", folder)
    with pytest.raises(CurvekitError, match=r"lacks .*for the recipe 'curve\+softemax'"):
        load_model(folder)


@pytest.mark.parametrize("name", ["n_layer", "n_head", "n_embd", "vocab_size"])
@pytest.mark.parametrize("value", [0, -1, "four", 2.5, True])
def test_a_configuration_without_a_size_is_refused(folder, name, value):
    write_json(folder / "config.json", read_json(folder / "config.json") | {name: value})
    with pytest.raises(CurvekitError, match=f"config.json.* {name} is"):
        load_model(folder)


@pytest.mark.parametrize("entry", ["x.bin", "../x.safetensors", "/etc/x.safetensors", "pytorch_model.bin"])
def test_an_index_never_leads_to_a_pickle_or_elsewhere(folder, entry, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    names = list(load_file(folder / "model.safetensors"))
    torch.save(load_file(folder / "model.safetensors"), folder / "x.bin")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, entry)})
    )
    with pytest.raises(CurvekitError, match="and nothing else"):
        load_model(folder)


def test_an_index_of_safetensors_loads_and_a_missing_shard_is_named(folder):
    tensors = load_file(folder / "model.safetensors")
    shards = {name: f"model-{1 + number % 2:05d}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for shard in set(shards.values()):
        save_file({k: v for k, v in tensors.items() if shards[k] == shard}, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": shards})
    load_model(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CurvekitError, match=r"model-00002-of-00002\.safetensors', which is not there"):
        load_model(folder)


def test_a_sealed_model_whose_bytes_were_changed_is_refused(folder):
    seal(folder, "model")
    load_model(folder)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 64
    path.write_bytes(content)
    with pytest.raises(CurvekitError, match=r"model\.safetensors was changed after it was written"):
        load_model(folder)


def test_a_file_that_was_cut_off_is_refused_before_it_is_read(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CurvekitError, match=r"model\.safetensors is not whole"):
        check_files(folder)


def test_what_a_base_may_lack_is_named_by_a_pattern(make):
    model = make("curve")
    info = {"missing_keys": {"curve.gate", "transformer.h.0.ln_1.weight"}, "unexpected_keys": {"h.0.attn.masked_bias"}}
    with pytest.raises(CurvekitError, match=r"the base 'x' lacks transformer\.h\.0\.ln_1\.weight:"):
        check_loaded(model, info, "the base 'x'", missing=r"^curve\.", unexpected=r"masked_bias$")
    info["missing_keys"] = {"curve.gate"}
    check_loaded(model, info, "the base 'x'", missing=r"^curve\.", unexpected=r"masked_bias$")


def test_an_encoder_without_a_layer_is_refused(tiny_encoder, tmp_path):
    from curvekit.bases.berts import load_bert

    folder = shutil.copytree(tiny_encoder, tmp_path / "bert")
    load_bert(str(folder))
    changed(folder, lambda tensors: {k: v for k, v in tensors.items() if "layer.1." not in k})
    with pytest.raises(CurvekitError, match=r"the encoder .* lacks encoder\.layer\.1"):
        load_bert(str(folder))
