"""Fused SoftEMax attention is the formula: values, gradients, masks, grouped heads, caches, real architectures."""

import math

import pytest
import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.masking_utils import eager_mask

from curvekit.attention import eager_softemax_attention, implementation, softemax_attention
from curvekit.errors import CurvekitError
from curvekit.normalisers import LOG_C, MEMBERS, VARIANTS

SINKS = [variant for variant in VARIANTS if MEMBERS[variant].sink not in ("none", "zero")]


def tensors(*shapes, dtype=torch.float64, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad) for s in shapes]


def masks(kind, batch, heads, queries, keys):
    generator = torch.Generator().manual_seed(9)
    if kind == "bool":
        mask = torch.rand(batch, 1, queries, keys, generator=generator) > 0.4
    elif kind == "padding":
        mask = (torch.arange(keys) >= torch.arange(batch)[:, None])[:, None, None]
    elif kind == "additive":
        mask = torch.randn(batch, heads, queries, keys, generator=generator, dtype=torch.float64)
    elif kind == "matrix":
        mask = torch.zeros(queries, keys, dtype=torch.float64).masked_fill(
            torch.rand(queries, keys, generator=generator) > 0.6, -math.inf
        )
    else:
        mask = None
    return mask


@pytest.mark.parametrize("kind", ["none", "causal", "bool", "padding", "additive", "matrix"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_equals_the_formula_with_its_gradients(variant, kind):
    q, k, v = tensors((2, 4, 6, 8), (2, 4, 7, 8), (2, 4, 7, 8))
    if kind == "causal":
        k, v = k[:, :, :6], v[:, :, :6]
    settings = {"variant": variant, "is_causal": kind == "causal", "mask": masks(kind, 2, 4, 6, 7)}
    fused = softemax_attention(q, k, v, **settings)
    formula, _ = eager_softemax_attention(q, k, v, **settings)
    assert (fused - formula).abs().max() < 1e-12
    with torch.no_grad():  # another way through the code
        assert (softemax_attention(q, k, v, **settings) - formula).abs().max() < 1e-12
    probe = torch.randn(fused.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name, ours, theirs in zip(
        "qkv", *(torch.autograd.grad(x, (q, k, v), probe) for x in (fused, formula)), strict=True
    ):
        assert (ours - theirs).abs().max() < 1e-12, f"d{name} max_diff {(ours - theirs).abs().max():.2e}"


@pytest.mark.parametrize("variant", SINKS)
def test_learned_sinks_have_their_exact_gradient(variant):
    q, k, v, sink = tensors((2, 3, 5, 8), (2, 3, 5, 8), (2, 3, 5, 8), (3,))

    def attend(q, k, v, sink):
        return softemax_attention(q, k, v, is_causal=True, variant=variant, log_sink=sink)

    formula, _ = eager_softemax_attention(q, k, v, is_causal=True, variant=variant, log_sink=sink)
    assert (attend(q, k, v, sink) - formula).abs().max() < 1e-12
    with torch.no_grad():
        assert (attend(q, k, v, sink) - formula).abs().max() < 1e-12
    assert torch.autograd.gradcheck(attend, (q, k, v, sink))


def test_a_second_derivative_is_refused_rather_than_wrong():
    q, k, v, sink = tensors((1, 2, 3, 8), (1, 2, 3, 8), (1, 2, 3, 8), (2,))
    first = torch.autograd.grad(softemax_attention(q, k, v, log_sink=sink).sin().sum(), sink, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("dtype,bound", [(torch.float32, 2e-6), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_every_type_is_near_the_formula_in_float64(dtype, bound):
    q, k, v = tensors((2, 4, 64, 16), (2, 4, 64, 16), (2, 4, 64, 16), dtype=dtype)
    exact, _ = eager_softemax_attention(q.double(), k.double(), v.double(), is_causal=True)
    fused = softemax_attention(q, k, v, is_causal=True)
    assert fused.dtype == dtype and (fused.double() - exact).abs().max() < bound
    for ours, theirs in zip(
        torch.autograd.grad(fused.sum(), (q, k, v)), torch.autograd.grad(exact.sum(), (q, k, v)), strict=True
    ):
        assert (ours.double() - theirs.double()).abs().max() < 40 * bound


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_query_heads(groups):
    q, k, v = tensors((2, 4, 5, 8), (2, 4 // groups, 5, 8), (2, 4 // groups, 5, 8))
    repeated = softemax_attention(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), is_causal=True)
    assert torch.allclose(softemax_attention(q, k, v, is_causal=True), repeated)
    assert torch.autograd.gradcheck(lambda *x: softemax_attention(*x, is_causal=True), (q, k, v))
    softmax = softemax_attention(q, k, v, is_causal=True, variant="softmax")
    assert torch.allclose(softmax, eager_softemax_attention(q, k, v, is_causal=True, variant="softmax")[0])


def test_one_query_against_a_cache_is_the_last_row():
    q, k, v = tensors((2, 3, 9, 8), (2, 3, 9, 8), (2, 3, 9, 8), dtype=torch.float32)
    whole = softemax_attention(q, k, v, is_causal=True)
    assert torch.allclose(softemax_attention(q[:, :, -1:], k, v), whole[:, :, -1:], atol=1e-6)


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "softmax"])
@pytest.mark.parametrize("least", [-math.inf, torch.finfo(torch.float32).min])
def test_a_query_that_sees_nothing_gives_zeros_and_no_gradient(variant, least):
    q, k, v = tensors((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8), dtype=torch.float32)
    mask = torch.zeros(1, 1, 4, 4)
    mask[:, :, 1] = least
    for fused in (True, False):
        output = softemax_attention(q, k, v, mask=mask, variant=variant, fused=fused)
        gradients = torch.autograd.grad(output.square().sum(), (q, k, v))
        assert (output[:, :, 1] == 0).all() and (gradients[0][:, :, 1] == 0).all()
        assert all(g.isfinite().all() for g in gradients) and (output[:, :, 0] != 0).all()


def test_large_scores_do_not_overflow():
    q, k, v = tensors((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8), dtype=torch.float32)
    output = softemax_attention(1e4 * q, k, v)
    output.sum().backward()
    assert output.isfinite().all() and q.grad.isfinite().all()


def test_memory_is_linear_in_the_sequence_length():
    """No tensor of queries x keys is saved for the backward pass."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        q, k, v = tensors((1, 2, 300, 8), (1, 2, 300, 8), (1, 2, 300, 8), dtype=torch.float32)
        softemax_attention(q, k, v, is_causal=True).sum()
    assert max(saved) == 2 * 300 * 8


def test_it_traces_whole_under_compile():
    q, k, v, sink = tensors((1, 2, 6, 8), (1, 2, 6, 8), (1, 2, 6, 8), (2,), dtype=torch.float32)

    def loss(q, k, v, sink):
        return softemax_attention(q, k, v, is_causal=True, log_sink=sink).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours = torch.autograd.grad(compiled(q, k, v, sink), (q, k, v, sink))
    for a, b in zip(ours, torch.autograd.grad(loss(q, k, v, sink), (q, k, v, sink)), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_compiled_it_keeps_its_gradients_in_every_layout(heads_first, key_heads):
    torch.compiler.reset()
    shapes = [(2, h, 7, 8) if heads_first else (2, 7, h, 8) for h in (4, key_heads, key_heads)]
    *states, sink = tensors(*shapes, (4,), dtype=torch.float32)

    def loss(sink, *states):
        q, k, v = (x if heads_first else x.transpose(1, 2) for x in states)
        return softemax_attention(q, k, v, is_causal=True, log_sink=sink).square().sum()

    compiled = torch.compile(loss)  # the whole compiler: it holds an operator to the layout that its fake promised
    for a, b in zip(
        torch.autograd.grad(compiled(sink, *states), states),
        torch.autograd.grad(loss(sink, *states), states),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("attention", [softemax_attention, lambda *x, **k: eager_softemax_attention(*x, **k)[0]])
@pytest.mark.parametrize("variant", ["stable", "softmax", "published"])
def test_without_keys_nothing_is_read(attention, variant):
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 0, 8)
    assert torch.equal(attention(query, key, key, variant=variant), torch.zeros(2, 3, 5, 8))


def test_the_operator_is_well_formed():
    q, k, v, sink = tensors((1, 2, 6, 8), (1, 2, 6, 8), (1, 2, 6, 8), (2,), dtype=torch.float32)
    torch.library.opcheck(torch.ops.curvekit.softemax_flash, (q, k, v, sink, None, True, 0.3, True))


def test_a_mask_that_learns_gets_its_gradient():
    q, k, v, bias = tensors((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 4))
    assert torch.autograd.gradcheck(lambda *x: softemax_attention(*x[:3], mask=x[3]), (q, k, v, bias))


@pytest.mark.parametrize("variant", ["stable", "softmax1", "published", "plus"])
@pytest.mark.parametrize("shape", [(1, 2, 5, 7), (3, 2, 5, 7), (3, 1, 1, 7), (5, 7)], ids=str)
def test_a_bias_that_learns_is_the_formula_with_its_gradients(variant, shape):
    """As T5's: shared by a batch or not, some keys hidden by the smallest number, no scale."""
    q, k, v, given = tensors((3, 2, 5, 8), (3, 2, 7, 8), (3, 2, 7, 8), (3, 2, 5, 8))
    bias, sink = torch.randn(shape, dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64)
    if shape[0] == 3:
        bias[0, ..., 3:] = torch.finfo(torch.float64).min
    inputs = [q, k, v, bias.requires_grad_()]
    settings = {"mask": bias, "scale": 1.0, "variant": variant}
    if variant != "softmax1":
        settings["log_sink"] = sink.requires_grad_()
        inputs.append(sink)
    fast = softemax_attention(q, k, v, **settings)
    assert type(fast.grad_fn).__name__ == "_BiasedBackward", "the kernel's forward, and not the formula's"
    plain = eager_softemax_attention(q, k, v, **settings)[0]
    for ours, wanted in zip(
        (fast, *torch.autograd.grad(fast, inputs, given.detach())),
        (plain, *torch.autograd.grad(plain, inputs, given.detach())), strict=True,
    ):  # fmt: skip
        assert torch.allclose(ours, wanted, rtol=1e-9, atol=1e-10), (ours - wanted).abs().max()


def test_wrong_input_is_refused():
    q, k, v = tensors((1, 4, 5, 8), (1, 3, 5, 8), (1, 3, 5, 8))
    with pytest.raises(CurvekitError, match="4 query heads cannot be shared among 3"):
        softemax_attention(q, k, v)
    with pytest.raises(CurvekitError, match="not both"):
        softemax_attention(q, q, q, mask=torch.ones(5, 5, dtype=torch.bool), is_causal=True)
    with pytest.raises(CurvekitError, match="unknown SoftEMax variant"):
        softemax_attention(q, q, q, variant="sofmax")
    with pytest.raises(CurvekitError, match=r"the mask is torch\.int64; give a boolean one"):
        softemax_attention(q, q, q, mask=torch.ones(5, 5, dtype=torch.long))


# -- whole models, against the formula written out once more ----------------------------------------------------------


def formula_attention(module, query, key, value, attention_mask, scaling=None, position_bias=None, **kwargs):
    """exp(s) / (sum exp(s) + C), as it reads; transformers' eager masks, in float64."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = (query @ key.transpose(-1, -2)).double() * (scaling or query.shape[-1] ** -0.5)
    for bias in (position_bias, attention_mask):
        scores = scores if bias is None else scores + bias
    sink = getattr(module, "log_sink", None)
    constant = math.exp(LOG_C) if sink is None else sink.exp().view(-1, 1, 1)
    exponentials = scores.exp()
    weights = exponentials / (exponentials.sum(-1, keepdim=True) + constant)
    return (weights.to(value.dtype) @ value).transpose(1, 2), weights


AttentionInterface.register("formula", formula_attention)
AttentionMaskInterface.register("formula", eager_mask)

TINY = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def model_of(family, attention):
    torch.manual_seed(0)
    if family == "gpt2":
        return GPT2LMHeadModel._from_config(
            GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32), attn_implementation=attention
        ).eval()
    if family == "llama":
        config = LlamaConfig(**TINY, num_key_value_heads=2, intermediate_size=48, max_position_embeddings=32)
        return LlamaForCausalLM._from_config(config, attn_implementation=attention).eval()
    if family == "bert":
        config = BertConfig(**TINY, intermediate_size=48, max_position_embeddings=32)
        return BertModel._from_config(config, attn_implementation=attention).eval()
    config = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return T5ForConditionalGeneration._from_config(config, attn_implementation=attention).eval()


def outputs_of(model, ids, mask):
    inputs = {"input_ids": ids, "attention_mask": mask}
    if isinstance(model, T5ForConditionalGeneration):
        inputs["decoder_input_ids"] = ids[:, :5]
    elif not isinstance(model, BertModel):
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return model(**inputs)[0]


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5"])
def test_models_equal_the_formula_on_padded_batches(family, side):
    ids = torch.randint(1, 50, (3, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    if side == "left":
        mask[0, :4], mask[1, :1] = 0, 0
    elif side == "right":
        mask[0, -4:], mask[1, -1:] = 0, 0
    fused, formula, softmax = (
        outputs_of(model_of(family, name), ids, mask) for name in ("softemax", "formula", "sdpa")
    )
    seen = torch.ones(fused.shape[:2], dtype=torch.bool) if family == "t5" else mask.bool()
    difference = (fused - formula)[seen].abs().max()
    assert difference < 1e-5, f"max_diff {difference:.2e}"
    assert (fused - softmax)[seen].abs().max() > 100 * difference, "it must not be softmax in disguise"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_cached_decoding_is_the_whole_sequence(family):
    model = model_of(family, "softemax")
    ids = torch.randint(1, 50, (2, 9), generator=torch.Generator().manual_seed(4))
    whole = model(ids).logits
    past, rows = None, []
    for position in range(9):
        step = model(ids[:, position : position + 1], past_key_values=past, use_cache=True)
        past, rows = step.past_key_values, [*rows, step.logits]
    assert torch.allclose(torch.cat(rows, 1), whole, atol=1e-5)


@pytest.mark.parametrize("variant", SINKS)
def test_one_query_of_one_batch_with_a_sink_for_each_head(variant):
    """The shape of decoding, in which the normaliser could be a view of the sink."""
    q, k, v, sink = tensors((1, 3, 1, 8), (1, 3, 9, 8), (1, 3, 9, 8), (3,))
    fused = softemax_attention(q, k, v, variant=variant, log_sink=sink)
    formula, _ = eager_softemax_attention(q, k, v, variant=variant, log_sink=sink)
    assert (fused - formula).abs().max() < 1e-12


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_member_is_registered_and_gives_its_weights_on_request(variant):
    model = model_of("gpt2", implementation(variant))
    ids = torch.randint(1, 50, (2, 9), generator=torch.Generator().manual_seed(5))
    eager = model(ids, output_attentions=True)
    assert torch.allclose(eager.logits, model(ids).logits, atol=1e-5)
    assert len(eager.attentions) == 2 and eager.attentions[0].shape == (2, 4, 9, 9)
    if variant == "stable":
        assert (eager.attentions[0].sum(-1) < 1).all()


def test_attention_dropout_takes_the_eager_path():
    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0.5)
    torch.manual_seed(0)
    model = GPT2LMHeadModel._from_config(config, attn_implementation="softemax").train()
    ids = torch.arange(9)[None]
    assert not torch.allclose(model(ids).logits, model(ids).logits)
    assert torch.allclose(model.eval()(ids).logits, model(ids).logits)


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@cuda
@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "padding", "additive"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype,bound", [(torch.float32, 1e-3), (torch.bfloat16, 4e-2), (torch.float16, 8e-3)])
def test_cuda_kernels_equal_the_formula(variant, kind, dtype, bound):
    shapes = [(2, 4, 70, 64)] * 3
    q, k, v = (x.detach().cuda().to(dtype).requires_grad_() for x in tensors(*shapes))
    mask = masks(kind, 2, 4, 70, 70)
    mask = mask.cuda() if mask is not None else None
    settings = {"variant": variant, "is_causal": kind == "causal"}
    fused = softemax_attention(q, k, v, mask=mask, **settings)
    exact, _ = eager_softemax_attention(q.double(), k.double(), v.double(), mask=mask, **settings)
    scale = exact.abs().max().item()
    assert (fused.double() - exact).abs().max() < bound * scale
    for ours, theirs in zip(
        torch.autograd.grad(fused.float().square().sum(), (q, k, v)),
        torch.autograd.grad(exact.square().sum(), (q, k, v)),
        strict=True,
    ):
        assert (ours.double() - theirs.double()).abs().max() < 10 * bound * theirs.abs().max()
