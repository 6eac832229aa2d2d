"""CurveGPT2 is GPT-2 where it should be; its recipes differ, share the base, and train what may learn."""

import math

import pytest
import torch
from transformers import GPT2LMHeadModel

from curvekit.bases.building import MINI, build_model
from curvekit.configuration import CurveGPT2Config
from curvekit.errors import CurvekitError
from curvekit.recipes import RECIPES

IDS = torch.randint(1, 300, (3, 12), generator=torch.Generator().manual_seed(0))


def logits(model, **kwargs):
    with torch.no_grad():
        return model(IDS, use_cache=False, **kwargs).logits


def test_the_recipe_gpt2_is_transformers_own(make, tiny_base):
    theirs = GPT2LMHeadModel.from_pretrained(tiny_base).eval()
    ours = make("gpt2")
    assert torch.equal(logits(ours), logits(theirs))
    assert set(ours.state_dict()) == set(theirs.state_dict())
    assert ours.num_parameters() == theirs.num_parameters()


@pytest.mark.parametrize("recipe", ["curve", "encoder", "self-curve", "random-encoder", "curve-causal"])
def test_a_gated_recipe_is_bit_for_bit_the_base_before_its_first_step(make, tiny_base, recipe):
    theirs = GPT2LMHeadModel.from_pretrained(tiny_base).eval()
    assert torch.equal(logits(make(recipe, open_gate=False)), logits(theirs))
    assert not torch.equal(logits(make(recipe)), logits(theirs))


def test_a_sink_of_minus_infinity_starts_undisturbed(make, tiny_base):
    theirs = GPT2LMHeadModel.from_pretrained(tiny_base).eval()
    assert torch.allclose(logits(make("sink", log_sink=-50.0)), logits(theirs), atol=1e-6)
    assert not torch.allclose(logits(make("sink")), logits(theirs), atol=1e-4)
    assert torch.allclose(logits(make("softemax", log_sink=-50.0)), logits(theirs), atol=1e-6), "a fixed one too"
    assert torch.equal(logits(make("gpt2", log_sink=-50.0)), logits(theirs)), "softmax has none: a sweep's baseline"
    with pytest.raises(CurvekitError, match="fixed sink"):
        CurveGPT2Config(log_sink=1.0)


def test_a_model_with_code_of_its_own_is_refused_and_not_asked_about(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "alien", "auto_map": {"AutoConfig": "evil.Config"}}')
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    for load in (lambda: build_model("gpt2", str(tmp_path)), lambda: build_model("curve", encoder=str(tmp_path))):
        with pytest.raises(CurvekitError):
            load()


_ALIKE = (
    "sink",
    "curve+sink",
    "curve3+sink",
    "gpt2",
    "curve3-places",
    "sites-zero",
)  # another begins as they do; what they learn differs


def test_recipes_differ_and_share_the_base(make):
    models = {name: make(name) for name in RECIPES}
    for name, model in models.items():
        assert torch.equal(model.transformer.h[0].mlp.c_fc.weight, models["gpt2"].transformer.h[0].mlp.c_fc.weight)
        assert model.config.recipe == name and model.config.leaks == (name == "published")
    assert torch.allclose(logits(models["sink"]), logits(models["softemax"]), atol=1e-6), "a sink starts at log C"
    assert torch.equal(logits(models["gpt2"]), logits(models["plain"])), "two names of the base itself"
    assert torch.allclose(logits(models["curve3"]), logits(models["curve3-places"]), atol=1e-5), "places start alike"
    seen = {name: logits(model) for name, model in models.items() if name not in _ALIKE}
    for a in seen:
        for b in seen:
            assert a == b or not torch.allclose(seen[a], seen[b], atol=1e-5), f"{a} is {b}"


def loss_and_gradients(model):
    model.zero_grad()
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("recipe", RECIPES)
def test_only_what_may_learn_learns(make, recipe):
    model = make(recipe).train()
    _, gradients = loss_and_gradients(model)
    assert not any(name.startswith("transformer.encoder") for name in gradients)
    missing = {n for n, p in model.named_parameters() if p.requires_grad} - set(gradients)
    assert not missing, f"no gradient reaches {missing}"
    opened = make("curve-causal", train_encoder=True).train()
    assert any(name.startswith("transformer.encoder") for name in loss_and_gradients(opened)[1])


def test_the_loss_weighs_tokens_over_accumulated_batches(make):
    model = make("curve")
    with torch.no_grad():
        mean, total = model(IDS, labels=IDS).loss, model(IDS, labels=IDS, num_items_in_batch=torch.tensor(66)).loss
    assert total.item() == pytest.approx(mean.item() * 33 / 66, rel=1e-5)


def test_the_published_recipe_keeps_no_past(make):
    model = make("published")
    assert model.generate(IDS, max_new_tokens=4, do_sample=False).shape == (3, 16)
    assert model(IDS).past_key_values is None
    past = make("gpt2")(IDS, use_cache=True).past_key_values
    with pytest.raises(CurvekitError, match="cannot be cached"):
        model(IDS, past_key_values=past)


def test_more_tokens_than_the_encoder_has_positions(make):
    long = IDS.repeat(1, 5)[:, :50]  # the tiny GPT-2 has 64 positions, its encoder 48
    assert make("curve").config.max_context == 64 and make("curve")(long).logits.shape[1] == 50
    model = make("curve-causal")
    assert model.config.max_context == 48
    with pytest.raises(CurvekitError, match="50 tokens are more than the 48 positions"):
        model(long)


def test_the_first_layers_of_an_encoder_are_those_of_the_whole(make, tiny_tokenizer, tmp_path):
    whole, first = make("curve-causal"), make("curve-causal", encoder_layers=1)
    assert len(whole.curved.encoder.bert.encoder.layer) == 2 and len(first.curved.encoder.bert.encoder.layer) == 1
    assert whole.config.past_layers - first.config.past_layers == 1
    _, after_one, _ = whole.curved.encoder.bert(IDS, output_hidden_states=True).hidden_states
    assert torch.equal(first.curved.encoder(IDS), after_one)
    first.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    again = build_model("curve-causal", str(tmp_path), tiny_tokenizer, encoder=first.config.encoder, encoder_layers=1)
    assert torch.equal(logits(first), logits(again))
    anew = build_model("curve-causal", str(tmp_path), tiny_tokenizer, encoder=first.config.encoder)
    assert len(anew.curved.encoder.bert.encoder.layer) == 2, "a base with other layers than are asked for gives none"


def test_from_scratch_a_model_starts_at_the_loss_of_a_uniform_guess(tiny_tokenizer):
    model = build_model("gpt2", tokenizer=tiny_tokenizer, scratch=True)
    assert model.config.base_is_random and model.config.n_layer == MINI["n_layer"]
    with torch.no_grad():
        assert model(IDS, labels=IDS).loss.item() == pytest.approx(math.log(len(tiny_tokenizer)), rel=0.03)
    again, other = (build_model("gpt2", tokenizer=tiny_tokenizer, scratch=True, seed=seed) for seed in (0, 1))
    assert torch.equal(logits(model), logits(again)) and not torch.equal(logits(model), logits(other))


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"recipe": "curv"}, "did you mean 'curve'"),
        ({"recipe": "gpt2", "base": "gpt3"}, "did you mean 'gpt2'"),
        ({"recipe": "gpt2", "base": "gpt2"}, "HF_HUB_OFFLINE is set"),
        ({"recipe": "gpt2", "tokenizer": None, "scratch": True}, "the vocabulary is the tokeniser's"),
        ({"recipe": "gpt2", "scratch": True, "n_head": 7}, f"n_embd is {MINI['n_embd']}, which 7 heads cannot share"),
        ({"recipe": "gpt2", "n_layer": 2}, "unknown model setting 'n_layer'"),
        ({"recipe": "gpt2", "attention": "softmex"}, "did you mean 'softemax'|did you mean 'softmax'"),
        ({"recipe": "curve", "contxt": "static"}, "did you mean 'context'"),
        ({"recipe": "curve-causal", "encoder_layers": 7}, "encoder_layers is 7, and the encoder 'minilm' has 6"),
        ({"recipe": "curve-causal", "encoder_layers": 0}, "encoder_layers is 0; give 1 or more"),
        ({"recipe": "curve", "random_encoder": "no"}, "random_encoder is 'no'; give true or false"),
        ({"recipe": "curve", "degree": 2.5}, r"degree is 2\.5; give a whole number"),
        ({"recipe": "curve", "channels": "point"}, "channels is 'point'; give a list"),
        ({"recipe": "curve", "normalisation": "layernrm"}, "did you mean 'layernorm'"),
        ({"recipe": "gpt2", "freeze": 1}, "freeze is 1; give text"),
    ],
)
def test_wrong_names_are_refused_in_one_sentence(make, tiny_tokenizer, arguments, message):
    with pytest.raises(CurvekitError, match=message):
        build_model(**{"tokenizer": tiny_tokenizer, "base": "mini"} | arguments)


def test_a_checkpoint_cut_off_in_the_middle_is_said_to_be(tiny_base, tiny_tokenizer, tmp_path):
    for file in tiny_base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CurvekitError, match="not whole"):
        build_model("gpt2", str(tmp_path), tiny_tokenizer)


def test_a_whole_number_is_a_number(make):
    assert all((block.attn.log_sink == 0).all() for block in make("sink", log_sink=0).transformer.h)


def test_the_recipe_without_a_curve_stays_without_one(make):
    assert make("encoder", degree=3).config.degree == 0 and make("curve", degree=3).config.degree == 3


def test_a_causal_model_on_a_base_that_leaked_keeps_the_past(make, tiny_tokenizer, tmp_path):
    make("published").save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    model = build_model("gpt2", str(tmp_path), tiny_tokenizer)
    assert model.config.use_cache and model(IDS).past_key_values is not None


def test_a_configuration_survives_its_json():
    config = CurveGPT2Config(recipe="curve", degree=3, place=0.25, window="trailing", channels=["point", "tangent"])
    again = CurveGPT2Config.from_dict(config.to_dict())
    assert (again.degree, again.place, list(again.channels), again.recipe) == (3, 0.25, ["point", "tangent"], "curve")


@pytest.mark.parametrize("recipe", ["curve+softemax", "self-curve", "sink"])
def test_of_a_base_that_curvekit_saved_its_gpt2_is_taken_and_nothing_else(make, recipe, tiny_tokenizer, tmp_path):
    make(recipe).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    model = build_model("gpt2", str(tmp_path), tiny_tokenizer)
    assert (model.config.source, model.config.attention, model.config.recipe) == ("none", "softmax", "gpt2")
    assert torch.equal(logits(model), logits(make("gpt2")))
