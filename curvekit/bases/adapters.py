r"""Adapters: a base that keeps its weights, and beside it low-rank matrices and what curvekit adds, trained and saved.

A matrix W of the base becomes ``W + (alpha / rank) B A`` with B ``[out, rank]`` and A ``[rank, in]``; B starts at zero,
so a model with an adapter is its base before the first step. The matrices are peft's, injected in place: the model
keeps its class, so its cache, its generation and its curve work as they did. Curve, gate, places and sinks stay
ordinary parameters and train beside them.

A saved adapter is a folder: ``adapter_config.json`` and ``adapter_model.safetensors`` as peft writes them,
``curve.safetensors`` with what curvekit adds, the model's ``config.json``, and ``base.json``, which names the base and
the encoder by the SHA-256 of their weights. A static encoder's table is read from the encoder, as the base from its
own place.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from curvekit.bases import cached, hub
from curvekit.bases.berts import load_encoder, locate_encoder
from curvekit.bases.building import base_config, base_tokenizer, brings_encoder, is_seq2seq, load_base
from curvekit.errors import CurvekitError, first_line
from curvekit.files import read_json, write_json
from curvekit.modes import quiet

CONFIG, MATRICES, ADDED, BASE = "adapter_config.json", "adapter_model.safetensors", "curve.safetensors", "base.json"
_NAME = "default"  # peft's, of the one adapter that a model has
_PREFIX = "base_model.model."  # what peft puts before every name in its files


@dataclass(frozen=True)
class Lora:
    """Settings of an adapter.

    Args:
        rank: rows of A and columns of B.
        alpha: ``alpha / rank`` is the factor of ``B A``.
        targets: names of matrices in the blocks, such as ``q_proj`` or ``mlp.c_fc``; default all of them.
        dropout: of what A reads, in training.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None
    dropout: float = 0.0


def add_adapter(model: PreTrainedModel, base: str, settings: Lora, seed: int = 0) -> PreTrainedModel:
    """Put an adapter into a model that was built on ``base``, freeze the base, and return the model.

    Raises:
        CurvekitError: a target that no matrix of the blocks has for a name, with the names there are.
    """
    if is_seq2seq(model.config):
        raise CurvekitError("an adapter goes beside a model that continues text, and this is a T5; train all of it")
    record: dict[str, Any] = {"base": str(Path(base).resolve()) if Path(base).is_dir() else base}
    record["sha256"] = weights_digest(base)
    config: Any = model.config
    if config.source == "encoder" and not (config.train_encoder or config.random_encoder):
        record["encoder_sha256"] = weights_digest(locate_encoder(config.encoder))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _inject(
            model,
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=_pattern(model, settings.targets),
            base_model_name_or_path=base,
            task_type="CAUSAL_LM",
        )
    model.base_record = record  # type: ignore[assignment]
    return model


def is_adapted(model: nn.Module) -> bool:
    """Whether a model carries an adapter."""
    return hasattr(model, "base_record")


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a saved adapter."""
    return (Path(folder) / CONFIG).is_file()


def matrices(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The matrices in a model's blocks that an adapter can stand beside, by their full names."""
    prefix = _blocks(model)
    return {
        name: module
        for name, module in model.named_modules()
        if name.startswith(prefix) and isinstance(module, nn.Linear | Conv1D)
    }


def beside(model: nn.Module) -> dict[str, Tensor]:
    """The base's matrices that an adapter stands beside, by the names that they have without it."""
    return {name: layer.get_base_layer().weight.detach() for name, layer in _layers(model)}


def adapter_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """All that the base and the encoder do not bring: the adapter's matrices and what curvekit adds."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if ".lora_" in name or (is_added(name, model) and _is_kept(name, model))
    }


def save_weights(model: PreTrainedModel, path: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write :func:`adapter_state`, or what is given in its place, as one file, which names the base it belongs to."""
    state = {name: tensor.contiguous() for name, tensor in (state or adapter_state(model)).items()}
    save_file(state, path, metadata={"base": _record(model)["sha256"]})


def load_weights(model: PreTrainedModel, path: Path, part: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
    """Read back what :func:`save_weights` wrote; ``part`` makes of a whole tensor what lies in the model's own.

    Raises:
        CurvekitError: it belongs to another base or to an adapter of another shape.
    """
    with safe_open(path, "pt") as file:
        if file.metadata()["base"] != _record(model)["sha256"]:
            raise CurvekitError(
                f"{path} was trained on other weights than those that {_record(model)['base']!r} has now; "
                "restore them, or train anew in another folder"
            )
        state, own = {name: file.get_tensor(name) for name in file.keys()}, adapter_state(model)  # noqa: SIM118
        _fill(model, state, own, path, part)


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Write a model's adapter into a folder; see the head of this room for its files."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in adapter_state(model).items()}
    lora = {name: state.pop(name) for name in list(state) if ".lora_" in name}
    peft: Any = model.peft_config[_NAME]
    peft.inference_mode = True
    peft.save_pretrained(str(folder))
    peft.inference_mode = False
    names = {name: _PREFIX + name.replace(f".{_NAME}.", ".") for name in lora}
    save_file({names[name]: tensor for name, tensor in lora.items()}, folder / MATRICES, metadata={"format": "pt"})
    if state:
        save_file(state, folder / ADDED, metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    write_json(folder / BASE, _record(model))


def open_adapter(folder: str | Path) -> PreTrainedModel:
    """A saved adapter on its base, on the CPU, in evaluation mode.

    Raises:
        CurvekitError: a file is missing or cut off; the base or the encoder cannot be had, or has other weights than
            those the adapter was trained on; the adapter has other shapes than its base.
    """
    folder = Path(folder)
    record = read_json(folder / BASE)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        settings = read_json(folder / CONFIG)
        state = _saved_state(folder)
        base = str(record["base"])
        expected = record["sha256"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CurvekitError(
            f"the adapter in {folder} is not whole ({first_line(error)}); restore it, or train it again"
        ) from error
    _require(base, expected, f"the adapter in {folder} was trained on the base {base!r}")
    with torch.random.fork_rng(devices=[]), quiet():
        model = load_base(base, config)
        if "encoder_sha256" in record:
            where = locate_encoder(config.encoder)
            _require(where, record["encoder_sha256"], f"the adapter in {folder} reads the encoder {config.encoder!r}")
            if not brings_encoder(base_config(base), config.encoder, config.context):
                bert = load_encoder(config.encoder, base_tokenizer(base), config.vocab_size)
                model.base_model.encoder.fill(bert)
        _inject(model, **{name: settings[name] for name in _SAVED})
    model.base_record = record
    _fill(model, state, adapter_state(model), folder)
    return model.eval()


def load_saved(model: PreTrainedModel, folder: str | Path) -> None:
    """Read a saved adapter into a model that has one of its shape on its base.

    Raises:
        CurvekitError: it belongs to another base, or has other shapes.
    """
    folder = Path(folder)
    if read_json(folder / BASE).get("sha256") != _record(model)["sha256"]:
        raise CurvekitError(f"the adapter in {folder} was trained on another base than {_record(model)['base']!r}")
    _fill(model, _saved_state(folder), adapter_state(model), folder)


def _saved_state(folder: Path) -> dict[str, Tensor]:
    """The tensors of a saved adapter by the names that they have in a model."""
    lora = {name.removeprefix(_PREFIX): tensor for name, tensor in _tensors(folder / MATRICES).items()}
    named = {re.sub(r"(\.lora_[AB])\.", rf"\1.{_NAME}.", name): tensor for name, tensor in lora.items()}
    return named | (_tensors(folder / ADDED) if (folder / ADDED).exists() else {})


@torch.no_grad()
def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Add the adapter's products to the base's matrices, in place and in float32; return the plain model.

    Raises:
        CurvekitError: the model has no adapter, or its weights are not float32.
    """
    _record(model)
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise CurvekitError(f"an adapter is merged in float32, and this model is in {model.dtype}; call .float() first")
    fold(model)
    del model.base_record
    return model


def inject(model: PreTrainedModel, settings: Lora, seed: int, kept: str) -> None:
    """Put matrices into any model of transformers, beside all of its linear layers but ``kept``, which trains whole.

    Of such a model nothing is saved apart; :func:`fold` makes it whole again.
    """
    from peft import LoraConfig, inject_adapter_in_model

    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    turned = any(isinstance(module, Conv1D) for module in layers.values())
    targets = [name for name in layers if name != kept and not name.endswith("lm_head")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size: Any = {"r": settings.rank, "lora_alpha": settings.alpha, "target_modules": targets}
        lora = LoraConfig(**size, fan_in_fan_out=turned)
        inject_adapter_in_model(lora, model, adapter_name=_NAME)
    model.get_submodule(kept).requires_grad_(True)


@torch.no_grad()
def fold(model: PreTrainedModel) -> None:
    """Add each layer's product to its matrix, in place, and take the adapter's layers out."""
    for name, layer in list(_layers(model)):
        whole: Any = layer.get_base_layer()
        whole.weight += layer.get_delta_weight(_NAME)
        model.set_submodule(name, whole)
    del model.peft_config


@contextmanager
def as_merged(model: PreTrainedModel) -> Iterator[None]:
    """Compute as the merged model does, ``(W + (alpha / rank) B A) x``, while no weight is touched."""

    def forward(layer: Any) -> Any:
        base = layer.get_base_layer()

        def merged(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            weight = base.weight + layer.get_delta_weight(_NAME)
            return torch.func.functional_call(base, {"weight": weight}, (x,))

        return merged

    layers = [layer for _, layer in _layers(model)]
    for layer in layers:
        layer.forward = forward(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own again


def paired(first: PreTrainedModel, second: PreTrainedModel) -> PreTrainedModel | None:
    """``first``, changed so that the first half of a batch passes its own adapter and the second half ``second``'s.

    The base's matrices are read once for both. None where they are not adapters of one base beside the same matrices,
    or where curvekit added something that is trained besides.
    """
    if not (is_adapted(first) and is_adapted(second)) or _record(first)["sha256"] != _record(second)["sha256"]:
        return None
    mine, theirs = dict(_layers(first)), dict(_layers(second))
    trained = {*adapter_state(first), *adapter_state(second)}
    if mine.keys() != theirs.keys() or not all(".lora_" in name for name in trained):
        return None

    def forward(own: Any, other: Any) -> Any:
        base = own.get_base_layer()

        def halved(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            products = [
                layer.scaling[_NAME] * layer.lora_B[_NAME](layer.lora_A[_NAME](half))
                for layer, half in zip((own, other), x.chunk(2), strict=True)
            ]
            return base(x) + torch.cat(products)

        return halved

    for name, layer in mine.items():
        layer.forward = forward(layer, theirs[name])
    return first


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Compute as the base does, without the adapter's products; what curvekit adds stays as it is.

    No weight is touched, and none is made trainable or frozen by it.
    """
    layers = [layer for _, layer in _layers(model)]
    before = [layer.disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off


def share_bases(models: Iterable[nn.Module]) -> None:
    """Let models with adapters of one base hold its frozen weights once."""
    first: dict[tuple[str, str], nn.Parameter] = {}
    for model in models:
        if is_adapted(model):
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad and not is_added(name, model):
                    base = str(_record(model)["sha256"])
                    twin = first.setdefault((base, name.replace(".base_layer.", ".")), parameter)
                    parameter.data = twin.data


def weights_digest(name: str) -> str:
    """The SHA-256 of a base's or an encoder's weights: of its safetensors file, or of the digests of its several.

    What was made in the cache is known by its record, and what the hub sent by the name of its file; the rest is read.

    Raises:
        CurvekitError: it has no safetensors here.
    """
    from huggingface_hub import snapshot_download

    where = hub.located(name)
    folder = Path(where)
    if not folder.is_dir():
        hub.pick_base(where)
        hub.require_model(where, "the model", "the adapter where it was trained")
        wanted = ["config.json", "model*.safetensors*"]
        folder = Path(snapshot_download(where, allow_patterns=wanted, local_files_only=hub.local_only(where)))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CurvekitError(f"{name} holds no safetensors, by whose digest an adapter could name it")
    record = read_json(folder / cached.RECORD)["files"] if (folder / cached.RECORD).exists() else {}
    digests = []
    for file in files:
        blob = file.resolve().name  # the hub's cache names a large file by its SHA-256
        known = record.get(file.name, {}).get("sha256")
        digests.append(known or (blob if re.fullmatch("[0-9a-f]{64}", blob) else cached.sha256(file)))
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


_SAVED = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "base_model_name_or_path",
    "task_type",
)  # fmt: skip  of peft's settings, those that curvekit chooses


def _inject(model: PreTrainedModel, **settings: Any) -> None:
    """Put peft's layers into the model; train them and what was trained of what curvekit adds, and nothing else."""
    from peft import LoraConfig, inject_adapter_in_model

    trained = [p for name, p in model.named_parameters() if is_added(name, model) and p.requires_grad]
    turned = any(isinstance(module, Conv1D) for module in matrices(model).values())  # [in, out], as GPT-2 keeps them
    training = model.training
    inject_adapter_in_model(LoraConfig(**settings, fan_in_fan_out=turned), model, adapter_name=_NAME)
    for parameter in trained:
        parameter.requires_grad_(True)
    model.train(training)


def _pattern(model: PreTrainedModel, targets: tuple[str, ...] | None) -> str:
    """The regular expression that peft finds the targets by: in the blocks only, never in the encoder."""
    own = list(dict.fromkeys(re.sub(r"^\d+\.", "", name.removeprefix(_blocks(model))) for name in matrices(model)))
    for target in targets or ():
        if not any(name == target or name.endswith(f".{target}") for name in own):
            raise CurvekitError(f"targets holds {target!r}, which no matrix is called; there are {', '.join(own)}")
    return rf"{re.escape(_blocks(model))}\d+\.(?:.+\.)?(?:{'|'.join(map(re.escape, targets or own))})"


def _blocks(model: Any) -> str:
    return f"{model.base_model_prefix}.{model.base_model.blocks}."


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def is_added(name: str, model: Any) -> bool:
    """Whether a parameter is curvekit's and not the base's."""
    prefix = getattr(model, "curved_name", model.base_model_prefix)
    return name.startswith(tuple(f"{prefix}.{part}." for part in ("curve", "encoder", "mixers"))) or name.endswith(
        ".log_sink"
    )


def _is_kept(name: str, model: Any) -> bool:
    """Whether what curvekit adds is saved; a pretrained encoder that is not trained is found by its name."""
    fixed = not (model.config.train_encoder or model.config.random_encoder)
    return not (fixed and name.startswith(f"{model.base_model_prefix}.encoder."))


def _record(model: Any) -> dict[str, Any]:
    if not is_adapted(model):
        raise CurvekitError("the model has no adapter; its weights are whole as they are")
    return model.base_record


def _require(name: str, expected: str, what: str) -> None:
    found = weights_digest(name)
    if found != expected:
        raise CurvekitError(
            f"{what} with the weights {expected[:12]}, and those here are {found[:12]}; restore them, or train it again"
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@torch.no_grad()
def _fill(
    model: PreTrainedModel,
    state: dict[str, Tensor],
    own: dict[str, Tensor],
    where: Path,
    part: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> None:
    """Copy tensors into the model's; all of them, and no others."""
    for name in own.keys() | state.keys():
        given, wanted = (list(each[name].shape) if name in each else None for each in (state, own))
        if given != wanted:
            raise CurvekitError(
                f"{where} belongs to another model: its {name} is {given or 'missing'}, and the base "
                f"{_record(model)['base']!r} takes {wanted or 'none'}"
            )
    for name, tensor in own.items():
        tensor.copy_(part(state[name], tensor) if part else state[name])
