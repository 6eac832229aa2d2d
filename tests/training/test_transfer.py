"""Transfer: what is frozen keeps its weights to the bit, is in no optimiser, and is not counted as trained."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from curvekit.bases.building import build_model
from curvekit.configuration import CurveGPT2Config
from curvekit.errors import CurvekitError
from curvekit.normalisers import LOG_C
from curvekit.training import trainer as training
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train

EMBEDDINGS = {"transformer.wte.weight", "transformer.wpe.weight"}


def block(n):
    return f"transformer.h.{n}."


def expected(name: str, freeze: str) -> bool:
    """Whether a parameter of a base with two blocks keeps its weights."""
    if name.endswith("log_sink") or name.startswith("transformer.curve.") or freeze == "none":
        return False
    if name.startswith(("transformer.wte", "transformer.wpe")):
        return True
    blocks = {"embeddings": 0, "all_but_head": 2}.get(freeze)
    return any(name.startswith(block(n)) for n in range(int(freeze) if blocks is None else blocks))


@pytest.fixture(scope="module")
def config(tiny_base, tiny_corpus) -> RunConfig:
    return RunConfig(
        recipe="gpt2", base=str(tiny_base), corpus=str(tiny_corpus), block_size=32, batch_size=4, steps=6,
        learning_rate=1e-2, eval_every=3, save_every=2, sample_prompts=0, precision="float32",
    )  # fmt: skip


@pytest.mark.parametrize("recipe", ["gpt2", "sink", "self-curve"])
@pytest.mark.parametrize("freeze", ["none", "embeddings", "0", "1", "2", "all_but_head"])
def test_freeze_names_what_is_trained(recipe, freeze, tiny_base, tiny_tokenizer):
    model = build_model(recipe, str(tiny_base), tiny_tokenizer, freeze=freeze)
    for mode in (False, True, False):
        model.train(mode)
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert frozen == {name for name, _ in model.named_parameters() if expected(name, freeze)}


def sinks(config, folder, **settings) -> torch.Tensor:
    """The learned sinks after one step that moves nothing."""
    settings = {"recipe": "sink", "steps": 1, "learning_rate": 0.0} | settings
    model = train(dataclasses.replace(config, **settings), folder, progress="none").model()
    return torch.stack([p.detach() for name, p in model.named_parameters() if name.endswith("log_sink")])


def test_new_sinks_in_a_pretrained_model_begin_where_they_take_almost_nothing(config, tmp_path):
    low, lower = (sinks(config, tmp_path / str(share), sink_share=share) for share in (0.05, 0.001))
    assert low.unique().numel() == low.numel(), "a sink for each head"
    assert torch.allclose(low - lower, (torch.tensor(0.05).logit() - torch.tensor(0.001).logit()).expand_as(low))


@pytest.mark.parametrize(
    "settings", [{"sink_share": 0.0}, {"scratch": True}, {"model": {"log_sink": 1.5}}, {"learning_rate": 1e-2}]
)
def test_sinks_begin_at_their_constant_where_that_is_asked_and_stay_where_a_base_brings_them(
    settings, config, tmp_path
):
    found = sinks(config, tmp_path / "first", **settings)
    if "learning_rate" in settings:  # of a run whose sinks have moved, which is a base now
        again = sinks(config, tmp_path / "second", base=str(tmp_path / "first" / "model"))
        assert torch.equal(found, again)
    else:
        assert (found == settings.get("model", {}).get("log_sink", LOG_C)).all()


@pytest.mark.parametrize("freeze", ["none", "embeddings", "1", "all_but_head"])
def test_frozen_weights_stay_and_the_others_move(freeze, config, tmp_path, tiny_base, tiny_tokenizer):
    settings = dataclasses.replace(config, recipe="sink", sink_share=0.0, freeze=freeze)
    run = train(settings, tmp_path / "run", progress="none")
    before = dict(build_model("sink", str(tiny_base), tiny_tokenizer, freeze=freeze).named_parameters())
    model = run.model()
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    still = {name for name in after if torch.equal(before[name], after[name])}
    assert still == {name for name in after if expected(name, freeze)}
    trained = sum(after[name].numel() for name in after if not expected(name, freeze))
    assert run.metrics["trainable_parameters"] == trained
    assert run.metrics["parameters"] == sum(parameter.numel() for parameter in after.values())


def test_the_optimiser_holds_what_is_trained_and_nothing_else(config, tmp_path, monkeypatch):
    seen = []

    class Spy(training.RunTrainer):
        def create_optimizer(self, *args, **kwargs):
            optimizer = super().create_optimizer(*args, **kwargs)
            names = {id(parameter): name for name, parameter in self.model.named_parameters()}
            seen.append({names[id(p)] for group in optimizer.param_groups for p in group["params"]})
            return optimizer

    monkeypatch.setattr(training, "RunTrainer", Spy)
    train(dataclasses.replace(config, freeze="all_but_head"), tmp_path / "run", progress="none")
    assert seen[0] == {"lm_head.weight", "transformer.ln_f.weight", "transformer.ln_f.bias"}


def test_a_head_of_its_own_begins_as_the_embeddings_and_survives_a_reload(tiny_base, tiny_tokenizer, tmp_path):
    tied = build_model("gpt2", str(tiny_base), tiny_tokenizer)
    model = build_model("gpt2", str(tiny_base), tiny_tokenizer, freeze="all_but_head")
    ids = torch.tensor([tiny_tokenizer("The river was low in summer")["input_ids"]])
    assert torch.equal(model(ids).logits, tied(ids).logits)
    assert model.lm_head.weight is not model.transformer.wte.weight
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    wanted = model(ids).logits
    for freeze in ("none", "all_but_head", "1"):  # as a base it brings its head along
        assert torch.equal(build_model("gpt2", str(tmp_path), tiny_tokenizer, freeze=freeze)(ids).logits, wanted)
    assert build_model("gpt2", str(tmp_path), tiny_tokenizer).config.freeze == "none"


@pytest.mark.parametrize("freeze", ["1", "all_but_head"])
def test_a_frozen_run_goes_on_after_a_kill(freeze, config, tmp_path, interrupted):
    config = dataclasses.replace(config, freeze=freeze, dropout=0.1)
    whole = train(config, tmp_path / "whole", progress="none")

    resumed = train(config, interrupted(config, tmp_path / "killed", step=5), progress="none")
    first, second = ([row.get("loss", row.get("validation_loss")) for row in run.history] for run in (whole, resumed))
    assert first == second
    for name, parameter in whole.model().state_dict().items():
        assert torch.equal(parameter, resumed.model().state_dict()[name]), name


def test_frozen_embeddings_and_gradient_checkpointing_train_the_same_weights(config, tmp_path):
    runs = [
        train(dataclasses.replace(config, freeze="1", gradient_checkpointing=on), tmp_path / str(on), progress="none")
        for on in (False, True)
    ]
    plain, checkpointed = (run.model().state_dict() for run in runs)
    apart = max((plain[name] - checkpointed[name]).abs().max().item() for name in plain)
    assert apart < 1e-5, apart


@pytest.mark.parametrize("freeze", ["head", "-1", "1.5", "", "all", "²"])
def test_what_freeze_cannot_be_is_one_sentence(freeze, config):
    with pytest.raises(CurvekitError, match="give none, embeddings, all_but_head, or a number of first blocks"):
        dataclasses.replace(config, freeze=freeze).validate()


def test_more_blocks_than_there_are_and_frozen_random_weights_are_refused(config, tmp_path):
    with pytest.raises(CurvekitError, match="freeze is '3', but the base has 2 blocks; give at most 2"):
        train(dataclasses.replace(config, freeze="3"), tmp_path / "run", progress="none")
    with pytest.raises(CurvekitError, match="random weights would stay random"):
        dataclasses.replace(config, freeze="1", scratch=True).validate()
    with pytest.raises(CurvekitError, match="freeze is 3; give text"):
        dataclasses.replace(config, freeze=3).validate()
    assert not CurveGPT2Config(freeze="all_but_head").tie_word_embeddings
