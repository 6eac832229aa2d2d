"""Adapters: a base with one is itself at first, stays frozen, generates alike, and reloads from a small folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import builder

from curvekit.bases import adapters, hub
from curvekit.bases.adapters import Lora, add_adapter, matrices, merge, open_adapter, save_adapter, share_bases
from curvekit.bases.building import build_model
from curvekit.bases.opening import open_model
from curvekit.causality import future_leak
from curvekit.errors import CurvekitError
from curvekit.modeling import ARCHITECTURES

IDS = torch.randint(1, 300, (2, 12), generator=torch.Generator().manual_seed(0))
KINDS = ("plain", "curve", "sink", "curve+softemax", "curve-causal", "random-encoder")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request, tiny_bases):
    return tiny_bases[request.param]


@pytest.fixture(scope="module")
def make(base, tiny_encoder, tiny_tokenizer):
    build = builder(base, tiny_encoder, tiny_tokenizer)

    def adapted(recipe, trained=True, settings=Lora(rank=4), **overrides):  # noqa: B008
        model = add_adapter(build(recipe, open_gate=trained, **overrides), str(base), settings)
        if trained:
            disturb(model)
        return model

    return adapted


@torch.no_grad()
def disturb(model) -> None:
    """As after training: no B is zero any more."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name or name.endswith("log_sink"):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def save(model, tokenizer, folder: Path) -> Path:
    save_adapter(model, folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("recipe", ["plain", "curve", "sink"])
def test_a_model_with_a_new_adapter_is_itself_and_trains_all_but_its_base(make, base, recipe, tiny_encoder):
    plain = build_model(recipe, str(base), encoder=str(tiny_encoder))
    model = make(recipe, trained=False)
    assert torch.equal(logits(model), logits(plain))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    own = {name for name, p in plain.named_parameters() if adapters.is_added(name, plain) and p.requires_grad}
    lora = {name for name in trained if ".lora_" in name}
    assert trained == lora | own and len(lora) == 2 * len(matrices(plain))
    assert (recipe == "plain") != bool(own)
    blocks = model.config.num_hidden_layers
    assert len(matrices(plain)) == blocks * {"gpt2": 4, "gpt_neo": 6, "llama": 7}[model.config.model_type[6:]]


def test_mixers_are_trained_and_saved_beside_an_adapter(make, tiny_tokenizer, tmp_path):
    model = make("curve3+sites+softemax")
    mixers = [name for name, parameter in model.named_parameters() if ".mixers." in name and parameter.requires_grad]
    assert len(mixers) == 2 * len(model.base_model.mixers)
    with torch.no_grad():
        for name in mixers:
            model.get_parameter(name).add_(0.1)
    assert torch.equal(logits(open_adapter(save(model, tiny_tokenizer, tmp_path))), logits(model))


@pytest.mark.parametrize("recipe", KINDS)
def test_the_formula_is_the_base_beside_its_low_rank_product(make, recipe):
    model = make(recipe)
    expected = make(recipe)
    for name, matrix in list(adapters.beside(expected).items()):
        layer = expected.get_submodule(name)
        a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
        assert a.shape[0] == b.shape[1] == 4
        product = 16 / 4 * (b @ a)
        turned = matrix.shape != product.shape or type(layer.get_base_layer()).__name__ == "Conv1D"
        with torch.no_grad():
            matrix += product.T if turned else product
            b.zero_()
    difference = (logits(model) - logits(expected)).abs().max()
    assert difference < 1e-5, f"max_diff {difference:.2e}"


@pytest.mark.parametrize("recipe", KINDS)
def test_it_generates_with_a_cache_as_without_and_does_not_leak(make, recipe):
    model = make(recipe)
    asked = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(IDS, **asked), model.generate(IDS, use_cache=False, **asked))
    assert torch.equal(
        model.generate(IDS, num_beams=3, **asked), model.generate(IDS, num_beams=3, use_cache=False, **asked)
    )
    assert future_leak(model, IDS) == 0


def test_gradient_checkpointing_changes_no_gradient(make):
    gradients = []
    for checkpointing in (False, True):
        model = make("curve").train()
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(0)  # of dropout
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert plain.keys() == again.keys() and any(name.endswith("curve.gate") for name in plain)
    assert all(".lora_" in name or ".curve." in name for name in plain)
    worst = max((plain[name] - again[name]).abs().max().item() for name in plain)
    assert worst < 1e-6, f"max_diff {worst:.2e}"


@pytest.mark.parametrize("recipe", [*KINDS, "published"])
def test_a_saved_adapter_is_small_and_reloads_to_the_same_logits(make, recipe, tmp_path, tiny_tokenizer):
    model = make(recipe)
    folder = save(model, tiny_tokenizer, tmp_path / "adapter")
    opened, tokenizer = open_model(folder)
    assert torch.equal(logits(opened), logits(model))
    assert tokenizer.get_vocab() == tiny_tokenizer.get_vocab()
    assert {n: p.requires_grad for n, p in opened.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
    assert opened.generation_config.use_cache is not model.config.leaks
    held = set(load_file(folder / adapters.MATRICES))
    assert all(".lora_" in name for name in held)
    added = set(load_file(folder / adapters.ADDED)) if (folder / adapters.ADDED).exists() else set()
    assert not [name for name in added if ".encoder." in name and recipe != "random-encoder"]
    assert not (folder / "model.safetensors").exists()


def test_peft_itself_opens_the_matrices(make, base, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = make("plain")
    save_adapter(model, tmp_path)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path)
    difference = (logits(theirs.eval()) - logits(model)).abs().max()
    assert difference < 1e-6, f"max_diff {difference:.2e}"


@pytest.mark.parametrize("recipe", KINDS)
def test_merged_equals_unmerged_and_is_a_plain_model(make, base, recipe, tiny_encoder):
    model = make(recipe)
    before = logits(model)
    with adapters.as_merged(model):
        assert (logits(model) - before).abs().max() < 1e-5
    assert torch.equal(logits(model), before), "as_merged touches nothing"
    merged = merge(model)
    difference = (logits(merged) - before).abs().max()
    assert difference < 1e-5, f"max_diff {difference:.2e}"
    plain = build_model(recipe, str(base), encoder=str(tiny_encoder))
    assert set(merged.state_dict()) == set(plain.state_dict()) and not adapters.is_adapted(merged)
    with pytest.raises(CurvekitError, match="no adapter"):
        merge(merged)


def test_half_precision_is_not_merged_because_most_weights_would_not_move(make):
    model = make("plain")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.mul_(1e-4)  # a small adapter
    before = {name: weight.bfloat16() for name, weight in adapters.beside(model).items()}
    with pytest.raises(CurvekitError, match="float32"):
        merge(make("plain").bfloat16())
    merged = merge(model)
    same = [(merged.get_submodule(name).weight.bfloat16() == weight).float().mean() for name, weight in before.items()]
    assert torch.stack(same).mean() > 0.5


# Targets


def test_targets_are_matrices_of_the_blocks_and_no_others(make, base):
    name = next(name.rpartition(".")[2] for name in matrices(build_model("plain", str(base))))
    model = make("curve-causal", trained=False, settings=Lora(targets=(name,)))
    beside = adapters.beside(model)
    assert beside and all(each.endswith(f".{name}") and ".encoder." not in each for each in beside)


@pytest.mark.parametrize("wrong", ["q_prj", "wte", "dense", "lm_head", "proj"])
def test_a_target_that_matches_nothing_is_refused_with_the_names_there_are(make, wrong):
    with pytest.raises(CurvekitError, match="there are") as refusal:
        make("curve-causal", settings=Lora(targets=(wrong,)))
    said = str(refusal.value)
    assert repr(wrong) in said and ("c_fc" in said or "gate_proj" in said) and "dense" not in said.split("there are")[1]


# Another base


def moved(base: Path, folder: Path, change) -> Path:
    """A copy of a base, with its weights changed."""
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_adapter_of_another_base_is_refused(base, tmp_path, tiny_tokenizer):
    own = shutil.copytree(base, tmp_path / "own")
    adapter = save(add_adapter(build_model("plain", str(own)), str(own), Lora()), tiny_tokenizer, tmp_path / "adapter")
    open_adapter(adapter)
    shutil.rmtree(own)
    moved(base, own, lambda weights: {name: tensor + 1e-6 for name, tensor in weights.items()})
    with pytest.raises(CurvekitError, match="was trained on the base") as refusal:
        open_adapter(adapter)
    assert adapters.weights_digest(str(own))[:12] in str(refusal.value)
    shutil.rmtree(own)
    with pytest.raises(CurvekitError, match="own"):
        open_adapter(adapter)


def test_an_adapter_of_other_shapes_is_refused(make, tmp_path, tiny_tokenizer):
    folder = save(make("curve"), tiny_tokenizer, tmp_path / "adapter")
    for file in (adapters.MATRICES, adapters.ADDED):
        whole = load_file(folder / file)
        first = sorted(whole)[0]
        save_file(whole | {first: torch.zeros(3, 5)}, folder / file)
        with pytest.raises(CurvekitError, match=r"is \[3, 5\]"):
            open_adapter(folder)
        save_file({name: tensor for name, tensor in whole.items() if name != first}, folder / file)
        with pytest.raises(CurvekitError, match="is missing"):
            open_adapter(folder)
        save_file(whole, folder / file)
    open_adapter(folder)


@pytest.mark.parametrize("file", [adapters.MATRICES, adapters.ADDED, adapters.CONFIG, adapters.BASE, "config.json"])
def test_an_adapter_that_was_cut_off_is_refused(make, tmp_path, tiny_tokenizer, file):
    folder = save(make("curve"), tiny_tokenizer, tmp_path / "adapter")
    (folder / file).write_bytes((folder / file).read_bytes()[:40])
    with pytest.raises(CurvekitError, match="whole"):
        open_adapter(folder)


def test_another_encoder_is_refused(base, tmp_path, tiny_encoder, tiny_tokenizer):
    own = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    model = build_model("curve", str(base), tiny_tokenizer, encoder=str(own))
    folder = save(add_adapter(model, str(base), Lora()), tiny_tokenizer, tmp_path / "adapter")
    weights = load_file(own / "model.safetensors")
    save_file({name: tensor + 1e-6 for name, tensor in weights.items()}, own / "model.safetensors", {"format": "pt"})
    with pytest.raises(CurvekitError, match="reads the encoder"):
        open_adapter(folder)


def test_an_adapter_is_no_base(make, tmp_path, tiny_tokenizer):
    folder = save(make("plain"), tiny_tokenizer, tmp_path / "adapter")
    with pytest.raises(CurvekitError, match="curvekit merge"):
        build_model("plain", str(folder))


# Its base by name and revision


def test_the_record_names_the_base_by_the_digest_of_its_weights(make, base, tmp_path):
    save_adapter(make("plain"), tmp_path)
    record = json.loads((tmp_path / adapters.BASE).read_text())
    assert record["base"] == str(base)
    assert record["sha256"] == hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()


def test_a_base_of_the_hub_is_named_by_its_file_in_the_cache(base, monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    digest = adapters.weights_digest(str(base))
    place = tmp_path / "models--someone--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("c" * 40)
    (place / "blobs").mkdir()
    shutil.copy(base / "model.safetensors", place / "blobs" / digest)
    (snapshot := place / "snapshots" / ("c" * 40)).mkdir(parents=True)
    shutil.copy(base / "config.json", snapshot)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{digest}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(adapters.cached, "sha256", lambda path: pytest.fail("read it all"))
    monkeypatch.setattr(hub, "cached", lambda *_: True)
    assert adapters.weights_digest("someone/tiny") == digest


def test_a_made_base_is_named_by_its_record(base, monkeypatch, tmp_path):
    folder = shutil.copytree(base, tmp_path / "made")
    (folder / "made.json").write_text(json.dumps({"files": {"model.safetensors": {"sha256": "5" * 64}}}))
    monkeypatch.setattr(adapters.cached, "sha256", lambda path: pytest.fail("read it all"))
    assert adapters.weights_digest(str(folder)) == "5" * 64


# Side by side


def test_adapters_of_one_base_hold_its_weights_once(make, base, tmp_path, tiny_tokenizer):
    from curvekit.widgets.voices import load_voices

    models = [make("plain"), make("curve"), make("plain", settings=Lora(rank=2))]
    folders = [save(model, tiny_tokenizer, tmp_path / f"voice{i}") for i, model in enumerate(models)]
    voices = load_voices([str(folder) for folder in folders])
    assert list(voices) == ["voice0", "voice1", "voice2"]
    places = [
        {name: weight.data_ptr() for name, weight in adapters.beside(model).items()} for model, _ in voices.values()
    ]
    assert places[0] == places[1] == places[2]
    for model, (voice, _) in zip(models, voices.values(), strict=True):
        assert torch.equal(logits(voice), logits(model))
    share_bases([build_model("plain", str(base))])  # what has no adapter is left alone
