"""In every recipe a GPT-2, and with every part each architecture, does what transformers expects of such a model."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import EVERY_PART, PARTS, WHOLE, builder, everywhere
from transformers import AutoModelForCausalLM, pipeline
from transformers.cache_utils import DynamicCache, StaticCache

from curvekit.bases.building import architecture_of
from curvekit.causality import future_leak
from curvekit.errors import CurvekitError
from curvekit.normalisers import LOG_C
from curvekit.recipes import RECIPES

CAUSAL = [name for name in RECIPES if name != "published"]
WITH_ENCODER = [name for name, settings in RECIPES.items() if settings.get("source") == "encoder"]
IDS = torch.randint(1, 300, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def make(base, tiny_encoder, tiny_tokenizer):
    return builder(base, tiny_encoder, tiny_tokenizer)


def without_dropout(make, recipe):
    row = architecture_of(make(recipe).config)
    return make(recipe, **dict.fromkeys((*row.dropouts, row.attention_dropout), 0.0)).train()


ALL = {"max_new_tokens": 9, "min_new_tokens": 9, "do_sample": False}


def logits(model, ids=IDS, **kwargs):
    with torch.no_grad():
        return model(ids, use_cache=False, **kwargs).logits


def greedy(model, ids, steps=9):
    """The loop as it reads: the likeliest token, the whole text read anew for each; end-of-text never."""
    for _ in range(steps):
        scores = logits(model, ids)[:, -1]
        scores[:, model.config.eos_token_id] = -torch.inf
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], 1)
    return ids


# What it computes


@everywhere(["gpt2", "plain"])
def test_the_plain_recipe_is_transformers_own(make, base, recipe):
    ours, theirs = without_dropout(make, recipe).eval(), AutoModelForCausalLM.from_pretrained(base).eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert ours.num_parameters() == theirs.num_parameters()
    mask = torch.ones_like(IDS)
    mask[0, :5] = 0
    for settings in ({}, {"attention_mask": mask}):
        seen = settings.get("attention_mask", torch.ones_like(IDS)).bool()
        difference = (logits(ours, **settings) - logits(theirs, **settings))[seen].abs().max()
        assert difference < 1e-5, f"max_diff {difference:.2e}"  # GPT-Neo's own attention is the formula
        assert torch.equal(ours.generate(IDS, **ALL | settings), theirs.generate(IDS, **ALL | settings))
    (loss, gradients), (again, same) = map(loss_and_gradients, (ours, theirs))
    assert loss == pytest.approx(again, abs=1e-6) and gradients.keys() == same.keys()
    assert all(torch.allclose(gradients[name], same[name], atol=1e-5) for name in same)


@everywhere(CAUSAL)
def test_more_words_than_positions_are_read_where_the_base_reads_them(make, recipe):
    """Rotations go on beyond the 64 positions of the tiny bases; tables of positions, an encoder's too, end."""
    model, ids = make(recipe), IDS.repeat(1, 6)
    if model.config.model_type == "curve_llama" and recipe != "curve-causal":
        assert logits(model, ids).isfinite().all()
    else:
        with pytest.raises((CurvekitError, IndexError), match="more than the|out of range"):
            logits(model, ids)


@everywhere(RECIPES)
def test_it_leaks_exactly_where_it_says(make, recipe):
    model = make(recipe)
    leak = future_leak(model, IDS)
    assert (leak > 1e-3) if model.config.leaks else (leak == 0), leak
    assert model.config.leaks == (recipe == "published")


def attended(module, model, states, keywords, mask):
    """An attention's output as its definition reads, in float64, from its weights and nothing else of the code's."""
    heads, kind = model.config.num_attention_heads, model.config.model_type.removeprefix("curve_")
    take = lambda part, x: torch.nn.functional.linear(x, part.weight.double(), None if part.bias is None else  # noqa: E731
                                                      part.bias.double())  # fmt: skip
    split = lambda x: x.unflatten(-1, (-1, model.config.hidden_size // heads)).transpose(1, 2)  # noqa: E731
    states, (time, width) = states.double(), states.shape[1:]
    if kind == "gpt2":
        q, k, v = (states @ module.c_attn.weight.double() + module.c_attn.bias.double()).split(width, -1)
    else:
        q, k, v = (take(getattr(module, name), states) for name in ("q_proj", "k_proj", "v_proj"))
    q, k, v = map(split, (q, k, v))
    if kind == "llama":  # rotated by the position, then each key head serves several query heads
        cos, sin = (each.double().unsqueeze(1) for each in keywords["position_embeddings"])
        turn = lambda x: torch.cat([-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]], -1)  # noqa: E731
        q, k = (x * cos + turn(x) * sin for x in (q, k))
        group = [head // (heads // k.shape[1]) for head in range(heads)]
        k, v = k[:, group], v[:, group]
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * (1.0 if kind == "gpt_neo" else q.shape[-1] ** -0.5)
    i, j = torch.arange(time)[:, None], torch.arange(time)[None]
    seen = (j <= i) & mask.bool()[:, None, None]
    if kind == "gpt_neo" and module.attention_type == "local":
        seen = seen & (j > i - model.config.window_size)
    attention = model.config.attention
    sink = getattr(
        module, "log_sink", torch.full((heads,), {"softmax": -torch.inf, "softmax1": 0.0}.get(attention, LOG_C))
    )
    weights = scores.exp() * seen
    weights = weights / (weights.sum(-1, keepdim=True) + sink.double().exp().view(-1, 1, 1))
    out = (weights @ v).transpose(1, 2).flatten(-2)
    return out @ module.c_proj.weight.double() + module.c_proj.bias if kind == "gpt2" else take(
        module.out_proj if kind == "gpt_neo" else module.o_proj, out)  # fmt: skip


@pytest.mark.parametrize("padded", [False, True])
@everywhere(RECIPES)
@torch.no_grad()
def test_attention_is_its_formula(make, recipe, padded):
    """In every layer: scale or none, local windows (6 of 12 words), rotation, grouped heads, sinks of each head."""
    model, mask, modules = make(recipe), torch.ones_like(IDS), []
    if padded:
        mask[0, :5], mask[1, :1] = 0, 0
    for module in model.base_model._attentions():
        for name, parameter in module.named_parameters():
            parameter.mul_(6.0 if name.endswith("weight") else 1.0)  # weights that are not all alike
        if recipe == "sink":
            module.log_sink.copy_(torch.linspace(-2, 4, len(module.log_sink)))
        module.register_forward_hook(lambda *call: modules.append(call), with_kwargs=True)
    logits(model, attention_mask=mask if padded else None)
    assert len(modules) == model.config.num_hidden_layers
    for module, given, keywords, output in modules:
        states = given[0] if given else keywords["hidden_states"]
        difference = (output[0] - attended(module, model, states, keywords, mask))[mask.bool()].abs().max()
        assert difference < 1e-5 * max(1.0, output[0].abs().max().item()), f"max_diff {difference:.2e}"


# Generation


@everywhere(RECIPES)
def test_greedy_generation_is_a_loop_over_argmax(make, recipe):
    model = make(recipe)
    assert torch.equal(model.generate(IDS, **ALL), greedy(model, IDS))


def step_by_step(model, ids, past=None):
    rows = []
    with torch.no_grad():
        for i in range(ids.shape[1]):
            step = model(ids[:, i : i + 1], past_key_values=past, use_cache=True)
            past, rows = step.past_key_values, [*rows, step.logits]
    return torch.cat(rows, 1)


@pytest.mark.parametrize("cache", [None, "dynamic", "static"])
@everywhere(CAUSAL)
def test_one_token_at_a_time_is_the_whole_sequence(make, recipe, cache):
    model = make(recipe)
    kinds = {"dynamic": lambda: DynamicCache(config=model.config), "static": lambda: StaticCache(model.config, 20)}
    difference = (step_by_step(model, IDS, kinds[cache]() if cache else None) - logits(model)).abs().max()
    assert difference < 1e-5, f"max_diff {difference:.2e}"


@everywhere(CAUSAL)
def test_a_text_read_in_chunks_is_the_whole_sequence(make, recipe):
    model, past, rows = make(recipe), None, []
    with torch.no_grad():
        for chunk in IDS.split([5, 1, 4, 2], 1):
            step = model(chunk, past_key_values=past, use_cache=True)
            past, rows = step.past_key_values, [*rows, step.logits]
    difference = (torch.cat(rows, 1) - logits(model)).abs().max()
    assert difference < 1e-5, f"max_diff {difference:.2e}"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 2, "do_sample": True},
        {"do_sample": True, "top_k": 20, "num_return_sequences": 2},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"cache_implementation": "static"},
    ],
    ids=str,
)
@everywhere(PARTS, parts=WHOLE)
def test_cached_generation_is_uncached_generation(make, recipe, settings):
    model = make(recipe)
    runs = []
    for extra in (settings, {k: v for k, v in settings.items() if k != "cache_implementation"} | {"use_cache": False}):
        torch.manual_seed(1)
        runs.append(model.generate(IDS, **ALL | extra))
    assert torch.equal(*runs)


@pytest.mark.parametrize("cache", [None, "static"])
@everywhere(EVERY_PART, parts=WHOLE)
def test_a_left_padded_batch_generates_as_each_prompt_alone(make, recipe, cache, tiny_tokenizer):
    model = make(recipe)
    if cache and model.config.leaks:
        pytest.skip("its past cannot be cached")
    lengths = [12, 7, 3]
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    for row, length in enumerate(lengths):
        ids[row, : 12 - length], mask[row, : 12 - length] = tiny_tokenizer.pad_token_id, 0
    together = model.generate(ids, attention_mask=mask, cache_implementation=cache, **ALL)
    for row, length in enumerate(lengths):
        alone = model.generate(IDS[row : row + 1, 12 - length :], **ALL)
        assert torch.equal(together[row, 12:], alone[0, length:]), f"row {row}"


@everywhere(EVERY_PART, parts=WHOLE)
def test_assisted_decoding_writes_what_the_model_writes_alone(make, recipe, base):
    model, assistant = make(recipe), AutoModelForCausalLM.from_pretrained(base).eval()
    if model.config.leaks:
        with pytest.raises((CurvekitError, ValueError), match="cache"):
            model.generate(IDS[:1], assistant_model=assistant, **ALL)
        return
    plain = model.generate(IDS[:1], **ALL)
    assert torch.equal(plain, model.generate(IDS[:1], assistant_model=assistant, **ALL))
    assert torch.equal(plain, model.generate(IDS[:1], prompt_lookup_num_tokens=3, **ALL))
    ours = make("gpt2")
    assert torch.equal(ours.generate(IDS[:1], **ALL), ours.generate(IDS[:1], assistant_model=model, **ALL))


@everywhere(CAUSAL)
def test_it_goes_on_from_a_cache(make, recipe):
    model = make(recipe)
    plain = model.generate(IDS[:1], **ALL)
    with torch.no_grad():
        past = model(IDS[:1, :5], use_cache=True).past_key_values
    first = model.generate(IDS[:1], past_key_values=past, return_dict_in_generate=True, **ALL)
    assert torch.equal(plain, first.sequences)
    more = model.generate(first.sequences, past_key_values=first.past_key_values, **ALL)
    assert torch.equal(more, model.generate(plain, **ALL))


@everywhere(RECIPES)
def test_embeddings_in_place_of_tokens_are_read_alike_or_refused(make, recipe):
    model = make(recipe)
    embeds = model.get_input_embeddings()(IDS)
    if recipe in WITH_ENCODER:
        for ask in (lambda: model(inputs_embeds=embeds), lambda: model.generate(inputs_embeds=embeds, **ALL)):
            with pytest.raises(CurvekitError, match="give input_ids|cannot be cached"):
                ask()
        return
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=embeds).logits, logits(model))
    assert torch.equal(model.generate(inputs_embeds=embeds, **ALL), model.generate(IDS, **ALL)[:, 12:])


@everywhere(RECIPES)
def test_the_pipeline_writes_what_the_model_writes(make, recipe, tiny_tokenizer):
    model = make(recipe)
    write = pipeline("text-generation", model=model, tokenizer=tiny_tokenizer)
    prompts = ["The river", "A bank is a place for"]
    outputs = write(prompts, return_full_text=False, batch_size=2, **ALL)
    for prompt, (output,) in zip(prompts, outputs, strict=True):
        ids = tiny_tokenizer(prompt, return_tensors="pt")["input_ids"]
        new = model.generate(ids, **ALL)[0, ids.shape[1] :]
        assert output["generated_text"] == tiny_tokenizer.decode(new, skip_special_tokens=True)


# Outputs


@everywhere(RECIPES)
def test_kept_logits_are_those_of_the_positions(make, recipe):
    model = make(recipe)
    whole = logits(model)
    assert torch.allclose(logits(model, logits_to_keep=2), whole[:, -2:], atol=1e-6)
    chosen = torch.tensor([0, 7])
    assert torch.allclose(logits(model, logits_to_keep=chosen), whole[:, chosen], atol=1e-6)


@everywhere(RECIPES)
def test_hidden_states_and_attentions_on_request(make, recipe):
    model = make(recipe)
    if model.config.attention == "softmax":
        model.set_attn_implementation("eager")  # as in transformers: sdpa returns none
    with torch.no_grad():
        output = model(IDS, output_hidden_states=True, output_attentions=True, use_cache=False)
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    assert [tuple(each.shape) for each in output.hidden_states] == [(3, 12, model.config.hidden_size)] * (layers + 1)
    assert torch.allclose(model.lm_head(output.hidden_states[-1]), output.logits, atol=1e-5)
    assert [tuple(each.shape) for each in output.attentions] == [(3, heads, 12, 12)] * layers
    assert torch.allclose(output.logits, logits(model), atol=1e-5), "asking changes nothing"
    for weights in output.attentions:
        assert (weights >= 0).all() and (weights.triu(1) == 0).all()
        rows = weights.sum(-1)
        if model.config.attention == "softmax":
            assert torch.allclose(rows, torch.ones_like(rows), atol=1e-6)
        else:
            assert (rows < 1).all() and (rows > 0).all()


@everywhere(["softemax", "sink"])
def test_a_configuration_may_ask_for_the_attentions(make, recipe, tmp_path):
    model = make(recipe)
    model.save_pretrained(tmp_path)
    asked = AutoModelForCausalLM.from_pretrained(tmp_path, output_attentions=True)
    with torch.no_grad():
        found, wanted = asked(IDS), model(IDS, output_attentions=True)
    assert all(torch.equal(*pair) for pair in zip(found.attentions, wanted.attentions, strict=True))
    with pytest.raises(ValueError, match="not supported when using the `attn_implementation` set to sdpa"):
        make("plain").config.output_attentions = True  # as in transformers


@everywhere(CAUSAL)
def test_generation_returns_them_too(make, recipe):
    settings = {"output_attentions": True, "output_hidden_states": True, "output_logits": True}
    model = make(recipe)
    if model.config.attention == "softmax":
        model.set_attn_implementation("eager")
    output = model.generate(IDS, return_dict_in_generate=True, **settings, **ALL)
    assert len(output.attentions) == len(output.hidden_states) == len(output.logits) == 9
    assert output.attentions[3][0].shape[-2:] == (1, 15)
    assert output.hidden_states[3][-1].shape[1] == 1


@everywhere(["softemax", "sink"])
def test_softemax_is_not_exchanged_for_softmax_unawares(make, recipe, tmp_path):
    model = make(recipe)
    for other in ("eager", "sdpa"):
        with pytest.raises(CurvekitError, match=f"{other}' would replace"):
            model.set_attn_implementation(other)
    model.set_attn_implementation("softemax")
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("side", ["left", "right"])
@everywhere(RECIPES)
def test_padding_changes_no_logits(make, recipe, side):
    model, alone = make(recipe), IDS[:1, :8]
    padding = torch.full((1, 4), 5)
    parts, ones = ([padding, alone], [0, 1]) if side == "left" else ([alone, padding], [1, 0])
    mask = torch.cat([torch.full_like(part, one) for part, one in zip(parts, ones, strict=True)], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    padded = logits(model, torch.cat(parts, 1), attention_mask=mask, position_ids=positions)
    difference = (padded[mask.bool()] - logits(model, alone)[0]).abs().max()
    assert difference < 1e-5, f"max_diff {difference:.2e}"


# Saving and changing


@everywhere(RECIPES)
def test_a_saved_model_reloads_by_itself(make, recipe, tmp_path, monkeypatch):
    model = make(recipe)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin")) and (tmp_path / "model.safetensors").exists()
    monkeypatch.setattr("curvekit.bases.berts.locate_encoder", None)  # the encoder's own checkpoint is not needed
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert again.config.recipe == recipe and again.config.leaks == model.config.leaks
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in again.named_parameters() if p.requires_grad} == trainable
    assert torch.equal(again.generate(IDS, **ALL), model.generate(IDS, **ALL))


@pytest.mark.parametrize("size", [403, 350])
@everywhere(EVERY_PART, parts=WHOLE)
def test_a_resized_vocabulary_is_read_saved_and_trained(make, recipe, size, tmp_path):
    model = make(recipe)
    before = logits(model)
    model.resize_token_embeddings(size)
    assert torch.allclose(logits(model)[..., :300], before[..., :300], atol=1e-6), "known tokens are read as before"
    ids = torch.cat([IDS, torch.full((3, 1), size - 1)], 1)
    assert logits(model, ids).isfinite().all() and logits(model, ids).shape[-1] == size
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path), ids), logits(model, ids))
    trainable = {name for name, p in make(recipe).named_parameters() if p.requires_grad}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 0.1)
    losses = []
    for _ in range(3):
        loss = model.train()(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def loss_and_gradients(model):
    model.zero_grad()
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reentrant", [False, True])
@everywhere(RECIPES)
def test_gradient_checkpointing_changes_nothing(make, recipe, reentrant):
    model = without_dropout(make, recipe)
    loss, gradients = loss_and_gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    again, same = loss_and_gradients(model)
    assert again == pytest.approx(loss, abs=1e-6) and set(same) == set(gradients)
    assert all(torch.allclose(same[n], gradients[n], atol=1e-6) for n in gradients)


@everywhere(["plain", "curve3+sites+softemax"])
def test_a_configuration_may_ask_for_checkpointing(make, recipe):
    config = copy.deepcopy(make(recipe).config)
    config.gradient_checkpointing = True
    model = type(make(recipe))(config)
    assert model.is_gradient_checkpointing and not hasattr(model.config, "gradient_checkpointing")


@everywhere(WHOLE, parts=("curve3+sites+softemax",))
def test_it_traces_and_keeps_its_logits(make, recipe):
    model = make(recipe)
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(IDS, use_cache=False).logits, logits(model), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "recipe"),
    [("gpt2", "curve3+sites+softemax"), pytest.param("llama", "curve-causal", marks=pytest.mark.long)],
    indirect=["base"],
)
def test_compiled_it_keeps_its_logits_and_gradients(make, recipe):
    torch.compiler.reset()
    model = without_dropout(make, recipe)
    loss, gradients = loss_and_gradients(model)
    compiled = torch.compile(model)
    with torch.no_grad():
        difference = (compiled(IDS, use_cache=False).logits - logits(model)).abs().max()
    assert difference < 1e-5, f"max_diff {difference:.2e}"
    model.zero_grad()
    again = compiled(IDS, labels=IDS).loss
    again.backward()
    assert again.item() == pytest.approx(loss, abs=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-5), name


# Data types


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("bfloat16", 0.05), ("float16", 0.01)])
@everywhere(EVERY_PART, parts=WHOLE)
def test_it_runs_in_other_types(make, recipe, dtype, tolerance):
    model, reference = make(recipe).to(getattr(torch, dtype)), logits(make(recipe))
    found = logits(model)
    assert found.dtype == getattr(torch, dtype)
    difference = (found.double() - reference.double()).abs().max()
    assert difference < tolerance, f"max_diff {difference:.2e}"
    assert model.generate(IDS, **ALL).shape == (3, 21)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@everywhere(EVERY_PART, parts=WHOLE)
def test_it_loads_in_other_types(make, recipe, dtype, tmp_path):
    make(recipe).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype))
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert logits(model).isfinite().all()


@everywhere(RECIPES)
def test_bfloat16_autocast_is_near_float32(make, recipe):
    model = make(recipe)
    with torch.autocast("cpu", torch.bfloat16):
        low = logits(model).float()
    assert (low - logits(model)).abs().max() < 0.05
