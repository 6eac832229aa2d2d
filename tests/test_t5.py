"""A T5 does in every recipe that fits it what transformers expects, and its decoder leaks nothing."""

from __future__ import annotations

import pytest
import torch
from tiny import builder
from transformers import AutoModel, AutoModelForSeq2SeqLM
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from curvekit.bases.building import build_model
from curvekit.causality import future_leak
from curvekit.errors import CurvekitError
from curvekit.evaluation.conformance import conformance
from curvekit.modeling import to_be_replaced
from curvekit.normalisers import LOG_C
from curvekit.recipes import RECIPES
from curvekit.t5 import CurveT5ForConditionalGeneration
from curvekit.training.optimizers import muon

FITTING = [name for name, settings in RECIPES.items() if not settings.get("sites") and name != "gpt2"]
CURVED = [name for name in FITTING if "source" in RECIPES[name]]
WITH_ENCODER = [name for name in CURVED if RECIPES[name]["source"] == "encoder"]
ATTENTIONS = ["plain", "softemax", "softmax1", "sink"]
OF_EACH_KIND = ["plain", "softemax", "sink", "published", "curve+softemax", "self-curve", "curve-causal"]
DICE = torch.Generator().manual_seed(0)
SOURCE = torch.randint(1, 300, (3, 14), generator=DICE)
TARGET = torch.randint(1, 300, (3, 9), generator=DICE)
BEGUN = torch.cat([torch.zeros(3, 1, dtype=torch.long), TARGET[:, :-1]], 1)  # what the decoder reads
ALL = {"max_new_tokens": 9, "min_new_tokens": 9, "do_sample": False}


@pytest.fixture(scope="module")
def make(tiny_t5, tiny_encoder, tiny_tokenizer):
    build = builder(tiny_t5, tiny_encoder, tiny_tokenizer)
    return lambda recipe, **settings: build(recipe, **{"dropout_rate": 0.0} | settings)


def padded(side="right"):
    """The source with 5 and 1 words less in its first two rows, and its mask."""
    ids, mask = SOURCE.clone(), torch.ones_like(SOURCE)
    for row, gap in ((0, 5), (1, 1)):
        where = slice(-gap, None) if side == "right" else slice(gap)
        ids[row, where], mask[row, where] = 0, 0
    return ids, mask


@torch.no_grad()
def logits(model, source=SOURCE, begun=BEGUN, **kwargs):
    return model(source, decoder_input_ids=begun, use_cache=False, **kwargs).logits


def same(a, b, bound=1e-5):
    difference = (a - b).abs().max().item()
    assert difference < bound, f"max_diff {difference:.2e}"


# What it computes


def test_the_plain_recipe_is_transformers_own(make, tiny_t5):
    ours, theirs = make("plain"), AutoModelForSeq2SeqLM.from_pretrained(tiny_t5, dropout_rate=0.0).eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert ours.num_parameters() == theirs.num_parameters()
    ids, mask = padded()
    assert torch.equal(logits(ours), logits(theirs))
    assert torch.equal(logits(ours, ids, attention_mask=mask), logits(theirs, ids, attention_mask=mask))
    losses = [model.train()(SOURCE, labels=TARGET).loss for model in (ours, theirs)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert all(torch.allclose(p.grad, gradients[name], atol=1e-6) for name, p in ours.named_parameters())


@pytest.mark.parametrize("recipe", FITTING)
def test_the_decoder_leaks_nothing_whatever_the_curve_sees_of_the_source(make, recipe):
    model = make(recipe)
    assert future_leak(model, SOURCE) == 0 and not model.config.leaks


def test_the_leak_check_sees_a_decoder_that_looks_ahead(make, monkeypatch):
    model = make("plain")
    whole = model.decoder.forward
    monkeypatch.setattr(
        model.decoder, "forward",
        lambda **given: whole(**given | {"input_ids": given["input_ids"].flip(1)}),
    )  # fmt: skip
    assert future_leak(model, SOURCE) > 1e-3


@pytest.mark.parametrize("recipe", CURVED)
def test_the_curve_runs_through_the_source(make, recipe):
    """A gate that is open changes the logits; a source that differs in one word differs where the window says."""
    model = make(recipe)
    assert (logits(model) - logits(make("plain", attention=model.config.attention))).abs().max() > 1e-4
    altered = SOURCE.clone()
    altered[:, 7] = altered[:, 7] % 299 + 1
    seen = []
    hook = model.encoder.curve.register_forward_hook(lambda module, given, out: seen.append(out))
    for ids in (SOURCE, altered):
        logits(model, ids)
    hook.remove()
    moved = (seen[0] - seen[1]).abs().amax((0, 2)) > 1e-7
    ahead, behind = moved[:7].any(), moved[8:].any()
    assert bool(ahead) == (recipe == "published") and (bool(behind) or recipe in ("encoder", "random-encoder"))


def attended(module, config, query_states, key_states, bias, seen):
    """T5's attention as its definition reads, in float64: no scale, the bias of the distance, the member's sink."""
    take = lambda part, x: (x.double() @ part.weight.double().T).unflatten(-1, (config.num_heads, config.d_kv))  # noqa: E731
    q, k, v = (take(part, x).transpose(1, 2) for part, x in (
        (module.q, query_states), (module.k, key_states), (module.v, key_states)))  # fmt: skip
    weights = (q @ k.mT + bias).exp() * seen
    start = {"softmax": -torch.inf, "softmax1": 0.0}.get(config.attention, LOG_C)
    sink = getattr(module, "log_sink", torch.full((config.num_heads,), start)).double()
    weights = weights / (weights.sum(-1, keepdim=True) + sink.exp().view(-1, 1, 1))
    return (weights @ v).transpose(1, 2).flatten(-2) @ module.o.weight.double().T


def bias_of(module, queries, keys, causal):
    """T5's buckets of a distance, by a loop: exact ones, then logarithmic ones up to 12 words away, 8 in all."""
    table, rows = module.relative_attention_bias.weight.double(), []
    for i in range(queries):
        row = []
        for j in range(keys):
            count, bucket = (8, 0) if causal else (4, 4 * (j > i))
            away, exact = (max(i - j, 0) if causal else abs(i - j)), count // 2
            if away < exact:
                bucket += away
            else:
                share = torch.log(torch.tensor(away / exact)) / torch.log(torch.tensor(12 / exact))
                bucket += min(exact + int(share * (count - exact)), count - 1)
            row.append(table[bucket])
        rows.append(torch.stack(row))
    return torch.stack(rows).permute(2, 0, 1)  # [heads, queries, keys]


@pytest.mark.parametrize("recipe", ATTENTIONS)
@torch.no_grad()
def test_its_three_attentions_are_their_formula(make, recipe):
    model, calls = make(recipe), {}
    if recipe == "sink":
        for name, parameter in model.named_parameters():
            if name.endswith("log_sink"):
                parameter.copy_(torch.linspace(-2, 3, len(parameter)))
    attentions = {n: m for n, m in model.named_modules() if n.endswith(("SelfAttention", "EncDecAttention"))}
    assert len(attentions) == 2 + 2 * 3
    for name, module in attentions.items():
        module.register_forward_hook(lambda *call, name=name: calls.update({name: call[1:]}), with_kwargs=True)
    ids, mask = padded()
    logits(model, ids, attention_mask=mask)
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    for name, (given, keywords, output) in calls.items():
        kind = "cross" if "EncDec" in name else name.split(".")[0]
        first = attentions.get(f"{kind}.block.0.layer.0.SelfAttention")
        states = given[0]
        source = keywords["key_value_states"] if kind == "cross" else states
        bias = 0.0 if kind == "cross" else bias_of(first, states.shape[1], states.shape[1], kind == "decoder")
        seen = causal if kind == "decoder" else mask[:, None, None].bool()
        wanted = attended(attentions[name], model.config, states, source, bias, seen)
        real = mask.bool() if kind == "encoder" else torch.ones(3, 9, dtype=torch.bool)
        same(output[0].double()[real], wanted[real], 1e-5 * max(1.0, wanted.abs().max().item()))


@pytest.mark.parametrize("recipe", OF_EACH_KIND)
def test_its_conformance_line_finds_nothing(make, recipe, tiny_tokenizer):
    found = conformance(make(recipe), tiny_tokenizer)
    assert not found.failures, found.line()
    assert found.cached is not None and found.leak == 0


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("recipe", FITTING)
def test_padding_of_the_source_changes_no_logits(make, recipe, side):
    model = make(recipe)
    ids, mask = padded(side)
    together = logits(model, ids, attention_mask=mask)
    for row in range(3):
        alone = ids[row][mask[row].bool()][None]
        same(together[row], logits(model, alone, BEGUN[row : row + 1])[0])


# Generation


def greedy(model, steps=9):
    begun = torch.zeros(3, 1, dtype=torch.long)
    for _ in range(steps):
        scores = logits(model, begun=begun)[:, -1]
        scores[:, model.config.eos_token_id] = -torch.inf
        begun = torch.cat([begun, scores.argmax(-1, keepdim=True)], 1)
    return begun


@pytest.mark.parametrize("recipe", FITTING)
def test_greedy_generation_is_a_loop_over_argmax(make, recipe):
    model = make(recipe)
    assert torch.equal(model.generate(SOURCE, attention_mask=torch.ones_like(SOURCE), **ALL), greedy(model))


@pytest.mark.parametrize("recipe", OF_EACH_KIND)
@torch.no_grad()
def test_one_token_at_a_time_is_the_whole_target(make, recipe):
    model, rows = make(recipe), []
    read = model.encoder(SOURCE)
    past = EncoderDecoderCache(DynamicCache(), DynamicCache())
    for i in range(9):
        step = model(encoder_outputs=read, decoder_input_ids=BEGUN[:, i : i + 1], past_key_values=past, use_cache=True)
        past, rows = step.past_key_values, [*rows, step.logits]
    same(torch.cat(rows, 1), logits(model))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 2, "do_sample": True},
        {"do_sample": True, "top_k": 20, "num_return_sequences": 2},
        {"cache_implementation": "static"},
    ],
    ids=str,
)
@pytest.mark.parametrize("recipe", ["plain", "softemax", "sink", "published"])
def test_cached_generation_is_uncached_generation(make, recipe, settings):
    model, (ids, mask), runs = make(recipe), padded(), []
    for extra in (settings, {k: v for k, v in settings.items() if k != "cache_implementation"} | {"use_cache": False}):
        torch.manual_seed(1)
        runs.append(model.generate(ids, attention_mask=mask, **ALL | extra))
    assert torch.equal(*runs)


@pytest.mark.parametrize("recipe", OF_EACH_KIND)
def test_a_padded_batch_writes_what_each_source_alone_does(make, recipe):
    model = make(recipe)
    ids, mask = padded()
    together = model.generate(ids, attention_mask=mask, **ALL)
    for row in range(3):
        alone = ids[row][mask[row].bool()][None]
        assert torch.equal(together[row], model.generate(alone, attention_mask=torch.ones_like(alone), **ALL)[0])


# Outputs, saving, training


@pytest.mark.parametrize("recipe", OF_EACH_KIND)
def test_attentions_on_request_change_nothing(make, recipe):
    model = make(recipe)
    if model.config.attention == "softmax":
        model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(SOURCE, decoder_input_ids=BEGUN, output_attentions=True, output_hidden_states=True, use_cache=False)
    same(out.logits, logits(model))
    assert [len(each) for each in (out.encoder_attentions, out.decoder_attentions, out.cross_attentions)] == [2, 3, 3]
    assert out.cross_attentions[0].shape == (3, 2, 9, 14) and len(out.decoder_hidden_states) == 4
    for weights in (*out.encoder_attentions, *out.cross_attentions):
        rows = weights.sum(-1)
        assert torch.allclose(rows, torch.ones_like(rows)) if model.config.attention == "softmax" else (rows < 1).all()


@pytest.mark.parametrize("recipe", FITTING)
def test_a_saved_model_reloads_by_itself(make, recipe, tmp_path, monkeypatch):
    model = make(recipe)
    model.save_pretrained(tmp_path)
    monkeypatch.setattr("curvekit.bases.berts.locate_encoder", None)  # the encoder's own checkpoint is not needed
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(again) is CurveT5ForConditionalGeneration and torch.equal(logits(again), logits(model))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in again.named_parameters() if p.requires_grad} == trainable
    below = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        states = below(SOURCE, decoder_input_ids=BEGUN, use_cache=False).last_hidden_state
    same(model.lm_head(states * model.model_dim**-0.5), logits(model))


def test_an_untied_scale_survives_a_recipe(tiny_t5, tiny_tokenizer, tmp_path):
    """T5 1.1 does not scale the decoder's output, which its configuration says by a name of old."""
    from transformers import T5Config, T5ForConditionalGeneration

    fields = T5Config.from_pretrained(tiny_t5).to_dict()
    del fields["scale_decoder_outputs"]
    config = T5Config(**fields | {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"})
    assert not config.scale_decoder_outputs
    theirs = T5ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    ours = build_model("plain", str(tmp_path))
    assert ours.config.scale_decoder_outputs == theirs.config.scale_decoder_outputs
    assert torch.equal(logits(ours), logits(theirs))


@pytest.mark.parametrize("size", [403, 350])
@pytest.mark.parametrize("recipe", ["plain", "published", "curve+softemax"])
def test_a_resized_vocabulary_is_read_and_saved(make, recipe, size, tmp_path):
    model = make(recipe)
    before = logits(model)
    model.resize_token_embeddings(size)
    same(logits(model)[..., :300], before[..., :300])
    ids = torch.cat([SOURCE, torch.full((3, 1), size - 1)], 1)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForSeq2SeqLM.from_pretrained(tmp_path), ids), logits(model, ids))


def loss_and_gradients(model, labels=TARGET):
    model.zero_grad()
    loss = model(SOURCE, labels=labels).loss
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("recipe", OF_EACH_KIND)
def test_gradient_checkpointing_changes_nothing(make, recipe, reentrant):
    model = make(recipe).train()
    loss, gradients = loss_and_gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    again, same_ones = loss_and_gradients(model)
    assert again == pytest.approx(loss, abs=1e-6) and set(same_ones) == set(gradients)
    assert all(torch.allclose(same_ones[n], gradients[n], atol=1e-6) for n in gradients)


def test_every_part_of_a_recipe_is_trained(make):
    model = make("curve+softemax", attention="sink").train()
    _, gradients = loss_and_gradients(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(gradients) == trained and all(gradient.any() for gradient in gradients.values())
    assert sum(name.endswith("log_sink") for name in trained) == 2 + 2 * 3
    first, second = muon(model, 1e-3, 0.1).parts
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    stepped = [{names[id(p)] for group in part.param_groups for p in group["params"]} for part in (first, second)]
    assert set.union(*stepped) == trained and not set.intersection(*stepped)
    assert all(".block." in name and name.endswith("weight") for name in stepped[0])
    assert not any("relative_attention_bias" in name for name in stepped[0])


def test_what_is_padded_in_a_target_is_not_scored_and_batches_weigh_by_their_tokens(make):
    model, labels = make("plain"), TARGET.clone()
    labels[0, 3:] = -100
    with torch.no_grad():
        scores = model(SOURCE, labels=labels).logits.log_softmax(-1)
        each = -scores.gather(-1, TARGET[..., None])[..., 0]
        wanted = (each[0, :3].sum() + each[1:].sum()) / 21
        same(model(SOURCE, labels=labels).loss, wanted)
        parts = [model(SOURCE[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=21).loss for i in range(3)]
    same(sum(parts), wanted)


@pytest.mark.parametrize("recipe", OF_EACH_KIND)
def test_dropout_and_other_types_run(make, recipe):
    reference = logits(make(recipe))
    for dtype, bound in ((torch.bfloat16, 0.2), (torch.float16, 0.05), (torch.float64, 1e-4)):
        low = logits(make(recipe).to(dtype))
        assert low.dtype == dtype
        same(low.double(), reference.double(), bound * reference.abs().max().item())
    with torch.autocast("cpu", torch.bfloat16):
        same(logits(make(recipe)).float(), reference, 0.2 * reference.abs().max().item())
    model = make(recipe, dropout_rate=0.3).train()
    losses = {model(SOURCE, labels=TARGET).loss.item() for _ in range(2)}
    assert len(losses) == 2 and all(loss == loss for loss in losses)


# What does not fit


@pytest.mark.parametrize(("recipe", "settings", "said"), [
    ("canon", {}, "mixes neighbouring states in the blocks"),
    ("smear", {}, "mixes neighbouring states in the blocks"),
    ("gpt2", {}, "on a T5 take 'plain'"),
    ("plain", {"attention": "inverse"}, "hold its position bias"),
    ("plain", {"freeze": "all_but_head"}, "a T5's head is its embeddings"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(make, recipe, settings, said):
    with pytest.raises(CurvekitError, match=said):
        make(recipe, **settings)


def test_every_other_recipe_fits(make):
    assert set(FITTING) == {name for name in RECIPES if name != "gpt2" and not RECIPES[name].get("sites")}
    assert {"published", "curve", "curve+softemax", "softemax", "trigram"} <= set(FITTING)


@pytest.mark.parametrize("attention", ["published", "plus"])
def test_members_without_a_sum_fit_too(make, attention):
    model = make("plain", attention=attention)
    assert logits(model).isfinite().all() and model.decoder.config._attn_implementation == f"softemax-{attention}"


def test_softemax_is_not_exchanged_for_softmax_unawares(make):
    model = make("softemax")
    for other in ("eager", "sdpa"):
        with pytest.raises(CurvekitError, match=f"{other}' would replace"):
            model.set_attn_implementation(other)
    assert {stack.config._attn_implementation for stack in (model, model.encoder, model.decoder)} == {"softemax"}


def test_random_weights_are_those_of_t5(tiny_t5, tiny_tokenizer, tiny_encoder):
    ours = build_model("published", str(tiny_t5), tiny_tokenizer, encoder=str(tiny_encoder), scratch=True, d_model=48)
    assert ours.shared.weight.std().item() == pytest.approx(1.0, abs=0.05) and ours.config.d_model == 48
    assert ours.encoder.block[0].layer[0].SelfAttention.o.weight.std().item() == pytest.approx(24**-0.5, rel=0.1)
    made = CurveT5ForConditionalGeneration(ours.config)
    assert made.shared.weight.std().item() == pytest.approx(1.0, abs=0.05)
    for own, plain in zip(made.state_dict().items(), ours.state_dict().items(), strict=True):
        if own[0].endswith(("q.weight", "k.weight", "o.weight", "wi.weight", "wo.weight")):
            assert own[1].std().item() == pytest.approx(plain[1].std().item(), rel=0.15), own[0]
    assert made.encoder.embed_tokens.weight is made.shared.weight is made.lm_head.weight
    with to_be_replaced(ours.config):
        assert ours.config._attn_implementation == "eager"
    assert ours.config._attn_implementation == "sdpa"
