"""Models with a curve through their input and any member of the SoftEMax family in their attention.

What curvekit adds is one mixin over a base model of transformers, :class:`CurveMixin`, and one over the class with its
head, :class:`CurveForCausalLMMixin`; an architecture is three lines over them and a row of :data:`ARCHITECTURES`. The
curve belongs to the base model, so whoever calls that and then the head trains and reads it too. With the recipe
``plain`` the model is transformers' own, weight for weight and logit for logit.

In generation the encoder's past lives in the same cache as the model's, as further layers behind the model's own:
first one with the states of all positions, which the curve reads, then those of a causal encoder, then one for each
site at which neighbouring states are mixed. Reordering for beams, cropping for assisted decoding and selecting from a
batch then need no code here.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GPT2LMHeadModel,
    GPT2Model,
    GPTNeoForCausalLM,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, StaticLayer
from transformers.masking_utils import find_packed_sequence_indices
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
from transformers.models.llama.modeling_llama import LlamaAttention

from curvekit.attention import implementation
from curvekit.caches import GrowingLayer, grow
from curvekit.configuration import CurveConfigMixin, CurveGPT2Config, CurveGPTNeoConfig, CurveLlamaConfig
from curvekit.curves import CurveEmbedding, control_points, sinusoidal_positions
from curvekit.encoders import ContextEncoder
from curvekit.errors import CurvekitError
from curvekit.gpt_neo import InterfacedGPTNeoAttention, InterfacedGPTNeoModel
from curvekit.mixers import Mixer
from curvekit.recipes import ATTENTIONS


def _own_implementation(config: Any) -> str | None:
    """The name of a recipe's attention among transformers', or None where it is softmax."""
    member = ATTENTIONS[config.attention]
    return None if member == "softmax" else implementation(member)


@contextlib.contextmanager
def to_be_replaced(config: Any) -> Iterator[None]:
    """Inside, transformers makes a model of which the parts are replaced after: without weights, quickly."""
    own = _own_implementation(config)
    wanted = config._attn_implementation if own is None else own
    checkpointing = getattr(config, "gradient_checkpointing", False)
    config._attn_implementation = "eager"  # every base knows it
    with init.no_init_weights():
        yield
    config._attn_implementation = wanted
    if checkpointing:  # which a model takes out of its configuration
        config.gradient_checkpointing = True


_READING = threading.RLock()  # a block's hook reads of whichever forward is running, so only one of them is


class _Reading(NamedTuple):
    """What the mixers inside the blocks must know of the forward that is running."""

    mask: Tensor | None
    documents: Tensor | None
    layers: dict[str, Any]  # of the cache, by mixer


def _seen(layer: Any) -> int | Tensor:
    """How many positions a layer of the cache holds; a static layer counts in place, so its number is copied."""
    seen = layer.get_seq_length()
    return seen.clone() if isinstance(seen, Tensor) else seen


def _kept(layer: Any, states: Tensor) -> Tensor:
    """Put states ``[batch, time, width]`` into a layer of the cache; those of all positions."""
    return layer.update(states.unsqueeze(1), states.new_empty(*states.shape[:2], 0).unsqueeze(1))[0][:, 0]


_Mixed: Any = object  # what the mixins stand over: classes of transformers


class _Attending(_Mixed):
    """What the base model and the model with its head share: an attention that is a part of the recipe."""

    config: Any

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """As the base's, for softmax. A member of another name is a part of the model and not exchanged.

        Raises:
            CurvekitError: the model's attention is not softmax.
        """
        own = _own_implementation(self.config)
        if own is not None and attn_implementation != own:
            raise CurvekitError(
                f"the attention of the recipe {self.config.recipe!r} is {self.config.attention!r}, which "
                f"{attn_implementation!r} would replace; build a recipe with attention='softmax' for that"
            )
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    @property
    def curved(self) -> Any:
        """The part that carries the curve, its encoder and the mixers: the base model below the head."""
        return self.base_model

    @property
    def curved_name(self) -> str:
        """What :attr:`curved` is called in the names of parameters."""
        return self.base_model_prefix

    @property
    def block_names(self) -> tuple[str, ...]:
        """What the names of the blocks' parameters begin with."""
        return (f"{self.curved_name}.{self.curved.blocks}.",)

    def _set_gradient_checkpointing(self, *args: Any, **settings: Any) -> None:
        """As the base's; a block that is computed again is told what it was told the first time."""
        base: Any = self if isinstance(self, CurveMixin) else self.curved
        if getattr(base, "mixers", None):  # a model that is being made has none yet
            func = settings.get("gradient_checkpointing_func", torch.utils.checkpoint.checkpoint)
            settings["gradient_checkpointing_func"] = base._telling(func)
        super()._set_gradient_checkpointing(*args, **settings)


class CurveMixin(_Attending):
    """A base model below its head, with a curve embedding at its input and SoftEMax in its attention.

    A subclass names ``blocks`` (the list of its blocks), ``norms`` (a block's, before attention and before the MLP),
    ``embeddings`` (its embedding modules) and ``attention`` (the class of its attention modules), and hands the
    arguments of its ``forward`` to :meth:`_run`.
    """

    blocks: str
    norms: tuple[str, str]
    embeddings: tuple[str, ...]
    attention: type[nn.Module]

    def __init__(self, config: Any) -> None:
        own = _own_implementation(config)
        if own is not None:
            config._attn_implementation = own
        super().__init__(config)
        if config.attention == "sink":
            for module in self._attentions():
                sinks = nn.Parameter(torch.full((config.num_attention_heads,), config.log_sink))
                module.register_parameter("log_sink", sinks)
        if config.source != "none":
            self.encoder: Any = None
            if config.source == "encoder":
                if config.encoder_config is None:
                    raise CurvekitError("source='encoder' needs the encoder's configuration; use build_model(...)")
                self.encoder = ContextEncoder(config.encoder_config, config.context, config.train_encoder)
                self.encoder.follow(config._attn_implementation)
            self.curve = CurveEmbedding(
                self.encoder.width if self.encoder is not None else config.hidden_size,
                config.hidden_size,
                degree=config.degree,
                place=config.place,
                weights=config.curve_weights,
                learn_place=config.learn_place,
                window=config.window,
                channels=config.channels,
                normalisation=config.normalisation,
                fusion=config.fusion,
            )
        self.mixers = nn.ModuleDict()
        self._reading: _Reading | None = None
        degree, channels = config.site_curve
        for name in config.mixer_names:
            self.mixers[name] = Mixer(
                config.mixer,
                config.hidden_size,
                degree=degree,
                weights=config.curve_weights,
                channels=channels,
                start=config.site_gate,
                spread=config.site_spread,
            )
            site, _, number = name.partition("_")
            if number:  # a hook, so that the base's modules keep their names and their code
                norm = getattr(getattr(self, self.blocks)[int(number)], self.norms[site == "mlp"])
                norm.register_forward_hook(functools.partial(self._mix_norm, name))
        if config.leaks:
            config.use_cache = False  # what a position says changes when later words arrive: no past can be kept
        self.post_init()
        self.train()

    def _attentions(self) -> list[nn.Module]:
        return [module for module in getattr(self, self.blocks).modules() if isinstance(module, self.attention)]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CurveEmbedding | Mixer):
            for parameter, start in module.starts():
                init.copy_(parameter, start)  # which leaves alone what a checkpoint has filled
        elif isinstance(module, self.attention) and hasattr(module, "log_sink"):
            init.constant_(module.get_parameter("log_sink"), self.config.log_sink)

    def train(self, mode: bool = True) -> Any:
        for part in self._frozen():  # again: loading a checkpoint makes new parameters
            for name, parameter in part.named_parameters():
                parameter.requires_grad_(name.endswith("log_sink"))
        return super().train(mode)

    def _frozen(self) -> list[nn.Module]:
        """The parts of the base that ``config.freeze`` names."""
        which, blocks = self.config.freeze, getattr(self, self.blocks)
        if which == "none":
            return []
        count = {"embeddings": 0, "all_but_head": len(blocks)}.get(which)
        return [*(getattr(self, name) for name in self.embeddings), *blocks[: int(which) if count is None else count]]

    def _run(self, forward: Callable[..., Any], *arguments: Any, **others: Any) -> Any:
        """The base's own ``forward`` of what :meth:`_prepared` makes of the arguments, and of others as they are."""
        if not self.mixers:
            return forward(**self._prepared(*arguments), **others)
        with contextlib.nullcontext() if torch.compiler.is_compiling() else _READING:
            try:
                return forward(**self._prepared(*arguments), **others)
            finally:
                self._reading = None

    def _prepared(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: Cache | None,
        inputs_embeds: Tensor | None,
        use_cache: bool | None,
        padding_mask: Tensor | None,
    ) -> dict[str, Any]:
        """The base's own arguments, with the curve in the embeddings.

        Where positions start anew within a row, without a mask and a past, another document begins, for the curve and
        the encoder as for attention; such a row keeps no cache, in which the border would be lost.

        Raises:
            CurvekitError: ``inputs_embeds`` for a recipe with an encoder, which reads token ids; a cache for a recipe
                that looks ahead; or more positions than the encoder has.
        """
        config: CurveConfigMixin = self.config
        documents = None
        if position_ids is not None and attention_mask is None and past_key_values is None:
            documents = find_packed_sequence_indices(position_ids)
        if config.leaks and past_key_values is not None:
            raise CurvekitError(
                f"the recipe {config.recipe!r} sees later words, so its past cannot be cached; "
                "generate with use_cache=False"
            )
        if config.leaks or documents is not None:
            use_cache = False
        elif use_cache is None:
            use_cache = self.config.use_cache and not (self.gradient_checkpointing and self.training)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        grow(past_key_values)
        if padding_mask is None and attention_mask is not None and attention_mask.ndim == 2:
            padding_mask = attention_mask
        if self.mixers:
            layers = self._own_layers(past_key_values)
            self._reading = _Reading(
                padding_mask, documents, dict(zip(self.mixers, layers[len(layers) - len(self.mixers) :], strict=False))
            )
        if config.source != "none" or "embedding" in self.mixers:
            inputs_embeds = self._embed(
                input_ids, inputs_embeds, padding_mask, position_ids, past_key_values, documents
            )
            input_ids = None
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
        }

    def _embed(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
        documents: Tensor | None,
    ) -> Tensor:
        """Token embeddings fused with the curve: ``[batch, time, width]``."""
        config: CurveConfigMixin = self.config
        tokens = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        batch, time = tokens.shape[:2]
        if config.source == "none":
            return self._mixed("embedding", tokens)
        layers = self._own_layers(cache)
        past = _seen(layers[0]) if layers else 0
        if documents is not None:
            documents = documents.expand(batch, -1)
        if self.encoder is None:
            states = tokens
        elif input_ids is None:
            raise CurvekitError(
                f"the recipe {config.recipe!r} reads token ids for its encoder; give input_ids, not inputs_embeds"
            )
        else:
            self._check_room(past, time, position_ids)
            if position_ids is None:
                position_ids = (torch.arange(time, device=tokens.device) + past).unsqueeze(0)
            encoders = layers[1 : 1 + self.encoder.cache_layers]
            encoder_cache = Cache(layers=encoders) if encoders else None
            states = self.encoder(input_ids, mask, position_ids.expand(batch, -1), encoder_cache, documents)
        if layers:
            states = _kept(layers[0], states)
        points = control_points(states, config.degree, config.window, mask, past, time, documents)
        embeds = self.curve(points, tokens)
        if "embedding" in self.mixers:
            embeds = self._mixed("embedding", embeds)
        if config.positions == "sinusoidal":
            if position_ids is None:
                position_ids = (torch.arange(time, device=tokens.device) + past).unsqueeze(0)
            embeds = embeds + sinusoidal_positions(position_ids, embeds.shape[-1]).to(embeds.dtype)
        return embeds

    def _mix_norm(self, name: str, norm: nn.Module, inputs: Any, states: Tensor) -> Tensor:
        return self._mixed(name, states)

    def _mixed(self, name: str, states: Tensor) -> Tensor:
        """The states ``[batch, time, width]`` after the mixer of that name."""
        reading, time = self._reading, states.shape[1]
        mixer: Any = self.mixers[name]
        if reading is None:
            raise CurvekitError("a block with a mixer runs within its model only, which knows masks and the past")
        layer = reading.layers.get(name)
        past = 0 if layer is None else _seen(layer)
        if layer is not None:
            states = _kept(layer, states)
        documents = None if reading.documents is None else reading.documents.expand(len(states), -1)
        return mixer(control_points(states, mixer.degree, "trailing", reading.mask, past, time, documents))

    def _telling(self, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        """A gradient checkpoint whose function reads again what it read first, after the forward is over."""

        def run(function: Callable[..., Any], *arguments: Any) -> Any:
            reading = self._reading

            def again(*arguments: Any) -> Any:
                before, self._reading = self._reading, reading
                try:
                    return function(*arguments)
                finally:
                    self._reading = before

            return checkpoint(again, *arguments)

        return run

    def _check_room(self, past: int | Tensor, time: int, position_ids: Tensor | None) -> None:
        """Refuse more positions than there are; a row of several documents may hold more tokens than that."""
        most, static = self.config.max_context, self.config.context == "static"
        unbounded = static and "wpe" not in self.embeddings  # rotations have no table that ends
        if unbounded or not isinstance(past, int) or past + time <= most or torch.compiler.is_compiling():
            return
        needed = past + time if position_ids is None else int(position_ids.max()) + 1
        if needed > most:
            raise CurvekitError(
                f"{needed} tokens are more than the {most} positions of the model; shorten the text"
                + ("" if static else ", or use context='static'")
            )

    def _own_layers(self, cache: Cache | None) -> list[Any]:
        """The cache's layers behind the model's own, added when they are first needed, of the kind that those are."""
        if cache is None:
            return []
        first = self.config.num_hidden_layers
        while len(cache.layers) < first + self.config.past_layers:
            like: Any = cache.layers[0] if cache.layers else GrowingLayer()
            cache.layers.append(StaticLayer(like.max_cache_len) if isinstance(like, StaticLayer) else type(like)())
        return cache.layers[first:]

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """As the base's, for softmax; the encoder follows."""
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        if getattr(self, "encoder", None) is not None:
            self.encoder.follow(self.config._attn_implementation)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As the base's; the encoder's table follows, and knows nothing of a new token."""
        words = super().resize_token_embeddings(*args, **kwargs)
        self._follow_vocabulary()
        return words

    def _follow_vocabulary(self) -> None:
        """Give the encoder's table as many rows as the vocabulary has entries."""
        config = self.config
        if getattr(self, "encoder", None) is not None and self.encoder.rows != config.vocab_size:
            self.encoder.resize(config.vocab_size)
            config.encoder_config = (config.encoder_config or {}) | {"vocab_size": config.vocab_size}


class CurveForCausalLMMixin(_Attending):
    """A base model with a curve, and its head.

    ``save_pretrained``, ``from_pretrained``, ``generate`` and the ``Trainer`` take it as they take the architecture's
    own class; a saved model holds its encoder too and reloads without a network. Build one with
    :func:`curvekit.build_model`. A subclass names its ``base`` class.
    """

    base: type[PreTrainedModel]

    def __init__(self, config: Any) -> None:
        with to_be_replaced(config):
            super().__init__(config)
        setattr(self, self.base_model_prefix, self.base(config))
        self.loss_type = "ForCausalLM"  # not every class name says so, and the Trainer would miscount tokens
        self.post_init()
        if config.leaks and self.generation_config is not None:
            self.generation_config.use_cache = False

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As the base's; the encoder's table follows, and knows nothing of a new token."""
        words = super().resize_token_embeddings(*args, **kwargs)
        self.base_model._follow_vocabulary()
        return words

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """As the base's, for softmax; the encoder follows."""
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        encoder = getattr(self.base_model, "encoder", None)
        if encoder is not None:
            encoder.follow(self.config._attn_implementation)

    def prepare_inputs_for_generation(
        self, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As the base's; a static cache turns the mask into four dimensions, so the plain one goes along."""
        # Named, because `generate` reads from the signature whether embeddings may stand in for the prompt.
        inputs = super().prepare_inputs_for_generation(*args, inputs_embeds=inputs_embeds, **kwargs)
        mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        if self.config.reads_neighbours and mask is not None and mask.ndim == 2:
            if isinstance(cache, Cache) and cache.is_compileable:  # of one shape at every step, or each recompiles
                first: Any = cache.layers[0]
                mask = nn.functional.pad(mask, (0, first.max_cache_len - mask.shape[1]))
            inputs["padding_mask"] = mask
        return inputs

    def _get_static_cache_init_shape(self) -> Any:
        """As the base's; None, which means later, where a cache has layers of the curve's, of other shapes."""
        return None if self.config.past_layers else super()._get_static_cache_init_shape()

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As the base's, for a recipe without a curve and with softmax.

        Raises:
            CurvekitError: any other recipe: continuous batching keeps no past for the curve and has no SoftEMax.
        """
        if self.config.reads_neighbours or self.config.attention != "softmax":
            raise CurvekitError(
                f"generate_batch keeps no past for the recipe {self.config.recipe!r} and would write another text; "
                "use generate, which takes a batch of prompts"
            )
        return super().generate_batch(*args, **kwargs)


class CurveGPTMixin(CurveMixin):
    """:class:`CurveMixin` over a base that is laid out, and called, as GPT-2 is."""

    blocks, embeddings, norms = "h", ("wte", "wpe"), ("ln_1", "ln_2")

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        padding_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the base's. ``padding_mask`` ``[batch, past + time]`` stands in where ``attention_mask`` has 4 dimensions.

        Raises:
            CurvekitError: as :meth:`CurveMixin._prepared`.
        """
        own = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, padding_mask)
        return self._run(super().forward, *own, token_type_ids=token_type_ids, **kwargs)


class CurveGPT2Model(CurveGPTMixin, GPT2Model):
    """:class:`CurveMixin` over GPT-2."""

    config_class, attention = CurveGPT2Config, GPT2Attention


class CurveGPT2LMHeadModel(CurveForCausalLMMixin, GPT2LMHeadModel):
    """:class:`CurveForCausalLMMixin` over GPT-2."""

    config_class, base = CurveGPT2Config, CurveGPT2Model


class CurveGPTNeoModel(CurveGPTMixin, InterfacedGPTNeoModel):
    """:class:`CurveMixin` over GPT-Neo, whose attention gets transformers' attention interface."""

    config_class, attention = CurveGPTNeoConfig, InterfacedGPTNeoAttention


class CurveGPTNeoForCausalLM(CurveForCausalLMMixin, GPTNeoForCausalLM):
    """:class:`CurveForCausalLMMixin` over GPT-Neo."""

    config_class, base = CurveGPTNeoConfig, CurveGPTNeoModel
    _supports_sdpa, _supports_attention_backend, _supports_flash_attn = True, True, False


class CurveLlamaModel(CurveMixin, LlamaModel):
    """:class:`CurveMixin` over LLaMA."""

    config_class = CurveLlamaConfig
    blocks, embeddings, attention = "layers", ("embed_tokens",), LlamaAttention
    norms = ("input_layernorm", "post_attention_layernorm")

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        padding_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As LLaMA's. ``padding_mask`` ``[batch, past + time]`` stands in where ``attention_mask`` has four dimensions.

        Raises:
            CurvekitError: as :meth:`CurveMixin._prepared`.
        """
        own = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, padding_mask)
        return self._run(super().forward, *own, **kwargs)


class CurveLlamaForCausalLM(CurveForCausalLMMixin, LlamaForCausalLM):
    """:class:`CurveForCausalLMMixin` over LLaMA."""

    config_class, base = CurveLlamaConfig, CurveLlamaModel


class Architecture(NamedTuple):
    """What curvekit knows of an architecture: its classes, and the names of its settings."""

    title: str
    config: type[CurveConfigMixin]
    plain: Any  # transformers' own class with a head
    model: Any  # the same with a curve
    dropouts: tuple[str, ...]  # the settings of dropout of embeddings and residuals
    attention_dropout: str
    shape: tuple[str, ...]  # what may be chosen from random weights


ARCHITECTURES: dict[str, Architecture] = {  # by transformers' model type
    "gpt2": Architecture(
        "GPT-2", CurveGPT2Config, GPT2LMHeadModel, CurveGPT2LMHeadModel,
        ("resid_pdrop", "embd_pdrop"), "attn_pdrop", ("n_positions", "n_embd", "n_layer", "n_head"),
    ),
    "gpt_neo": Architecture(
        "GPT-Neo", CurveGPTNeoConfig, GPTNeoForCausalLM, CurveGPTNeoForCausalLM,
        ("resid_dropout", "embed_dropout"), "attention_dropout",
        ("max_position_embeddings", "hidden_size", "num_layers", "num_heads", "intermediate_size", "window_size"),
    ),
    "llama": Architecture(
        "LLaMA", CurveLlamaConfig, LlamaForCausalLM, CurveLlamaForCausalLM,
        (), "attention_dropout",
        (
            "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "intermediate_size",
        ),
    ),
}  # fmt: skip


for _each in ARCHITECTURES.values():
    AutoConfig.register(_each.config.model_type, _each.config, exist_ok=True)
    AutoModel.register(_each.config, _each.model.base, exist_ok=True)
    AutoModelForCausalLM.register(_each.config, _each.model, exist_ok=True)
