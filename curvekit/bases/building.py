"""Building a recipe on a base: the base's weights in a model with a curve, or random weights in its shape."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from curvekit.bases import hub
from curvekit.bases.berts import load_encoder, plain_bert
from curvekit.bases.tokenizer import base_tokenizer
from curvekit.bases.weights import load_checked
from curvekit.configuration import OWN_FIELDS
from curvekit.errors import CurvekitError, first_line, pick, require_type
from curvekit.modeling import ARCHITECTURES, Architecture
from curvekit.modes import quiet
from curvekit.recipes import recipe_settings
from curvekit.t5 import SEQ2SEQ

MINI: dict[str, Any] = {"n_positions": 512, "n_embd": 320, "n_layer": 4, "n_head": 5}
# Tensors that curvekit adds to a base; of a T5, whose own first stack is called encoder, inside of that.
_ADDED = r"(^|\.)(curve|encoder|mixers)\.|\.log_sink$"
_ADDED_TO_SOURCE = r"^encoder\.(curve|encoder)\.|\.log_sink$"
_BUFFERS = r"attn(\.attention)?\.(masked_)?bias$|rotary_emb\.inv_freq$"  # of older versions of transformers
_GIVEN = {"encoder", "encoder_config", "base_is_random", "registered"}  # what follows from the other arguments
# What curvekit adds, by part: the settings under which one that was trained is the one that a recipe asks for. Learned
# sinks are asked for by their names alone.
_CURVE = ("degree", "curve_weights", "channels")
_ENCODER = ("source", "encoder", "encoder_config", "context", "random_encoder")
_PARTS = {
    "encoder": _ENCODER,
    "curve": (*_ENCODER, *_CURVE, "place", "learn_place", "window", "normalisation", "fusion"),
    "mixers": ("sites", "mixer", *_CURVE),
}


def build_model(
    recipe: str,
    base: str = "mini",
    tokenizer: PreTrainedTokenizerBase | None = None,
    encoder: str = "minilm",
    seed: int = 0,
    scratch: bool = False,
    **overrides: Any,
) -> PreTrainedModel:
    """Build a recipe of :data:`curvekit.recipes.RECIPES` from a base, or from random weights of its shape.

    Recipes of one base and seed share every weight of the base's part. Of a base that curvekit saved with a curve,
    ``mini-curve`` or a folder, also the encoder's table, the curve, the mixers and the sinks are taken, each where the
    recipe's settings of it are those that it was trained with; the others start anew, and what the recipe has no place
    for is left out. So the recipe that a base was trained with starts from its trained curve, and ``plain`` is the
    base's own part alone, which may be a poor model without what it was trained beside.

    Args:
        recipe: its name.
        base: ``mini``, ``mini-curve``, ``smollm2``, a hub name such as ``gpt2``, or a folder with a GPT-2, GPT-Neo,
            LLaMA or T5. A T5's curve runs through its source, see :mod:`curvekit.t5`; ``gpt-neo-mini`` and ``t5-mini``
            are shapes alone.
        tokenizer: the base's own, loaded when it is None and needed; from scratch any.
        encoder: see :func:`curvekit.bases.berts.locate_encoder`; used with ``source="encoder"``.
        seed: of every weight that the base does not bring.
        scratch: take the base's shape and none of its weights; the vocabulary is the tokeniser's.
        overrides: fields of :class:`curvekit.configuration.CurveConfigMixin`, such as ``context``, ``attention``,
            ``degree``, and the base's own settings of dropout; from scratch also of its shape (a GPT-2's
            ``n_layer``, ``n_embd``, ``n_head`` and ``n_positions``).

    Raises:
        CurvekitError: the recipe or a setting is unknown, or the base or the encoder cannot be had.
    """
    settings = recipe_settings(recipe, overrides)
    theirs = base_config(base)
    architecture = architecture_of(theirs)
    _check_settings(settings, architecture, scratch)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        fields = base_fields(theirs)
        if scratch:
            fields = _fresh(fields, architecture, tokenizer, settings)
        bert = None
        own = {name: settings[name] for name in ("context", "encoder_layers", "random_encoder") if name in settings}
        if settings.get("source") == "encoder" and not scratch and brings_encoder(theirs, encoder, **own):
            settings |= {"encoder": encoder, "encoder_config": theirs.encoder_config}
        elif settings.get("source") == "encoder":
            tokenizer = base_tokenizer(base) if tokenizer is None else tokenizer
            bert = load_encoder(encoder, tokenizer, fields["vocab_size"])
            settings |= {"encoder": encoder, "encoder_config": plain_bert(bert.config)}
            if settings.get("context", "static") != "static":
                settings["encoder_config"] |= {"num_hidden_layers": _layers(bert, encoder, settings)}
        config: Any = architecture.config(**fields | {"base_is_random": scratch} | settings)
        if scratch:
            plain = architecture.plain(architecture.plain.config_class(**fields))
            model = architecture.model(config)
            model.load_state_dict(plain.state_dict(), strict=False)
        else:
            model = load_base(base, config)
        if bert is not None and not config.random_encoder:
            model.curved.encoder.fill(bert)
    return model.eval()


def planned_config(recipe: str, base: str, overrides: dict[str, Any]) -> Any:
    """The configuration of a recipe on a base, without the encoder's, before anything is built.

    Raises:
        CurvekitError: as :func:`build_model`, for what can be told from settings.
    """
    theirs = base_config(base)
    architecture = architecture_of(theirs)
    settings = recipe_settings(recipe, overrides)
    _check_settings(settings, architecture, scratch=True)
    return architecture.config(**base_fields(theirs) | settings)


def plain_name(base: str) -> str:
    """The name of the recipe that leaves a base as it is: ``gpt2`` on a GPT-2, as ever, elsewhere ``plain``."""
    return "gpt2" if architecture_of(base_config(base), base).title == "GPT-2" else "plain"


def base_config(base: str) -> Any:
    """The configuration of a base, wherever it lies.

    Raises:
        CurvekitError: there is none, or its architecture is not one that curvekit has.
    """
    if not Path(base).is_dir() and "/" not in base:
        hub.pick_base(base)
    where = hub.located(base)
    hub.require_model(where, "the base", "base='mini'")
    if (Path(where) / "adapter_config.json").is_file():
        raise CurvekitError(f"{base} is an adapter and no base; `curvekit merge {base} OUT` makes one of it")
    try:
        config = AutoConfig.from_pretrained(where, local_files_only=hub.local_only(where), trust_remote_code=False)
    except (OSError, ValueError) as error:
        hub.require_answers()
        raise CurvekitError(f"the base {base!r} cannot be loaded ({first_line(error)})") from error
    architecture_of(config, base)
    return config


def architecture_of(config: Any, base: str = "") -> Architecture:
    """The row of :data:`curvekit.modeling.ARCHITECTURES`, or of :data:`curvekit.t5.SEQ2SEQ`, of a configuration.

    Raises:
        CurvekitError: it belongs to none.
    """
    kind, rows = str(config.model_type).removeprefix("curve_"), ARCHITECTURES | SEQ2SEQ
    if kind not in rows:
        known = ", ".join(each.title for each in rows.values())
        raise CurvekitError(f"the base {base!r} is a {config.model_type!r}; curvekit takes {known}")
    return rows[kind]


def is_seq2seq(config: Any) -> bool:
    """Whether a model of this configuration writes a target for a source, as a T5, and does not continue text."""
    return bool(config.is_encoder_decoder)


def base_fields(config: Any) -> dict[str, Any]:
    """The part of a configuration that is the base's own: all that the plain model of this shape needs."""
    # A base that curvekit saved keeps no cache where it leaks, which what is built on it need not.
    left_out = {"model_type", "architectures", "transformers_version", *OWN_FIELDS}
    left_out |= {"use_cache"} if hasattr(config, "leaks") else set()
    return {name: value for name, value in config.to_dict().items() if name not in left_out}


def _check_settings(settings: dict[str, Any], architecture: Architecture, scratch: bool) -> None:
    dropouts = {*architecture.dropouts, architecture.attention_dropout}
    known = (OWN_FIELDS - _GIVEN) | dropouts | (set(architecture.shape) if scratch else set())
    for name, value in settings.items():
        pick(name, sorted(known), "model setting")
        if name in architecture.shape:
            require_type(name, value, int)
            if value < 1:
                raise CurvekitError(f"{name} is {value}; give 1 or more")
        elif name in dropouts:
            require_type(name, value, float)
            if not 0 <= value < 1:
                raise CurvekitError(f"{name} is {value}; give 0 or more, and less than 1")


def _fresh(
    fields: dict[str, Any],
    architecture: Architecture,
    tokenizer: PreTrainedTokenizerBase | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The base's own fields in another shape and for another vocabulary; takes the shape out of ``settings``."""
    if tokenizer is None:
        raise CurvekitError("from scratch the vocabulary is the tokeniser's; give tokenizer=...")
    end = tokenizer.eos_token_id
    fields = fields | {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    fields |= {name: settings.pop(name) for name in architecture.shape if name in settings}
    if architecture.title == "GPT-Neo":  # global and local layers in turn, as many as there are
        kinds = [("global", "local")[i % 2] for i in range(fields["num_layers"])]
        fields |= {"attention_types": [[[kind], 1] for kind in kinds], "attention_layers": kinds}
    if architecture.title == "T5":  # its heads are as wide as they like, and padding begins a target
        pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return fields | {"pad_token_id": pad, "decoder_start_token_id": pad}
    config = architecture.plain.config_class(**fields)
    width, heads = config.hidden_size, config.num_attention_heads
    if width % heads:
        name = next(each for each in architecture.shape if getattr(config, each) == width)
        raise CurvekitError(f"{name} is {width}, which {heads} heads cannot share; give a multiple")
    if architecture.title == "LLaMA":
        fields["head_dim"] = width // heads
        if heads % config.num_key_value_heads:
            raise CurvekitError(
                f"{heads} query heads cannot share {config.num_key_value_heads} key heads; give num_key_value_heads "
                "a divisor"
            )
    return fields


def _layers(bert: Any, encoder: str, settings: dict[str, Any]) -> int:
    """How many layers of a BERT a recipe's states pass through."""
    there: int = bert.config.num_hidden_layers
    if len(bert.encoder.layer) < there:
        raise CurvekitError(f"{encoder} holds a table alone, for context 'static'; give the whole encoder")
    wanted = settings.get("encoder_layers")
    if wanted is not None and wanted > there:
        raise CurvekitError(f"encoder_layers is {wanted}, and the encoder {encoder!r} has {there}; give no more")
    return there if wanted is None else int(wanted)


def brings_encoder(
    theirs: Any,
    encoder: str,
    context: str = "static",
    encoder_layers: int | None = None,
    random_encoder: bool = False,
) -> bool:
    """Whether a base was saved with an encoder, and with this one."""
    wanted = {"source": "encoder", "encoder": encoder, "context": context, "random_encoder": random_encoder}
    wanted |= {"encoder_layers": encoder_layers} if context != "static" else {}
    return all(getattr(theirs, name, None) == value for name, value in wanted.items())


def _differing(theirs: Any, config: Any) -> list[str]:
    """The parts that a base was saved with, and that these settings ask for otherwise."""
    if not hasattr(theirs, "leaks"):  # nothing of curvekit's is in it
        return []
    plain = lambda value: list(value) if isinstance(value, tuple) else value  # noqa: E731
    same = lambda name: plain(getattr(theirs, name)) == plain(getattr(config, name))  # noqa: E731
    return [part for part, settings in _PARTS.items() if not all(map(same, settings))]


def load_base(base: str, config: Any) -> Any:
    """The base's weights in a model of this configuration, in float32; the rest of it is random.

    What curvekit added to the base is taken as :func:`build_model` says.

    Raises:
        CurvekitError: they cannot be had, or are not whole.
    """
    hub.require_weights(base)
    where = hub.located(base)
    head = "lm_head.weight"
    theirs = base_config(base)
    architecture = architecture_of(theirs, base)
    added = _ADDED_TO_SOURCE if is_seq2seq(theirs) else _ADDED
    differing = _differing(theirs, config)
    untied = theirs.tie_word_embeddings and not config.tie_word_embeddings  # the head becomes a matrix of its own
    model = load_checked(
        architecture.model,
        where,
        f"the base {base!r}",
        missing=f"{added}|^{re.escape(head)}$" if untied else added,
        unexpected=f"{added}|{_BUFFERS}",
        config=config,
        dtype=torch.float32,
        mismatched="|".join(rf"\.{part}\." for part in differing) or None,
        local_files_only=hub.local_only(where),
    )
    if differing := [part for part in differing if getattr(model.curved, part, None) is not None]:
        fresh = architecture.model(copy.deepcopy(config)).curved
        for part in differing:
            getattr(model.curved, part).load_state_dict(getattr(fresh, part).state_dict())
    if untied:
        model.get_output_embeddings().weight.data.copy_(model.get_input_embeddings().weight.data)
    if config.leaks:
        model.generation_config.use_cache = False  # the base's own, loaded with it, keeps one
    return model
