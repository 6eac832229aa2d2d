"""A run with an adapter: its base stays as it is, its folder is small, and it goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from curvekit.bases import adapters
from curvekit.bases.building import build_model
from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.modeling import ARCHITECTURES
from curvekit.training.optimizers import adamw
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train


@pytest.fixture(scope="module", params=ARCHITECTURES)
def config(request, tiny_bases, tiny_corpus, tiny_encoder) -> RunConfig:
    return RunConfig(
        recipe="curve", base=str(tiny_bases[request.param]), corpus=str(tiny_corpus), encoder=str(tiny_encoder),
        adapter="lora", rank=4, adapter_dropout=0.1, model={"attention": "sink", "learn_place": True}, block_size=32,
        batch_size=4, steps=8, learning_rate=1e-2, added_rate=3.0, precision="float32", eval_every=4, save_every=3,
        sample_prompts=2, prompt_tokens=8, sample_tokens=8,
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    """One finished run that the tests share and leave as it is."""
    return train(config, tmp_path_factory.mktemp("runs") / "undisturbed", progress="none")


def rows(run) -> list[dict]:
    """The history without the clock."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run.history]


def test_the_adapter_and_the_curve_move_and_the_base_is_bit_for_bit_as_before(config, undisturbed, tiny_tokenizer):
    before = build_model("curve", config.base, tiny_tokenizer, encoder=config.encoder, **config.model)
    adapters.add_adapter(before, config.base, adapters.Lora(rank=4), config.seed)
    start, end = dict(before.named_parameters()), dict(undisturbed.model().named_parameters())
    assert start.keys() == end.keys()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    own = {"place_logit", "projection.weight", "projection.bias", "gate", "norm.weight", "norm.bias"}
    assert {name.partition(".curve.")[2] for name in moved} >= own
    assert sum(".lora_" in name for name in moved) == 2 * len(adapters.beside(before))
    assert sum(name.endswith("log_sink") for name in moved) == before.config.num_hidden_layers
    assert all(".lora_" in name or adapters.is_added(name, before) for name in moved)
    losses = [row["loss"] for row in undisturbed.history if "loss" in row]
    assert losses[-1] < losses[0] - 0.1


def test_its_folder_is_small_and_reloads_to_what_the_metrics_say(config, undisturbed, tiny_corpus, tmp_path):
    from curvekit.evaluation.metrics import score_documents

    held = {path.name for path in (undisturbed.folder / "model").iterdir()}
    assert (
        held >= {adapters.CONFIG, adapters.MATRICES, adapters.ADDED, adapters.BASE} and "model.safetensors" not in held
    )
    weights = sum(path.stat().st_size for path in (undisturbed.folder / "model").glob("*.safetensors"))
    assert weights < (Path(config.base) / "model.safetensors").stat().st_size
    texts = (tiny_corpus / "test.txt").read_text().splitlines()
    copy = shutil.copytree(undisturbed.folder, tmp_path / "copy")
    for place in (undisturbed.folder, copy / "model"):
        model, tokenizer = open_model(place)
        score = score_documents(model, tokenizer, texts, context=32)
        assert score.perplexity == pytest.approx(undisturbed.metrics["perplexity"], rel=1e-6)
    metrics = undisturbed.metrics
    lora = load_file(undisturbed.folder / "model" / adapters.MATRICES)
    added = load_file(undisturbed.folder / "model" / adapters.ADDED)
    assert metrics["trainable_parameters"] == sum(tensor.numel() for tensor in (lora | added).values())
    assert metrics["parameters"] > metrics["trainable_parameters"]


@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_stopped_run_ends_as_an_undisturbed_one(config, undisturbed, interrupted, tmp_path, step):
    folder = interrupted(config, tmp_path / "run", step=step)
    for checkpoint in (folder / "checkpoints").glob("checkpoint-*"):
        state = load_file(checkpoint / "model.safetensors")
        assert all(".lora_" in name or ".curve." in name or name.endswith("log_sink") for name in state)
    run = train(config, folder, progress="none")
    assert rows(run) == rows(undisturbed)
    ours, theirs = run.model().state_dict(), undisturbed.model().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert run.metrics["perplexity"] == undisturbed.metrics["perplexity"]


def test_with_patience_the_best_adapter_is_kept(config, tmp_path, monkeypatch):
    from curvekit.training import stepping

    losses, kept = iter([9.0, 5.0, 3.0, 4.0, 6.0, 1.0]), {}
    monkeypatch.setattr(stepping, "over_tokens", lambda predicted, ahead: {"loss": next(losses), "accuracy": 0.0})
    save = adapters.save_weights

    def watched(model, path):
        kept[path.parent.name] = {name: tensor.clone() for name, tensor in adapters.adapter_state(model).items()}
        save(model, path)

    monkeypatch.setattr(adapters, "save_weights", watched)
    patient = dataclasses.replace(config, steps=12, eval_every=2, patience=2, sample_prompts=0)
    run = train(patient, tmp_path / "run", progress="none")
    assert run.metrics["kept_step"] == 4 and run.metrics["steps"] == 8
    state = adapters.adapter_state(run.model())
    assert all(torch.equal(kept["checkpoint-4"][name], tensor) for name, tensor in state.items())
    assert not all(torch.equal(kept["checkpoint-8"][name], tensor) for name, tensor in state.items())


def test_a_run_does_not_go_on_over_another_base(config, tmp_path, interrupted):
    base = shutil.copytree(config.base, tmp_path / "base")
    own = dataclasses.replace(config, base=str(base))
    folder = interrupted(own, tmp_path / "run", step=5)
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[:-4] + bytes(4))
    with pytest.raises(CurvekitError, match="trained on other weights"):
        train(own, folder, progress="none")


def test_what_curvekit_adds_has_a_rate_of_its_own(config, tiny_tokenizer):
    model = build_model("curve", config.base, tiny_tokenizer, encoder=config.encoder, **config.model)
    adapters.add_adapter(model, config.base, adapters.Lora())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = adamw(model, 0.01, 0.1, added_rate=3.0)
    assert optimizer.param_groups[0]["lr"] == 0.01, "what the history shows"
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr"] == pytest.approx(0.03 if adapters.is_added(name, model) else 0.01)
            assert (group["weight_decay"] > 0) == (parameter.ndim == 2)
            seen.append(name)
    assert sorted(seen) == sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)


# The conformance line


def test_a_run_says_its_conformance_once_and_keeps_it(config, undisturbed, tmp_path, interrupted, capsys):
    found = undisturbed.metrics["conformance"]
    assert found["leak"] == 0 and found["tokens"] > 8
    for name in ("attention", "cached", "padding", "merge"):
        assert 0 < found[name] < found["bound"]
    assert not (undisturbed.folder / "conformance.json").exists()
    capsys.readouterr()
    folder = interrupted(config, tmp_path / "run", step=5)  # silent
    kept = json.loads((folder / "conformance.json").read_text())
    assert kept == found and "conformance" not in capsys.readouterr().err
    train(config, folder, progress="lines")
    assert "conformance" not in capsys.readouterr().err, "it was measured before the first step"
    train(dataclasses.replace(config, steps=1, adapter="none"), tmp_path / "other", progress="lines")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("conformance: ")]
    assert len(said) == 1 and "leak 0" in said[0] and "merge" not in said[0]


# Settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scratch": True}, "scratch"),
        ({"freeze": "embeddings"}, "freezes all of the base"),
        ({"optimizer": "muon"}, "muon"),
        ({"rank": 0}, "rank"),
        ({"adapter_dropout": 0.95}, "adapter_dropout"),
        ({"targets": ", "}, "targets"),
        ({"adapter": "dora"}, "lora"),
        ({"added_rate": -1.0}, "added_rate"),
    ],
    ids=str,
)
def test_settings_that_cannot_go_together_are_refused(settings, said):
    with pytest.raises(CurvekitError, match=said):
        RunConfig(**{"adapter": "lora"} | settings).validate()


def test_targets_reach_the_model_and_wrong_ones_name_the_modules(config, tmp_path):
    with pytest.raises(CurvekitError, match="'q_prj'.* there are .*mlp"):
        train(dataclasses.replace(config, targets="q_prj"), tmp_path / "wrong", progress="none")
    name = "c_fc" if "llama" not in config.base else "up_proj"
    some = dataclasses.replace(config, targets=f"mlp.{name}", steps=1, sample_prompts=0)
    run = train(some, tmp_path / "some", progress="none")
    assert {each.rpartition("mlp.")[2] for each in adapters.beside(run.model())} == {name}


def test_smollm2_starts_with_an_adapter_where_that_can_be():
    assert RunConfig(base="smollm2").adapter == "lora" and RunConfig().adapter == "none"
    assert RunConfig(base="smollm2", adapter="none").adapter == "none"
    for other in ({"scratch": True}, {"freeze": "4"}, {"optimizer": "muon"}):
        assert RunConfig(base="smollm2", **other).validate().adapter == "none"
    assert RunConfig.from_dict(RunConfig(base="smollm2").to_dict()) == RunConfig(base="smollm2")


@pytest.mark.parametrize("examples", ["packed", "padded"])
def test_the_losses_are_those_of_the_models_own_forward(config, tmp_path, monkeypatch, examples):
    from curvekit.training import stepping

    own = dataclasses.replace(config, steps=3, accumulate=2, examples=examples, sample_prompts=0)
    pieces = rows(train(own, tmp_path / "pieces", progress="none"))
    monkeypatch.setattr(stepping.RunTrainer, "compute_loss", stepping.SafeTrainer.compute_loss)
    whole = rows(train(own, tmp_path / "whole", progress="none"))
    for ours, theirs in zip(pieces, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
