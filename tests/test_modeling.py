"""CurveGPT2 is GPT-2 where it should be, and generates, saves and trains as GPT-2 does where it is more."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from curvekit.errors import CurvekitError
from curvekit.modeling import MINI, RECIPES, CurveGPT2Config, build_model

CAUSAL = [name for name in RECIPES if name != "published"]
IDS = torch.randint(1, 300, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def make(tiny_base, tiny_encoder, tiny_tokenizer):
    """Build a recipe on the tiny base; with ``open_gate`` its curve takes part, as after training."""

    def build(recipe, open_gate=True, **overrides):
        model = build_model(recipe, str(tiny_base), tiny_tokenizer, encoder=str(tiny_encoder), **overrides)
        if open_gate and getattr(model, "curve", None) is not None and model.curve.gate is not None:
            torch.nn.init.constant_(model.curve.gate, 0.7)
        return model

    return build


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


def test_recipes_differ_and_share_the_base(make):
    models = {name: make(name) for name in RECIPES}
    for name, model in models.items():
        assert torch.equal(model.transformer.h[0].mlp.c_fc.weight, models["gpt2"].transformer.h[0].mlp.c_fc.weight)
        assert model.config.recipe == name and model.config.leaks == (name == "published")
    assert torch.allclose(logits(models["sink"]), logits(models["softemax"]), atol=1e-6), "a sink starts at log C"
    seen = {name: logits(model) for name, model in models.items() if name != "sink"}
    for a in seen:
        for b in seen:
            assert a == b or not torch.allclose(seen[a], seen[b], atol=1e-5), f"{a} is {b}"


def step_by_step(model, ids, **kwargs):
    past, rows = None, []
    with torch.no_grad():
        for i in range(ids.shape[1]):
            step = model(ids[:, i : i + 1], past_key_values=past, use_cache=True, **kwargs)
            past, rows = step.past_key_values, [*rows, step.logits]
    return torch.cat(rows, 1)


@pytest.mark.parametrize("recipe", CAUSAL)
def test_one_token_at_a_time_is_the_whole_sequence(make, recipe):
    model = make(recipe)
    difference = (step_by_step(model, IDS) - logits(model)).abs().max()
    assert difference < 1e-5, f"max_diff {difference:.2e}"


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"do_sample": True}, {"cache_implementation": "static"}, {}])
@pytest.mark.parametrize("recipe", CAUSAL)
def test_cached_generation_is_uncached_generation(make, recipe, settings):
    model = make(recipe)
    runs = []
    for extra in (settings, {k: v for k, v in settings.items() if k != "cache_implementation"} | {"use_cache": False}):
        torch.manual_seed(1)
        runs.append(model.generate(IDS, max_new_tokens=9, min_new_tokens=9, **{"do_sample": False} | extra))
    assert torch.equal(*runs)


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("recipe", CAUSAL)
def test_a_left_padded_batch_generates_as_each_prompt_alone(make, recipe, cache, tiny_tokenizer):
    model = make(recipe)
    lengths = [12, 7, 3]
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    for row, length in enumerate(lengths):
        ids[row, : 12 - length], mask[row, : 12 - length] = tiny_tokenizer.pad_token_id, 0
    settings = {"max_new_tokens": 9, "min_new_tokens": 9, "do_sample": False}
    together = model.generate(ids, attention_mask=mask, cache_implementation=cache, **settings)
    for row, length in enumerate(lengths):
        alone = model.generate(IDS[row : row + 1, 12 - length :], **settings)
        assert torch.equal(together[row, 12:], alone[0, length:]), f"row {row}"


@pytest.mark.parametrize("recipe", ["curve", "curve-causal", "self-curve", "curve+softemax"])
def test_assisted_decoding_and_going_on_from_a_cache(make, recipe, tiny_base):
    model, assistant = make(recipe), GPT2LMHeadModel.from_pretrained(tiny_base).eval()
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    plain = model.generate(IDS[:1], **settings)
    assert torch.equal(plain, model.generate(IDS[:1], assistant_model=assistant, **settings))
    with torch.no_grad():
        past = model(IDS[:1, :5], use_cache=True).past_key_values
    assert torch.equal(plain, model.generate(IDS[:1], past_key_values=past, **settings))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_padding_changes_no_logits(make, recipe, side):
    model, alone = make(recipe), IDS[:1, :8]
    padding = torch.full((1, 4), 5)
    parts, ones = ([padding, alone], [0, 1]) if side == "left" else ([alone, padding], [1, 0])
    mask = torch.cat([torch.full_like(part, one) for part, one in zip(parts, ones, strict=True)], 1)
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        padded = model(torch.cat(parts, 1), attention_mask=mask, position_ids=positions, use_cache=False).logits
        difference = (padded[mask.bool()] - model(alone, use_cache=False).logits[0]).abs().max()
    assert difference < 1e-5, f"max_diff {difference:.2e}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_saved_model_reloads_by_itself(make, recipe, tmp_path, monkeypatch):
    model = make(recipe)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin")) and (tmp_path / "model.safetensors").exists()
    monkeypatch.setattr("curvekit.encoders.locate_encoder", None)  # the encoder's own checkpoint is not needed
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert again.config.recipe == recipe and again.config.leaks == model.config.leaks
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in again.named_parameters() if p.requires_grad} == trainable


def loss_and_gradients(model):
    model.zero_grad()
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("recipe", ["gpt2", "curve", "curve-causal", "curve+softemax", "sink"])
def test_gradient_checkpointing_changes_nothing(make, recipe):
    model = make(recipe, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).train()
    loss, gradients = loss_and_gradients(model)
    model.gradient_checkpointing_enable()
    again, same = loss_and_gradients(model)
    assert again == pytest.approx(loss, abs=1e-6) and set(same) == set(gradients)
    assert all(torch.allclose(same[n], gradients[n], atol=1e-6) for n in gradients)


@pytest.mark.parametrize("recipe", RECIPES)
def test_only_what_may_learn_learns(make, recipe):
    model = make(recipe).train()
    _, gradients = loss_and_gradients(model)
    assert not any(name.startswith("encoder") for name in gradients)
    missing = {n for n, p in model.named_parameters() if p.requires_grad} - set(gradients)
    assert not missing, f"no gradient reaches {missing}"
    opened = make("curve-causal", train_encoder=True).train()
    assert any(name.startswith("encoder") for name in loss_and_gradients(opened)[1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_bfloat16_autocast_is_near_float32(make, recipe):
    model = make(recipe)
    with torch.autocast("cpu", torch.bfloat16):
        low = logits(model).float()
    assert (low - logits(model)).abs().max() < 0.05


def test_the_loss_weighs_tokens_over_accumulated_batches(make):
    model = make("curve")
    with torch.no_grad():
        mean, total = model(IDS, labels=IDS).loss, model(IDS, labels=IDS, num_items_in_batch=torch.tensor(66)).loss
    assert total.item() == pytest.approx(mean.item() * 33 / 66, rel=1e-5)


@pytest.mark.parametrize("recipe", ["gpt2", "curve", "curve-causal", "curve+softemax"])
def test_it_compiles_and_keeps_its_logits(make, recipe):
    model = make(recipe)
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(IDS, use_cache=False).logits, logits(model), atol=1e-5)


def test_hidden_states_attentions_and_kept_logits(make):
    model = make("curve+softemax")
    output = model(IDS, output_hidden_states=True, output_attentions=True, logits_to_keep=2)
    assert len(output.hidden_states) == 3 and output.logits.shape[1] == 2
    assert (output.attentions[0].sum(-1) < 1).all()
    assert torch.allclose(output.logits, logits(model)[:, -2:], atol=1e-5)


def test_self_curves_take_embeddings_and_encoders_refuse_them(make):
    model = make("self-curve")
    embeds = model.get_input_embeddings()(IDS)
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=embeds).logits, logits(model))
    with pytest.raises(CurvekitError, match="give input_ids"):
        make("curve")(inputs_embeds=embeds)


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


def test_the_default_base_starts_at_the_loss_of_a_uniform_guess(tiny_tokenizer):
    model = build_model("gpt2", tokenizer=tiny_tokenizer)
    assert model.config.base_is_random and model.config.n_layer == MINI["n_layer"]
    with torch.no_grad():
        assert model(IDS, labels=IDS).loss.item() == pytest.approx(math.log(len(tiny_tokenizer)), rel=0.03)
    again, other = (build_model("gpt2", tokenizer=tiny_tokenizer, seed=seed) for seed in (0, 1))
    assert torch.equal(logits(model), logits(again)) and not torch.equal(logits(model), logits(other))


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"recipe": "curv"}, "did you mean 'curve'"),
        ({"recipe": "gpt2", "base": "gpt3"}, "did you mean 'gpt2'"),
        ({"recipe": "gpt2", "base": "gpt2"}, "HF_HUB_OFFLINE is set"),
        ({"recipe": "gpt2", "base": "mini", "tokenizer": None}, "needs its tokeniser"),
        ({"recipe": "gpt2", "attention": "softmex"}, "did you mean 'softemax'|did you mean 'softmax'"),
        ({"recipe": "curve", "contxt": "static"}, "did you mean 'context'"),
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
