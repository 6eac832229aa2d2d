"""A GGUF file becomes the model and the tokeniser that it describes, or is refused with the name of file and field."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import regex
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

gguf = pytest.importorskip("gguf", reason="the extra smollm2 is not installed")

from curvekit.bases.gguf import PRE_TOKENIZERS, converted, read_gguf  # noqa: E402
from curvekit.errors import CurvekitError  # noqa: E402

TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>\n{% endfor %}"
TEXTS = (
    "The curve runs through 2019 points, and 12 of them are words.",
    "1. one\n\n2. two\n\n  10. ten\r\n\r\n1234567",
    "  two spaces,   three, a tab\tand\r\nan end  ",
    "It's we'll THEY'D -- naïve café Ⅷ ½ 日本語 🙂 \u00a0x",
    "",
    "\n\n\n7 zzz",
)


def write(path: Path, architecture: str, fields: dict, tensors: dict[str, np.ndarray], kinds=None) -> Path:
    """A GGUF file by the package's own writer; ``kinds`` are tensors' quantisations where they are not float32."""
    writer = gguf.GGUFWriter(path, architecture)
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in fields.items():
        writer.add_array(key, value) if isinstance(value, list) else add[type(value)](key, value)
    for name, values in tensors.items():
        kind = (kinds or {}).get(name)
        if kind is None:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokenizer_fields(tokenizer, pre: str = "smollm") -> dict:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    end = tokenizer.eos_token_id
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if index == end else 1 for index in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in state["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": end,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.padding_token_id": end,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def llama(tied: bool = True, head: int = 16) -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=head, max_position_embeddings=128, rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 50_000.0}, tie_word_embeddings=tied,
        )
    ).eval()  # fmt: skip


LLAMA = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
}  # fmt: skip
GPT2 = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "transformer.h": "blk", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down", "ln_1": "attn_norm", "ln_2": "ffn_norm", "lm_head": "output",
}  # fmt: skip


def tensors_of(model) -> dict[str, np.ndarray]:
    """A model's tensors under llama.cpp's names and in its layout, as its converter writes them."""
    names = LLAMA if model.config.model_type == "llama" else GPT2
    found = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        for part, heads in (("attn_q", "num_attention_heads"), ("attn_k", "num_key_value_heads")):
            if f".{part}." in name:
                count = getattr(model.config, heads)
                values = values.reshape(count, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        if names is GPT2 and values.ndim == 2 and name.startswith("blk"):
            values = values.T
        found[name] = np.ascontiguousarray(values)
    return found


def llama_fields(config) -> dict:
    own = {
        "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_parameters["rope_theta"], "vocab_size": config.vocab_size,
    }  # fmt: skip
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        own |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    return {f"llama.{name}": value for name, value in own.items()}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "curvekit" / "bases"


@pytest.fixture
def tiny_llama(tmp_path, tiny_tokenizer):
    """Write a LLaMA of two layers; ``fields`` and ``tensors`` are put in place of its own, None takes one out."""

    def make(model=None, fields=None, tensors=None, kinds=None) -> Path:
        model = model or llama()
        changed = llama_fields(model.config) | tokenizer_fields(tiny_tokenizer) | (fields or {})
        held = tensors_of(model) | (tensors or {})
        return write(
            tmp_path / "tiny.gguf", "llama", {key: value for key, value in changed.items() if value is not None},
            {name: values for name, values in held.items() if values is not None}, kinds,
        )  # fmt: skip

    return make


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(3, 67)[None]).logits


@pytest.mark.parametrize(("tied", "head"), [(True, 16), (False, 16), (True, 24)])
def test_a_float_llama_comes_back_with_identical_logits(cache, tiny_llama, tied, head):
    model = llama(tied, head)
    again = AutoModelForCausalLM.from_pretrained(converted(tiny_llama(model)))
    assert type(again) is LlamaForCausalLM and again.dtype == torch.float32
    assert again.config.tie_word_embeddings is tied
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_gpt2_with_a_context_and_an_inner_width_of_its_own_comes_back(cache, tmp_path, tiny_tokenizer, tied):
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=400, n_positions=80, n_embd=32, n_layer=2, n_head=2, n_inner=48, layer_norm_epsilon=1e-4,
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    fields = {
        "gpt2.context_length": 80, "gpt2.embedding_length": 32, "gpt2.block_count": 2, "gpt2.feed_forward_length": 48,
        "gpt2.attention.head_count": 2, "gpt2.attention.layer_norm_epsilon": 1e-4,
    } | tokenizer_fields(tiny_tokenizer, "gpt-2")  # fmt: skip
    folder = converted(write(tmp_path / "tiny.gguf", "gpt2", fields, tensors_of(model)))
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert (again.config.n_positions, again.config.n_inner) == (80, 48)
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 80


def test_a_quantised_file_gives_the_logits_of_transformers_own_reader(cache, tiny_llama):
    kind = gguf.GGMLQuantizationType
    kinds = {name: kind.Q4_1 for name, values in tensors_of(llama()).items() if values.ndim == 2}
    path = tiny_llama(kinds=kinds | {"token_embd.weight": kind.Q8_0, "blk.0.attn_v.weight": kind.F16})
    reference = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    again = AutoModelForCausalLM.from_pretrained(converted(path))
    torch.testing.assert_close(logits(again), logits(reference), rtol=0, atol=0)
    assert (logits(again) - logits(llama())).abs().max() > 1e-4  # the file's values and not the model's


# What llama.cpp does, slowly: cut a text (src/llama-vocab.cpp), spell the bytes, merge the pair of lowest rank.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def spelling() -> dict[int, str]:
    """GPT-2's letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def words(text: str, pre: str) -> list[str]:
    pieces = regex.split(r"(\p{N})", text) if pre in ("smollm", "starcoder") else [text]
    pattern = _LLAMA3 if pre.startswith("llama") else _WORDS
    return [word for piece in pieces for word in regex.findall(pattern, piece)]


def slow_merges(text: str, fields: dict) -> list[int]:
    """The ids of a plain text by a GGUF's own fields, without the library that is tested."""
    ids = {token: index for index, token in enumerate(fields["tokenizer.ggml.tokens"])}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(fields["tokenizer.ggml.merges"])}
    pre, letters, found = fields["tokenizer.ggml.pre"], spelling(), []
    for word in words(text, pre):
        parts = [letters[byte] for byte in word.encode()]
        if pre.startswith("llama") and "".join(parts) in ids:
            parts = ["".join(parts)]
        while pairs := [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]:
            _, at = min(pairs)
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        found += [ids[part] for part in parts]
    return found


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_texts_become_the_tokens_that_the_files_own_merges_give(cache, tiny_llama, tiny_tokenizer, tiny_texts, pre):
    # Two entries that tell the cuts apart: ends of lines that merge, and a word that no merges lead to.
    fields = tokenizer_fields(tiny_tokenizer, pre)
    own = {"tokens": ["ĊĊ", "Ġzzz"], "token_type": [1, 1], "merges": ["Ċ Ċ"]}
    fields |= {f"tokenizer.ggml.{name}": fields[f"tokenizer.ggml.{name}"] + more for name, more in own.items()}
    model = llama()
    model.resize_token_embeddings(402)
    tokenizer = AutoTokenizer.from_pretrained(converted(tiny_llama(model, fields)))
    assert tokenizer.convert_ids_to_tokens(list(range(402))) == fields["tokenizer.ggml.tokens"]
    for text in (*TEXTS, *tiny_texts[:5]):
        ids = tokenizer(text).input_ids
        assert ids == slow_merges(text, fields), text
        assert tokenizer.decode(ids) == text


def test_a_pre_tokeniser_that_transformers_takes_for_gpt2s_is_read_as_its_own(cache, tiny_llama):
    # Two ends of a line before a digit: cut before the digit by smollm, between them by GPT-2.
    path = tiny_llama()
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ours = AutoTokenizer.from_pretrained(converted(path))
    assert ours.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a\n\n1")[1][0] == "ĊĊ"
    assert theirs.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a\n\n1")[1][0] == "Ċ"


def test_special_tokens_and_the_chat_template_are_the_files(cache, tiny_llama, tiny_tokenizer):
    tokens = tokenizer_fields(tiny_tokenizer)["tokenizer.ggml.tokens"]
    kinds = [3 if index in (0, 5, 6) else 4 if index == 300 else 1 for index in range(400)]
    tokens[5], tokens[6] = "<|im_start|>", "<|im_end|>"
    merges = [
        merge for merge in tokenizer_fields(tiny_tokenizer)["tokenizer.ggml.merges"]
        if {*merge.split(" "), merge.replace(" ", "")} <= set(tokens)
    ]  # fmt: skip
    special = {"bos": 5, "eos": 6, "padding": 6, "unknown": 0}
    fields = {"tokens": tokens, "token_type": kinds, "merges": merges}
    fields |= {f"{name}_token_id": index for name, index in special.items()}
    folder = converted(tiny_llama(fields={f"tokenizer.ggml.{name}": value for name, value in fields.items()}))
    tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).config
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", *["<|im_end|>"] * 2)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (5, 6, 6)
    assert 5 not in tokenizer("A bank is a place").input_ids  # the beginning token does not stand before plain text
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert chat == "<|im_start|>Hello<|im_end|>\n"
    ids = tokenizer(chat).input_ids
    assert (ids[0], ids.count(6)) == (5, 1)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Hello\n"
    assert tokenizer(f"x{tokens[300]}x").input_ids[1] == 300


@pytest.mark.parametrize(("pre", "said", "first"), [("llama-bpe", None, True), ("llama-bpe", False, False),
                                                    ("smollm", None, False), ("smollm", True, True)])  # fmt: skip
def test_the_beginning_token_is_put_first_where_the_file_or_llama_cpp_says_so(cache, tiny_llama, pre, said, first):
    folder = converted(tiny_llama(fields={"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": said}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer("a bank").input_ids[0] == tokenizer.bos_token_id) is first


def slow_sentencepiece(text: str, tokens: list[str], scores: list[float], prefix: bool) -> list[int]:
    """llama.cpp's: of all neighbours that are a token together, the one of the highest score is joined first."""
    ids = {token: index for index, token in enumerate(tokens)}
    parts = list((" " * prefix + text).replace(" ", "▁")) if text else []
    while joined := [(-scores[ids[a + b]], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in ids]:
        _, at = min(joined)
        parts[at : at + 2] = ["".join(parts[at : at + 2])]
    return [index for part in parts for index in (
        [ids[part]] if part in ids else [ids[f"<0x{byte:02X}>"] for byte in part.encode()])]  # fmt: skip


@pytest.mark.parametrize("prefix", [None, True, False])
def test_a_sentencepiece_vocabulary_is_read_by_its_scores_and_its_space(cache, tiny_llama, tiny_tokenizer, prefix):
    pieces = [token.replace("Ġ", "▁") for token in tokenizer_fields(tiny_tokenizer)["tokenizer.ggml.tokens"][1:]]
    pieces = [piece for piece in pieces if piece.replace("▁", "").isascii()]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(pieces))]
    fields = {
        "model": "llama", "pre": "default", "tokens": tokens, "scores": scores, "merges": None, "bos_token_id": 1,
        "token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces)], "eos_token_id": 2, "padding_token_id": 2,
        "unknown_token_id": 0, "add_space_prefix": prefix, "add_bos_token": None,
    }  # fmt: skip
    model = llama()
    model.resize_token_embeddings(len(tokens))
    named = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
    folder = converted(tiny_llama(model, named))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert ids == [1, *slow_sentencepiece(text, tokens, scores, prefix is not False)], text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    two = [slow_sentencepiece(text, tokens, scores, prefix is not False) for text in ("a bank", "a place")]
    assert tokenizer("a bank</s>a place").input_ids == [1, *two[0], 2, *two[1]]


FIELDS = [
    ("llama.rope.scaling.type", "yarn", "stretches positions"),
    ("llama.rope.scaling.factor", 4.0, "stretches positions"),
    ("llama.expert_count", 8, "mixture of experts"),
    ("llama.attention.sliding_window", 128, "is not read"),
    ("llama.rope.dimension_count", 8, "16, the width of a head"),
    ("llama.attention.head_count", [4, 4], "one number"),
    ("llama.attention.head_count", 3, "which does not divide"),
    ("llama.block_count", None, "lacks the field"),
    ("llama.vocab_size", 401, "the two must agree"),
    ("llama.feed_forward_length", 128, "the fields say"),
    ("tokenizer.ggml.pre", "gpt-4o", "'gpt-4o'; the pre-tokenisers gpt-2, smollm"),
    ("tokenizer.ggml.pre", None, "tokenizer.ggml.pre is None"),
    ("tokenizer.ggml.model", "bert", "tokenizer.ggml.model is 'bert'"),
    ("tokenizer.ggml.add_space_prefix", True, "byte-level merges do not read"),
    ("tokenizer.ggml.remove_extra_whitespaces", True, "is not read"),
    ("tokenizer.ggml.merges", None, "lacks the field tokenizer.ggml.merges"),
    ("tokenizer.ggml.merges", ["zzz qqq"], "do not fit"),
    ("tokenizer.ggml.token_type", [1, 1], "2 entries for 400 tokens"),
    ("tokenizer.ggml.eos_token_id", 400, "tokenizer.ggml.eos_token_id is 400"),
    ("tokenizer.ggml.tokens", None, "tokenizer.ggml.tokens is not a list"),
]


@pytest.mark.parametrize(
    ("field", "value", "why"), FIELDS, ids=[f"{field}={str(value)[:9]}" for field, value, _ in FIELDS]
)
def test_a_field_that_would_be_dropped_or_does_not_fit_is_refused_by_name(cache, tiny_llama, field, value, why):
    path = tiny_llama(fields={field: value})
    with pytest.raises(CurvekitError) as caught:
        converted(path)
    sentence = str(caught.value)
    assert why in sentence and str(path) in sentence and "\n" not in sentence
    assert field.split(".")[-1] in sentence or "the tensor 'blk.0.ffn_gate.weight'" in sentence
    assert not [left for left in cache.glob("*") if left.is_dir()], "something was left in the cache"


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("rope_freqs.weight", np.ones(8, np.float32), "stretches positions"),
        ("blk.0.attn_q.bias", np.ones(64, np.float32), "is not read"),
        ("blk.0.ffn_gate_inp.weight", np.ones((2, 64), np.float32), "is not read"),
        ("blk.1.ffn_up.weight", None, "lacks the tensor"),
        ("blk.1.ffn_up.weight", np.ones((64, 96), np.float32), "is [64, 96], and the fields say [96, 64]"),
        ("output_norm.weight", np.full(64, np.nan, np.float32), "not finite"),
    ],
)  # fmt: skip
def test_a_tensor_that_would_be_dropped_or_does_not_fit_is_refused_by_name(cache, tiny_llama, name, values, why):
    path = tiny_llama(tensors={name: values})
    with pytest.raises(CurvekitError) as caught:
        converted(path)
    assert why in str(caught.value) and name in str(caught.value) and str(path) in str(caught.value)
    assert not [left for left in cache.glob("*") if left.is_dir()], "something was left in the cache"


def test_another_architecture_is_refused(cache, tmp_path, tiny_tokenizer):
    path = write(tmp_path / "tiny.gguf", "qwen2", tokenizer_fields(tiny_tokenizer), {"a": np.ones(4, np.float32)})
    with pytest.raises(CurvekitError, match="general.architecture is 'qwen2'; of GGUF files curvekit reads llama and"):
        converted(path)


@pytest.mark.parametrize("share", [0.0, 0.002, 0.3, 0.6, 0.99])
def test_a_file_that_is_cut_off_is_refused_at_any_length(cache, tiny_llama, share):
    path = tiny_llama()
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CurvekitError, match="tiny.gguf is no whole GGUF file"):
        converted(path)


def test_what_is_no_gguf_is_refused(cache, tmp_path):
    (tmp_path / "text.gguf").write_text("once upon a time " * 100)
    with pytest.raises(CurvekitError, match="text.gguf is no whole GGUF file"):
        read_gguf(tmp_path / "text.gguf")
    with pytest.raises(CurvekitError, match="there is no GGUF file"):
        converted(tmp_path / "nowhere.gguf")
