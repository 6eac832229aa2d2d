"""A GGUF file made into a folder that transformers opens, tensor by tensor and token by token, or refused.

A GGUF says everything in named fields and named tensors, and a reader that skips one it does not know computes
another model in silence (rope scaling, an expert, a pre-tokeniser). So everything below the architecture's own name,
every tokeniser field and every tensor must be one that this room reads; the rest is refused with file and field.

Weights become float32. A 4-bit GGUF holds ``scale * q + minimum`` with 16-bit scale and minimum: 4 + 11 bits and
their sum, which float16 (11 bits) and bfloat16 (8) would round a second time and float32 (24) holds as every reader
computes them, so the logits are those of the file. It is also what training here needs, and nothing is cast at
opening. The price is disk: 8 bytes a stored one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tqdm import tqdm
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from curvekit.bases import cached
from curvekit.errors import CurvekitError, first_line

INSTALL = "pip install 'gguf>=0.19,<0.20'"
VERSION = 1  # of the folders that are written: raise it when the same file becomes another folder
CONTROL, USER_DEFINED = 3, 4  # kinds of token

# What llama.cpp calls a pre-tokeniser -> how it cuts a text before merging, whether a word that is a token is taken
# whole, and whether the beginning token is put first when the file does not say (llama.cpp, src/llama-vocab.cpp).
_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
_DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2])
_LLAMA3 = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            behavior="isolated",
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
PRE_TOKENIZERS = {
    "gpt-2": (_GPT2, False, False),
    "smollm": (_DIGITS, False, False),
    "starcoder": (_DIGITS, False, False),
    "llama-bpe": (_LLAMA3, True, True),
    "llama3": (_LLAMA3, True, True),
    "llama-v3": (_LLAMA3, True, True),
}
_BYTE_LEVEL, _SENTENCEPIECE = "gpt2", "llama"  # what llama.cpp calls the two kinds of vocabulary

_TOKENIZER_FIELDS = {
    "model", "pre", "tokens", "token_type", "merges", "scores", "bos_token_id", "eos_token_id", "unknown_token_id",
    "padding_token_id", "add_bos_token", "add_eos_token", "add_space_prefix",
}  # fmt: skip
# Further ends of a turn and marks of infilling: what only a chat or an editor looks at, and no text's tokens change.
_TOKENIZER_HINTS = {"eot_token_id", "eom_token_id", "fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id"}

_WHY = {
    "rope.scaling": "stretches positions, which is not read",
    "rope_freqs": "stretches positions, which is not read",
    "expert": "belongs to a mixture of experts, which is not read",
}


def converted(path: str | Path, name: str | None = None) -> Path:
    """The folder, in the user's cache, of a GGUF file's model in float32 safetensors, with tokeniser and chat template.

    The first call makes it (some seconds, 8 bytes of disk for one of a 4-bit file), later ones find it by the file's
    SHA-256. ``name`` is what the folder's name begins with, by default the file's.

    Raises:
        CurvekitError: the file cannot be read, is damaged or holds something that is not read faithfully; the package
            ``gguf`` is missing; the cache cannot be written or is full.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CurvekitError(f"there is no GGUF file {path}; name one that is there")
    try:
        key = cached.digest(path)
    except OSError as error:
        raise CurvekitError(f"cannot read {path} ({error.strerror or error}); name a file that can be read") from error
    prefix = name or re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-")[:60]
    return cached.folder(f"{prefix}-{key[:16]}", path, VERSION, lambda folder: _write(read_gguf(path), folder))


@dataclass(frozen=True)
class Gguf:
    """What :func:`read_gguf` found: a configuration, a tokeniser, and where each tensor of the model comes from."""

    path: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerFast
    tensors: dict[str, tuple[Any, Callable[[np.ndarray], np.ndarray]]]  # the model's name -> (its tensor, its layout)
    shapes: dict[str, tuple[int, ...]]  # the model's name -> its shape

    def weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each tensor of the model by its name there, dequantised to float32.

        Raises:
            CurvekitError: a tensor is of a kind that ``gguf`` cannot dequantise, or holds what is no number.
        """
        from gguf import dequantize

        for name, (tensor, layout) in self.tensors.items():
            try:
                values = dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError as error:
                raise CurvekitError(f"{self.path}: the tensor {tensor.name!r} is {first_line(error)}") from error
            if not np.isfinite(values).all():
                raise CurvekitError(
                    f"{self.path} is damaged: the tensor {tensor.name!r} holds values that are not finite"
                )
            yield name, np.ascontiguousarray(layout(values), dtype="<f4")


def read_gguf(path: str | Path) -> Gguf:
    """Read a GGUF of the architecture ``llama`` or ``gpt2``; no tensor is touched yet.

    Raises:
        CurvekitError: the file is damaged, or has a field or a tensor that would not be honoured; which, and why.
    """
    path = Path(path)
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise CurvekitError(f"reading {path.name} needs the package gguf; {INSTALL}") from error
    try:
        reader = GGUFReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
    except Exception as error:  # gguf reads past the end of what is cut off, and raises whatever numpy does there
        raise CurvekitError(f"{path} is no whole GGUF file ({first_line(error)}); fetch it again") from error

    architecture = fields.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise CurvekitError(
            f"{path}: general.architecture is {architecture!r}; of GGUF files curvekit reads "
            f"{' and '.join(_ARCHITECTURES)}, others from a folder or the hub"
        )
    tokenizer = _tokenizer(path, fields)
    own = _Fields(path, f"{architecture}.", fields)
    vocabulary = len(fields["tokenizer.ggml.tokens"])
    if (stated := own.whole("vocab_size", vocabulary)) != vocabulary:
        raise CurvekitError(
            f"{path}: {architecture}.vocab_size is {stated}, and tokenizer.ggml.tokens has {vocabulary}; "
            "the two must agree"
        )
    shared = {f"{which}_token_id": getattr(tokenizer, f"{which}_token_id") for which in ("bos", "eos", "pad")}
    shared |= {
        "vocab_size": vocabulary,
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "dtype": "float32",
    }
    config, names = _ARCHITECTURES[architecture](own, shared)
    own.all_read()
    tokenizer.model_max_length = config.max_position_embeddings
    return Gguf(path, config, tokenizer, *_placed(path, reader.tensors, config, names))


class _Fields:
    """The fields below one prefix: each is asked for by name and kind, and what nobody asked for is refused."""

    def __init__(self, path: Path, prefix: str, fields: dict[str, Any]) -> None:
        self.path, self.prefix = path, prefix
        self.values = {key.removeprefix(prefix): value for key, value in fields.items() if key.startswith(prefix)}

    def whole(self, name: str, default: int | None = None) -> int:
        return int(self._take(name, default, int))

    def number(self, name: str, default: float | None = None) -> float:
        return float(self._take(name, default, (int, float)))

    def _take(self, name: str, default: Any, kinds: Any) -> Any:
        value = self.values.pop(name, default)
        if value is None:
            raise CurvekitError(f"{self.path} lacks the field {self.prefix}{name}; convert the model again")
        if isinstance(value, bool) or not isinstance(value, kinds) or value < 0:
            shown = f"{str(value)[:40]!r}" if isinstance(value, list) else repr(value)
            raise CurvekitError(f"{self.path}: {self.prefix}{name} is {shown}; one number of zero or more is read")
        return value

    def all_read(self) -> None:
        for name, value in self.values.items():
            why = next((why for mark, why in _WHY.items() if mark in name), "is not read")
            raise CurvekitError(
                f"{self.path}: the field {self.prefix}{name} ({str(value)[:40]}) {why}, and without it the model would "
                "be another; load its original from a folder or the hub"
            )


Names = dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]


def _llama(own: _Fields, shared: dict[str, Any]) -> tuple[LlamaConfig, Names]:
    """The configuration, and GGUF's names of tensors -> transformers' with the change of layout."""
    width, heads = own.whole("embedding_length"), own.whole("attention.head_count")
    if not heads or width % heads:
        raise CurvekitError(
            f"{own.path}: llama.attention.head_count is {heads}, which does not divide llama.embedding_length, {width}"
        )
    keys = own.whole("attention.head_count_kv", heads)
    head = own.whole("attention.key_length", width // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if (other := own.whole(name, head)) != head:
            raise CurvekitError(f"{own.path}: llama.{name} is {other}; {head}, the width of a head, is read")
    config = LlamaConfig(
        max_position_embeddings=own.whole("context_length"),
        hidden_size=width,
        intermediate_size=own.whole("feed_forward_length"),
        num_hidden_layers=own.whole("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=keys,
        head_dim=head,
        rms_norm_eps=own.number("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": own.number("rope.freq_base", 10000.0)},
        **shared,
    )

    def halves(count: int) -> Callable[[np.ndarray], np.ndarray]:
        """Rotary pairs side by side, as llama.cpp turns them -> the two halves of a head, as transformers does."""
        return lambda rows: rows.reshape(count, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)

    names: Names = {
        "token_embd.weight": ("model.embed_tokens.weight", _same),
        "output_norm.weight": ("model.norm.weight", _same),
        "output.weight": ("lm_head.weight", _same),
    }
    for layer in range(config.num_hidden_layers):
        names |= {
            f"blk.{layer}.{theirs}.weight": (f"model.layers.{layer}.{ours}.weight", layout)
            for theirs, ours, layout in (
                ("attn_norm", "input_layernorm", _same),
                ("attn_q", "self_attn.q_proj", halves(heads)),
                ("attn_k", "self_attn.k_proj", halves(keys)),
                ("attn_v", "self_attn.v_proj", _same),
                ("attn_output", "self_attn.o_proj", _same),
                ("ffn_norm", "post_attention_layernorm", _same),
                ("ffn_gate", "mlp.gate_proj", _same),
                ("ffn_up", "mlp.up_proj", _same),
                ("ffn_down", "mlp.down_proj", _same),
            )
        }
    return config, names


def _gpt2(own: _Fields, shared: dict[str, Any]) -> tuple[GPT2Config, Names]:
    config = GPT2Config(
        n_positions=own.whole("context_length"),
        n_embd=own.whole("embedding_length"),
        n_layer=own.whole("block_count"),
        n_head=own.whole("attention.head_count"),
        n_inner=own.whole("feed_forward_length"),
        layer_norm_epsilon=own.number("attention.layer_norm_epsilon"),
        **shared,
    )
    names: Names = {
        "token_embd.weight": ("transformer.wte.weight", _same),
        "position_embd.weight": ("transformer.wpe.weight", _same),
        "output_norm.weight": ("transformer.ln_f.weight", _same),
        "output_norm.bias": ("transformer.ln_f.bias", _same),
        "output.weight": ("lm_head.weight", _same),
    }
    for layer in range(config.n_layer):
        for theirs, ours, layout in (
            ("attn_norm", "ln_1", _same),
            ("attn_qkv", "attn.c_attn", np.transpose),  # GPT-2 keeps [in, out], GGUF [out, in]
            ("attn_output", "attn.c_proj", np.transpose),
            ("ffn_norm", "ln_2", _same),
            ("ffn_up", "mlp.c_fc", np.transpose),
            ("ffn_down", "mlp.c_proj", np.transpose),
        ):
            for part in ("weight", "bias"):
                names[f"blk.{layer}.{theirs}.{part}"] = (f"transformer.h.{layer}.{ours}.{part}", layout)
    return config, names


_ARCHITECTURES: dict[str, Callable[[_Fields, dict[str, Any]], tuple[Any, Names]]] = {"llama": _llama, "gpt2": _gpt2}


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _placed(path: Path, tensors: list[Any], config: PreTrainedConfig, names: Names) -> tuple[dict, dict]:
    """Every tensor of the file under the model's name, and the model's shapes; one by one they must fit."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    placed: dict[str, tuple[Any, Callable[[np.ndarray], np.ndarray]]] = {}
    for tensor in tensors:
        if tensor.name not in names:
            why = next((why for mark, why in _WHY.items() if mark in tensor.name), "is not read")
            raise CurvekitError(
                f"{path}: the tensor {tensor.name!r} {why}, and without it the model would be another; load its "
                "original from a folder or the hub"
            )
        name, layout = names[tensor.name]
        shape = tuple(int(length) for length in reversed(tensor.shape))
        expected = shapes[name] if layout is not np.transpose else shapes[name][::-1]
        if shape != expected:
            raise CurvekitError(
                f"{path}: the tensor {tensor.name!r} is {list(shape)}, and the fields say {list(expected)}"
            )
        placed[name] = (tensor, layout)
    theirs = {ours: name for name, (ours, _) in names.items()}
    if missing := [theirs[name] for name in shapes if name not in placed]:
        raise CurvekitError(f"{path} lacks the tensor {missing[0]!r}; fetch it again or convert the model again")
    return placed, shapes


def _tokenizer(path: Path, fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The fast tokeniser that the file's own vocabulary, merges or scores, and pre-tokeniser's name describe."""
    own = {key.removeprefix("tokenizer."): value for key, value in fields.items() if key.startswith("tokenizer.")}
    template = own.pop("chat_template", None)
    values = {key.removeprefix("ggml."): value for key, value in own.items()}
    for name, value in values.items():
        if name not in _TOKENIZER_FIELDS | _TOKENIZER_HINTS:
            raise CurvekitError(
                f"{path}: the field tokenizer.ggml.{name} ({str(value)[:40]}) is not read, and without it texts would "
                "become other tokens; load the model's original from a folder or the hub"
            )
    tokens = values.get("tokens")
    if not isinstance(tokens, list) or len(set(tokens)) != len(tokens):
        raise CurvekitError(
            f"{path}: tokenizer.ggml.tokens is not a list of tokens that differ; convert the model again"
        )
    kinds = values.get("token_type", [1] * len(tokens))
    if len(kinds) != len(tokens):
        raise CurvekitError(f"{path}: tokenizer.ggml.token_type has {len(kinds)} entries for {len(tokens)} tokens")
    build = {_BYTE_LEVEL: _byte_level, _SENTENCEPIECE: _sentencepiece}.get(str(values.get("model")))
    if build is None:
        raise CurvekitError(
            f"{path}: tokenizer.ggml.model is {values.get('model')!r}; {_BYTE_LEVEL!r} (byte-level merges) and "
            f"{_SENTENCEPIECE!r} (sentencepiece) are read"
        )
    backend, adds_bos = build(path, values, tokens, kinds)
    backend.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == CONTROL
        ]
    )
    backend.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED]
    )

    def special(name: str) -> str | None:
        index = values.get(f"{name}_token_id")
        if index is not None and not 0 <= index < len(tokens):
            raise CurvekitError(f"{path}: tokenizer.ggml.{name}_token_id is {index}; there are {len(tokens)} tokens")
        return None if index is None else tokens[index]

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=special("bos"),
        eos_token=special("eos"),
        unk_token=special("unknown"),
        pad_token=special("padding"),
        add_bos_token=bool(values.get("add_bos_token", adds_bos)),
        add_eos_token=bool(values.get("add_eos_token", False)),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    if len(tokenizer) != len(tokens) or tokenizer.convert_ids_to_tokens(list(range(len(tokens)))) != tokens:
        raise CurvekitError(f"{path}: tokenizer.ggml.tokens does not come back in its order; convert the model again")
    return tokenizer


def _byte_level(path: Path, values: dict[str, Any], tokens: list[str], kinds: list[int]) -> tuple[Tokenizer, bool]:
    """Merges over bytes, as GPT-2's; ``pre`` names how a text is cut before."""
    pre = values.get("pre")
    if pre not in PRE_TOKENIZERS:
        raise CurvekitError(
            f"{path}: tokenizer.ggml.pre is {pre!r}; the pre-tokenisers {', '.join(PRE_TOKENIZERS)} are read, and with "
            "another cut texts would become other tokens"
        )
    if values.get("add_space_prefix"):
        raise CurvekitError(f"{path}: tokenizer.ggml.add_space_prefix is True, which byte-level merges do not read")
    if not isinstance(values.get("merges"), list):
        raise CurvekitError(f"{path} lacks the field tokenizer.ggml.merges; convert the model again")
    cut, whole_words, adds_bos = PRE_TOKENIZERS[pre]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(
        _bpe(path, vocabulary, [tuple(merge.split(" ")) for merge in values["merges"]], ignore_merges=whole_words)
    )
    backend.pre_tokenizer = cut
    backend.decoder = decoders.ByteLevel()
    return backend, adds_bos


def _sentencepiece(path: Path, values: dict[str, Any], tokens: list[str], kinds: list[int]) -> tuple[Tokenizer, bool]:
    """Merges in the order of the tokens' scores, bytes where a character is no token, a space put first unless told."""
    scores = values.get("scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise CurvekitError(f"{path}: tokenizer.ggml.scores does not have one entry a token; convert the model again")
    if missing := {f"<0x{byte:02X}>" for byte in range(256)} - set(tokens):
        raise CurvekitError(
            f"{path}: tokenizer.ggml.tokens lacks {min(missing)}; only vocabularies with all bytes are read"
        )
    prefix = bool(values.get("add_space_prefix", True))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    apart = {token for token, kind in zip(tokens, kinds, strict=True) if kind in (CONTROL, USER_DEFINED)}
    merges = generate_merges(vocabulary, dict(zip(tokens, scores, strict=True)), skip_tokens=apart)
    backend = Tokenizer(_bpe(path, vocabulary, merges, fuse_unk=True, byte_fallback=True))
    # Not Metaspace: it puts no space before a text that begins with one, and llama.cpp does.
    spaces = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)] if prefix else steps)
    return backend, True


def _bpe(path: Path, vocabulary: dict[str, int], merges: list, **how: bool) -> models.BPE:
    try:
        return models.BPE(vocab=vocabulary, merges=merges, **how)
    except Exception as error:  # tokenizers raises nothing narrower
        raise CurvekitError(f"{path}: tokenizer.ggml.merges and tokens do not fit ({first_line(error)})") from error


def _write(gguf: Gguf, folder: Path) -> None:
    """The configuration, the tokeniser and one file of safetensors, one tensor in memory at a time."""
    megabytes = sum(4 * math.prod(shape) for shape in gguf.shapes.values()) / 1e6
    cached.require_space(folder, int(megabytes * 1e6) + 50_000_000)
    cached.say(f"{gguf.path.name} becomes {megabytes:,.0f} MB of float32 in {cached.root()}; this is done once")
    gguf.config.architectures = [{"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}[gguf.config.model_type]]
    gguf.config.save_pretrained(folder)
    gguf.tokenizer.save_pretrained(folder)
    _write_safetensors(folder / "model.safetensors", gguf)


def _write_safetensors(path: Path, gguf: Gguf) -> None:
    """The tensors in the safetensors format, written as they come, so that memory holds one and not the model."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in gguf.tensors:
        start, end = end, end + 4 * math.prod(gguf.shapes[name])
        header[name] = {"dtype": "F32", "shape": list(gguf.shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    count = len(gguf.tensors)
    bar = tqdm(gguf.weights(), "dequantising", count, unit=" tensors", leave=False, disable=None)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for done, (_, values) in enumerate(bar, start=1):
            file.write(values.data)
            if bar.disable and (done == count or done % (count // 4 + 1) == 0):  # nobody looks: lines and no bar
                cached.say(f"dequantised {done} of {count} tensors")
