"""What other people's clients and test suites do with a model: nothing is lost, nothing wrong is computed unsaid."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import builder
from torch._dynamo.testing import CompileCounter
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    StaticCache,
    pipeline,
)
from transformers.cache_utils import DynamicLayer
from transformers.integrations.executorch import register_dynamic_cache_export_support

from curvekit.bases.berts import load_bert
from curvekit.bases.building import build_model
from curvekit.errors import CurvekitError
from curvekit.modeling import ARCHITECTURES
from curvekit.recipes import RECIPES

CAUSAL = [name for name in RECIPES if name != "published"]
CURVED = [name for name, settings in RECIPES.items() if "source" in settings]
WITH_ENCODER = [name for name, settings in RECIPES.items() if settings.get("source") == "encoder"]
IDS = torch.randint(1, 300, (2, 12), generator=torch.Generator().manual_seed(0))
NEW = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request, tiny_bases):
    return tiny_bases[request.param]


@pytest.fixture(scope="module")
def make(base, tiny_encoder, tiny_tokenizer):
    return builder(base, tiny_encoder, tiny_tokenizer)


def same(a, b, bound=1e-5):
    difference = (a - b).abs().max().item()
    assert difference < bound, f"max_diff {difference:.2e}"


# The curve is a part of the base model


@pytest.mark.parametrize("recipe", RECIPES)
@torch.no_grad()
def test_the_base_model_and_then_the_head_is_the_model(make, recipe):
    model = make(recipe)
    whole = model(IDS, output_hidden_states=True, use_cache=False)
    for below in (model.base_model, model.get_decoder()):
        last = below(IDS, use_cache=False).last_hidden_state
        assert torch.equal(last, whole.hidden_states[-1])
        assert torch.equal(model.lm_head(last), whole.logits)


@pytest.mark.parametrize("recipe", ["plain", "curve+softemax"])
@torch.no_grad()
def test_the_auto_class_without_a_head_gives_states(make, recipe, tiny_tokenizer, tmp_path):
    model = make(recipe)
    model.save_pretrained(tmp_path)
    below = AutoModel.from_pretrained(tmp_path).eval()
    same(below(IDS, use_cache=False).last_hidden_state, model.base_model(IDS, use_cache=False).last_hidden_state)
    features = pipeline("feature-extraction", model=below, tokenizer=tiny_tokenizer)("The river")
    assert len(features[0][0]) == model.config.hidden_size


@pytest.mark.parametrize("recipe", CURVED)
def test_a_loss_through_the_base_model_alone_moves_the_curve(make, recipe):
    model = make(recipe)
    model.base_model(IDS, use_cache=False).last_hidden_state.square().sum().backward()
    unmoved = [name for name, p in model.base_model.curve.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unmoved


# Packed rows


@pytest.mark.parametrize("given", ["model", "base"])
@pytest.mark.parametrize("recipe", RECIPES)
@torch.no_grad()
def test_positions_that_start_anew_begin_another_document(make, recipe, given):
    lengths, model = [5, 1, 6], make(recipe)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    ask = {"model": lambda *x, **k: model(*x, **k).logits, "base": lambda *x, **k: model.base_model(*x, **k)[0]}[given]
    together = ask(IDS[:1], position_ids=positions, use_cache=False)
    alone = [ask(part, use_cache=False) for part in IDS[:1].split(lengths, 1)]
    same(together, torch.cat(alone, 1))
    assert (together - ask(IDS[:1], use_cache=False)).abs().max() > 1e-4, "the border does something"
    same(ask(IDS[:1], position_ids=positions), together)  # the default, which is to keep a cache, too


@pytest.mark.parametrize("recipe", CURVED)
@torch.no_grad()
def test_rows_of_a_batch_are_cut_each_for_itself(make, recipe):
    model = make(recipe)
    positions = torch.stack([torch.arange(12), torch.cat([torch.arange(4), torch.arange(8)])])
    together = model(IDS, position_ids=positions, use_cache=False).logits
    same(together[0], model(IDS[:1], use_cache=False).logits[0])
    same(together[1, 4:], model(IDS[1:, 4:], use_cache=False).logits[0])


@pytest.mark.parametrize("recipe", ["curve", "curve-causal"])
@torch.no_grad()
def test_a_flattened_batch_may_be_longer_than_the_positions(make, recipe):
    model, parts = make(recipe), IDS.repeat(4, 1)  # 96 words in a row: models have 64 positions, the encoder 48
    row, positions = parts.reshape(1, -1), torch.arange(12).repeat(8)[None]
    together = model(row, position_ids=positions, use_cache=False).logits
    same(together, model(parts, use_cache=False).logits.reshape(together.shape))


# Continuous batching


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in ("gpt2", "plain")])
def test_continuous_batching_is_refused_where_it_would_write_another_text(make, recipe):
    with pytest.raises(CurvekitError, match="use generate, which takes a batch"):
        make(recipe).generate_batch([[1, 2, 3]])


# What a checkpoint lacks


@pytest.mark.parametrize("recipe", ["sink", "self-curve"])
def test_what_a_checkpoint_of_the_base_lacks_starts_where_it_should(base, recipe, tmp_path):
    """Opened through the auto class, as the base's own checkpoint is by a client that adds a recipe to it."""
    fields = AutoConfig.from_pretrained(base)
    row = ARCHITECTURES[fields.model_type]
    row.model(row.config(**fields.to_dict() | {"model_type": row.config.model_type})).save_pretrained(tmp_path)
    for _ in range(3):
        torch.full((200_000,), torch.nan)  # what was in memory before is no start
        settings = RECIPES[recipe] | {"recipe": recipe, "curve_weights": "learned"}
        model = AutoModelForCausalLM.from_pretrained(tmp_path, **settings)
        fresh = row.model(model.config)
        for name, parameter in model.named_parameters():
            if name.endswith(("log_sink", "gate", "weight_logits", "norm.weight", "norm.bias")) and "curve" in name:
                assert torch.equal(parameter, fresh.get_parameter(name)), name
            assert parameter.isfinite().all(), name
        assert sum(p.numel() for n, p in model.named_parameters() if n.endswith("log_sink")) == (
            model.config.num_hidden_layers * model.config.num_attention_heads if recipe == "sink" else 0
        )


@pytest.mark.parametrize("lost", ["gate", "weight_logits", "projection.weight"])
def test_what_is_not_lost_is_kept_beside_what_is(make, lost, tmp_path):
    make("self-curve", curve_weights="learned").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {name: torch.full_like(t, 3.0) if "curve" in name else t for name, t in load_file(file).items()}
    save_file({n: t for n, t in tensors.items() if not n.endswith("curve." + lost)}, file, metadata={"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, parameter in model.base_model.curve.named_parameters():
        assert bool((parameter == 3).all()) == (name != lost), name
        assert parameter.isfinite().all()


# Models in which SoftEMax cannot take effect

SMALL = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64,
}  # fmt: skip
DECODER = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "vocab_size": 60}
OWN_MASKS = {  # they build their own masks, for their own attention alone
    "bloom": {"vocab_size": 60, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gpt_neox_japanese": SMALL,
    "trocr": DECODER,
    "mvp": DECODER | {"encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48},
    "xglm": {"vocab_size": 60, "d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
    "codegen": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "megatron-bert": SMALL | {"is_decoder": True},
    "roformer": SMALL | {"is_decoder": True},
    "rembert": SMALL | {"is_decoder": True},
}
OWN_ATTENTION = {  # they ask no interface which attention to use
    "openai-gpt": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "xlnet": {"vocab_size": 60, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "deberta-v2": SMALL,
    "xlm": {"vocab_size": 60, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "prophetnet": {"vocab_size": 60, "hidden_size": 32, "num_encoder_layers": 1, "num_decoder_layers": 1},
    "mpnet": SMALL,
    "gpt_neo": {"vocab_size": 60, "hidden_size": 32, "num_layers": 2, "num_heads": 4,
                "attention_types": [[["global", "local"], 1]]},
    "gptj": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "falcon": {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mpt": {"vocab_size": 60, "d_model": 32, "n_layers": 2, "n_heads": 4},
}  # fmt: skip
AUTO = {"mvp": AutoModelForSeq2SeqLM, "deberta-v2": AutoModel, "mpnet": AutoModel}


@pytest.mark.parametrize("attention", ["softemax", "softemax-published"])
@pytest.mark.parametrize("kind", [*OWN_MASKS, *OWN_ATTENTION])
def test_a_model_that_would_keep_its_softmax_or_lose_its_mask_is_refused(kind, attention):
    config = AutoConfig.for_model(kind, **(OWN_MASKS | OWN_ATTENTION)[kind])
    auto = AUTO.get(kind, AutoModelForCausalLM)
    with pytest.raises(CurvekitError, match="its attention does not go through transformers' interface"):
        auto.from_config(copy.deepcopy(config), attn_implementation=attention)
    auto.from_config(config)  # as it is, it is made as ever


def test_a_model_is_refused_from_its_checkpoint_too_and_cannot_be_set_later(tmp_path):
    config = AutoConfig.for_model("bloom", **OWN_MASKS["bloom"])
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    with pytest.raises(CurvekitError, match="in BloomModel: its attention"):
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="softemax")
    model.set_attn_implementation("softemax")  # transformers warns and leaves it as it is
    assert model.config._attn_implementation == "eager"


def test_gpt_neo_is_supported_with_a_class_of_its_own(tiny_bases):
    theirs = AutoModelForCausalLM.from_pretrained(tiny_bases["gpt_neo"]).eval()
    ours = build_model("softemax", str(tiny_bases["gpt_neo"]))
    with torch.no_grad():
        assert (ours(IDS).logits - theirs(IDS).logits).abs().max() > 1e-4


LLAMA_LIKE = SMALL | {"num_key_value_heads": 2, "head_dim": 8}


@pytest.mark.parametrize(
    ("kind", "settings", "what"),
    [
        ("gemma2", LLAMA_LIKE, "attn_logit_softcapping"),
        ("gpt_oss", LLAMA_LIKE | {"num_local_experts": 2, "num_experts_per_tok": 1}, "sinks of its own"),
    ],
)
def test_a_soft_cap_or_sinks_of_its_own_are_not_lost_unsaid(kind, settings, what):
    config = AutoConfig.for_model(kind, **settings)
    with pytest.raises(CurvekitError, match=what):
        AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="softemax")(IDS % 60)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.set_attn_implementation("softemax")
    with pytest.raises(CurvekitError, match="a soft cap on its scores|sinks of its own"):
        model(IDS % 60)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "sinks", "relative_bias", "cu_seq_lens_q"])
def test_an_argument_that_would_change_the_weights_is_never_left_out(make, name):
    model = make("softemax")
    with pytest.raises(CurvekitError, match="SoftEMax does not have"):
        model(IDS, use_cache=False, **{name: torch.ones(2)})


@torch.no_grad()
def test_arguments_that_change_nothing_pass(make):
    model = make("softemax")
    plain = model(IDS, use_cache=False).logits
    same(model(IDS, use_cache=False, num_items_in_batch=torch.tensor(3), return_dict=True).logits, plain)


# Encoders that are not whole


def damaged(tiny_encoder, folder, damage):
    for file in tiny_encoder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    if damage == "no tokeniser":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    elif damage == "cut off tokeniser":
        (folder / "tokenizer.json").write_bytes((tiny_encoder / "tokenizer.json").read_bytes()[:500])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut off weights":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    else:
        tensors = load_file(weights)
        if damage == "a tensor less":
            del tensors["embeddings.word_embeddings.weight"]
        elif damage == "another shape":
            tensors["embeddings.LayerNorm.bias"] = torch.zeros(7)
        elif damage == "ids beyond the table":
            tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"][:9].clone()
            config = AutoConfig.from_pretrained(folder)
            config.vocab_size = 9
            config.save_pretrained(folder)
        save_file(tensors, weights, metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("no tokeniser", "has no tokeniser files; put its tokenizer.json or vocab.txt beside its weights"),
        ("cut off tokeniser", "has no readable tokeniser"),
        ("no weights", "encoder .* whole"),
        ("cut off weights", r"model\.safetensors is not whole"),
        ("a tensor less", r"encoder .* embeddings\.word_embeddings\.weight"),
        ("another shape", r"encoder .* embeddings\.LayerNorm\.bias"),
        ("ids beyond the table", r"has ids up to \d+, its table of embeddings 9 rows"),
    ],
)
def test_an_encoder_that_is_not_whole_is_refused_in_a_sentence(tiny_encoder, tmp_path, damage, sentence):
    assert load_bert(damaged(tiny_encoder, tmp_path, "nothing"))
    with pytest.raises(CurvekitError, match=sentence) as caught:
        load_bert(damaged(tiny_encoder, tmp_path, damage))
    assert "\n" not in str(caught.value)


# Masks


def padded_batch():
    mask = torch.ones_like(IDS)
    mask[1, :5] = 0
    return {"input_ids": IDS.masked_fill(mask == 0, 0), "attention_mask": mask, "pad_token_id": 0}


@pytest.mark.parametrize("recipe", ["self-curve", "curve-causal", "softemax"])
def test_every_step_with_a_static_cache_has_inputs_of_one_shape(make, recipe, monkeypatch):
    """Else a compiled model is compiled anew at every word."""
    model, shapes = make(recipe), []
    inner = type(model.base_model)._prepared

    def watched(self, ids, attention, positions, cache, embeds, use_cache, padding):
        shapes.append([None if each is None else tuple(each.shape) for each in (ids, attention, positions, padding)])
        return inner(self, ids, attention, positions, cache, embeds, use_cache, padding)

    monkeypatch.setattr(type(model.base_model), "_prepared", watched)
    static = model.generate(**padded_batch(), cache_implementation="static", **NEW)
    assert len(shapes) == 6 and all(shape == shapes[1] for shape in shapes[1:])
    assert torch.equal(static, model.generate(**padded_batch(), **NEW))


@pytest.mark.slow
def test_compiled_a_padded_batch_is_compiled_once_for_all_steps(tiny_base, tiny_encoder, tiny_tokenizer):
    torch.compiler.reset()
    model = builder(tiny_base, tiny_encoder, tiny_tokenizer)("self-curve")
    want = model.generate(**padded_batch(), **NEW)
    frames = CompileCounter()
    model.forward = torch.compile(model.forward, backend=frames, dynamic=False)
    cache = StaticCache(model.config, 24)
    found = model.generate(**padded_batch(), past_key_values=cache, disable_compile=True, **NEW)
    assert torch.equal(found, want)
    before = frames.frame_count
    model.generate(**padded_batch(), past_key_values=StaticCache(model.config, 24), disable_compile=True, **NEW)
    assert frames.frame_count == before and before <= 4, f"{before} frames were compiled for 6 steps"


@pytest.mark.parametrize("recipe", CURVED)
@torch.no_grad()
def test_a_word_that_the_mask_hides_within_a_text_enters_nothing(make, recipe):
    model, mask = make(recipe), torch.ones_like(IDS)
    mask[:, 5:7] = 0
    other = IDS.clone()
    other[:, 5:7] = 299
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    first, second = (model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
                     for ids in (IDS, other))  # fmt: skip
    same(first[mask.bool()], second[mask.bool()])
    without = IDS[mask.bool()].view(2, 10)
    if "window_size" in model.config.to_dict():
        return  # a local window counts the hidden words too, as transformers' own does
    same(first[mask.bool()], model(without, use_cache=False).logits.flatten(0, 1))


# The encoder's own attention


@pytest.mark.parametrize("recipe", ["curve-causal", "published"])
@torch.no_grad()
def test_the_encoder_follows_when_the_formula_is_asked_for(make, recipe, tmp_path):
    model = make(recipe)
    plain = model(IDS, use_cache=False).logits
    asked = lambda of: of.base_model.encoder.bert.config._attn_implementation  # noqa: E731
    assert asked(model) == "sdpa"
    model.save_pretrained(tmp_path)
    for name in ("eager", "sdpa"):
        assert asked(AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=name)) == name
        model.set_attn_implementation(name)
        assert asked(model) == name
        same(model(IDS, use_cache=False).logits, plain)
        mask = torch.ones_like(IDS)
        mask[0, :3] = 0
        assert model(IDS, attention_mask=mask, use_cache=False).logits[:, 3:].isfinite().all()


# Caches


@pytest.fixture
def export_support():
    """transformers' registration of its cache for export, taken back afterwards."""
    pytree = torch.utils._pytree
    assert DynamicCache not in pytree.SUPPORTED_NODES
    register_dynamic_cache_export_support()
    yield
    pytree._deregister_pytree_node(DynamicCache)


@pytest.mark.parametrize("recipe", ["plain", "self-curve", "curve-causal", "softemax"])
@torch.no_grad()
def test_a_cache_can_be_taken_apart_and_put_together_for_export(make, recipe, export_support):
    model = make(recipe)
    past = model(IDS[:, :8], use_cache=True).past_key_values
    assert {type(layer) for layer in past.layers} == {DynamicLayer}
    leaves, spec = torch.utils._pytree.tree_flatten(past)
    again = torch.utils._pytree.tree_unflatten([leaf.clone() for leaf in leaves], spec)
    same(model(IDS[:, 8:], past_key_values=again).logits, model(IDS, use_cache=False).logits[:, 8:])


@pytest.mark.parametrize("recipe", CAUSAL)
@torch.no_grad()
def test_a_cache_is_made_of_its_data(make, recipe):
    model = make(recipe)
    past = model(IDS[:, :8], use_cache=True).past_key_values
    data = [(keys.clone(), values.clone()) for keys, values, _ in past]
    want = model(IDS, use_cache=False).logits[:, 8:]
    for again in (DynamicCache(data, config=model.config), DynamicCache(data), past):
        same(model(IDS[:, 8:], past_key_values=again).logits, want)


@pytest.mark.parametrize("recipe", CAUSAL)
def test_a_static_cache_read_in_chunks_writes_the_same(make, recipe):
    model = make(recipe)
    chunked = model.generate(IDS, cache_implementation="static", prefill_chunk_size=5, disable_compile=True, **NEW)
    assert torch.equal(chunked, model.generate(IDS, **NEW))


def test_layers_of_different_shapes_are_refused(make):
    with pytest.raises(CurvekitError, match="leave per_layer_config out"):
        type(make("plain").config)(per_layer_config={0: {"intermediate_size": 8}})


@pytest.mark.parametrize("recipe", WITH_ENCODER)
def test_a_config_knows_the_layers_of_its_past(make, recipe):
    model = make(recipe)
    if model.config.leaks:
        assert model.config.past_layers == 0
        return
    past = model(IDS, use_cache=True).past_key_values
    assert len(past.layers) == model.config.num_hidden_layers + model.config.past_layers
