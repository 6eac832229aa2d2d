"""CurveGPT2: GPT-2 with a curve through its input and any member of the SoftEMax family in its attention.

A recipe names a variant of the model. Its parts: where the states come from that the curve runs through (``source``:
an encoder, GPT-2's own embeddings, or none), what they see (``context``), the curve, and the attention. With the
recipe ``gpt2`` the model is transformers' own GPT-2, weight for weight and logit for logit.

In generation the encoder's past lives in the same cache as GPT-2's, as further layers behind GPT-2's own: first one
with the states of all positions, which the curve reads, then those of a causal encoder. Reordering for beams,
cropping for assisted decoding and selecting from a batch then need no code here.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
)
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, StaticLayer
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from curvekit.attention import implementation
from curvekit.bases import hub
from curvekit.bases.berts import load_encoder
from curvekit.caches import GrowingLayer, grow
from curvekit.curves import CurveEmbedding, check_curve, control_points, reach, sinusoidal_positions
from curvekit.encoders import CONTEXTS, ContextEncoder
from curvekit.errors import CurvekitError, first_line, pick, require_type
from curvekit.modes import quiet
from curvekit.normalisers import LOG_C, MEMBERS
from curvekit.text.tokenization import base_tokenizer

SOURCES = ("none", "encoder", "self")
ATTENTIONS = {  # what `attention` may be, and the member of the family that it is
    "softmax": "softmax",
    "softemax": "stable",
    "softmax1": "softmax1",
    "published": "published",
    "inverse": "inverse",
    "plus": "plus",
    "plus-inverse": "plus-inverse",
    "sink": "stable",
}

RECIPES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "curve": {"source": "encoder"},
    "softemax": {"attention": "softemax"},
    "curve+softemax": {"source": "encoder", "attention": "softemax"},
    "published": {
        "source": "encoder",
        "context": "bidirectional",
        "window": "centred",
        "normalisation": "published",
        "fusion": "replace",
        "positions": "sinusoidal",
    },
    "encoder": {"source": "encoder", "degree": 0},
    "self-curve": {"source": "self"},
    "random-encoder": {"source": "encoder", "random_encoder": True},
    "curve-causal": {"source": "encoder", "context": "causal"},
    "sink": {"attention": "sink"},
}

MINI: dict[str, Any] = {"n_positions": 512, "n_embd": 320, "n_layer": 4, "n_head": 5}
_DROPOUTS = {"resid_pdrop", "embd_pdrop", "attn_pdrop"}
BASES = ("mini", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")


def check_freeze(which: str, blocks: int | None = None) -> None:
    """Refuse what ``freeze`` cannot be; ``blocks`` is how many the model has, where that is known."""
    if which in ("none", "embeddings", "all_but_head"):
        return
    if not (which.isascii() and which.isdecimal()):
        raise CurvekitError(f"freeze is {which!r}; give none, embeddings, all_but_head, or a number of first blocks")
    if blocks is not None and int(which) > blocks:
        raise CurvekitError(f"freeze is {which!r}, but the base has {blocks} blocks; give at most {blocks}")


def _has_sink(attention: str) -> bool:
    """Whether the sink of an attention can be set."""
    return MEMBERS[ATTENTIONS[attention]].sink not in ("none", "zero")


def recipe_settings(recipe: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Fields of :class:`CurveGPT2Config` for a recipe: its own, and ``overrides``, which several recipes may share.

    A recipe without a curve takes no notice of ``degree``, nor does ``encoder``, whose degree 0 is what it is there
    for; one whose attention has a fixed sink takes none of ``log_sink``.
    """
    own = RECIPES[pick(recipe, RECIPES, "recipe")]
    settings = own | {"recipe": recipe} | overrides
    if own.get("degree") == 0:
        settings["degree"] = 0
    attention = settings.get("attention", "softmax")
    if attention in ATTENTIONS and not _has_sink(attention):
        settings.pop("log_sink", None)
    return settings


class CurveGPT2Config(GPT2Config):
    """Configuration of :class:`CurveGPT2LMHeadModel`: GPT-2's, and

    Args:
        recipe: the recipe's name, for outputs.
        attention: a name of :data:`ATTENTIONS`; ``sink`` learns one sink a head. It decides over transformers'
            ``attn_implementation``, which chooses among implementations of softmax.
        log_sink: the sink's score, or where learned sinks start (default log C).
        source: ``encoder``, ``self`` (GPT-2's own token embeddings) or ``none``.
        encoder: the encoder's name, for outputs; ``encoder_config`` is its BERT configuration.
        random_encoder: the encoder keeps untrained weights (an ablation).
        train_encoder: train the encoder too.
        context: ``static``, ``causal`` or ``bidirectional``.
        degree, place, curve_weights, learn_place, window, channels, normalisation, fusion: of the curve; see
            :class:`curvekit.curves.CurveEmbedding`.
        positions: ``gpt2``, or ``sinusoidal`` to add the published ones.
        base_is_random: the base had no pretrained weights.
        freeze: what of GPT-2 keeps its weights in training, loaded models included; what curvekit adds (curve, gate,
            sinks, and the encoder as ``train_encoder`` says) is trained in any case.
            ``none``: nothing. ``embeddings``: words and positions, and with the words the output matrix, which is
            the same (tied). A number n: these and the first n blocks. ``all_but_head``: everything but the last
            norm and the output matrix, which becomes a matrix of its own, or training it would move the embeddings.

    Raises:
        CurvekitError: a value of another type, an unknown name, more blocks than there are, or a sink for a member
            that has a fixed one.
    """

    model_type = "curve_gpt2"

    recipe: str = "gpt2"
    attention: str = "softmax"
    log_sink: float = LOG_C
    source: str = "none"
    encoder: str | None = None
    encoder_config: dict | None = None
    random_encoder: bool = False
    train_encoder: bool = False
    context: str = "static"
    degree: int = 2
    place: float = 0.5
    curve_weights: str = "bernstein"
    learn_place: bool = False
    window: str = "trailing"
    channels: list | tuple = ("point",)
    normalisation: str = "layernorm"
    fusion: str = "gate"
    positions: str = "gpt2"
    base_is_random: bool = False
    freeze: str = "none"

    def __post_init__(self, **kwargs: Any) -> None:
        for name, hint in _own_hints().items():
            require_type(name, getattr(self, name), hint)
        self.log_sink, self.place = float(self.log_sink), float(self.place)
        check_freeze(self.freeze, self.n_layer)
        if self.freeze == "all_but_head":
            self.tie_word_embeddings = False
        pick(self.attention, ATTENTIONS, "attention")
        if self.log_sink != LOG_C and not _has_sink(self.attention):
            raise CurvekitError(f"attention {self.attention!r} has a fixed sink; leave log_sink out")
        pick(self.source, SOURCES, "source")
        pick(self.context, CONTEXTS, "context")
        pick(self.positions, ("gpt2", "sinusoidal"), "kind of positions")
        check_curve(
            self.degree, self.place, self.curve_weights, self.learn_place, self.window, self.channels,
            self.normalisation, self.fusion,
        )  # fmt: skip
        super().__post_init__(**kwargs)

    @property
    def leaks(self) -> bool:
        """Whether a position sees tokens after it."""
        if self.source == "none":
            return False
        return reach(self.degree, self.window)[1] > 0 or (self.source == "encoder" and self.context == "bidirectional")

    @property
    def max_context(self) -> int:
        """The longest sequence that both GPT-2 and the encoder have positions for."""
        if self.source != "encoder" or self.context == "static":
            return self.n_positions
        return min(self.n_positions, (self.encoder_config or {}).get("max_position_embeddings", self.n_positions))


@functools.cache
def _own_hints() -> dict[str, Any]:
    """The types of what :class:`CurveGPT2Config` adds to GPT-2's configuration."""
    own = {"__annotations__": CurveGPT2Config.__annotations__}  # without its parents', which name what they import late
    return get_type_hints(type("Own", (), own))


class CurveGPT2LMHeadModel(GPT2LMHeadModel):
    """GPT-2 with a curve embedding at its input and a member of the SoftEMax family in its attention.

    ``save_pretrained``, ``from_pretrained``, ``generate`` and the ``Trainer`` take it as they take GPT-2; a saved
    model holds its encoder too and reloads without a network. Build one with :func:`build_model` or
    :meth:`from_base`.
    """

    config_class = CurveGPT2Config

    def __init__(self, config: CurveGPT2Config) -> None:
        member = ATTENTIONS[config.attention]
        if member != "softmax":
            config._attn_implementation = implementation(member)
        super().__init__(config)
        self.loss_type = "ForCausalLM"  # GPT-2's class name does not say so, and the Trainer would miscount tokens
        if config.attention == "sink":
            for block in self.transformer.h:
                sinks = nn.Parameter(torch.full((config.n_head,), config.log_sink))
                block.get_submodule("attn").register_parameter("log_sink", sinks)
        if config.source != "none":
            self.encoder = None
            if config.source == "encoder":
                if config.encoder_config is None:
                    raise CurvekitError("source='encoder' needs the encoder's configuration; use build_model(...)")
                self.encoder = ContextEncoder(config.encoder_config, config.context, config.train_encoder)
            self.curve = CurveEmbedding(
                self.encoder.width if self.encoder is not None else config.n_embd,
                config.n_embd,
                degree=config.degree,
                place=config.place,
                weights=config.curve_weights,
                learn_place=config.learn_place,
                window=config.window,
                channels=config.channels,
                normalisation=config.normalisation,
                fusion=config.fusion,
            )
        if config.leaks:
            # What a position says changes when later words arrive, so nothing of the past can be kept.
            config.use_cache = False
        self.post_init()
        self.train()
        if config.leaks and self.generation_config is not None:
            self.generation_config.use_cache = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CurveEmbedding):
            module.reset_parameters()
        elif isinstance(module, GPT2Attention) and hasattr(module, "log_sink"):
            init.constant_(module.get_parameter("log_sink"), self.config.log_sink)

    def train(self, mode: bool = True) -> CurveGPT2LMHeadModel:
        for part in self._frozen():  # again: loading a checkpoint makes new parameters
            for name, parameter in part.named_parameters():
                parameter.requires_grad_(name.endswith("log_sink"))
        return super().train(mode)

    def _frozen(self) -> list[nn.Module]:
        """The parts of GPT-2 that ``config.freeze`` names."""
        which, gpt2 = self.config.freeze, self.transformer
        if which == "none":
            return []
        blocks = {"embeddings": 0, "all_but_head": len(gpt2.h)}.get(which)
        return [gpt2.wte, gpt2.wpe, *gpt2.h[: int(which) if blocks is None else blocks]]

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        padding_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """As GPT-2's. ``padding_mask`` ``[batch, past + time]`` stands in where ``attention_mask`` has four dimensions.

        Raises:
            CurvekitError: ``inputs_embeds`` for a recipe with an encoder, which reads token ids; a cache for a
                recipe that looks ahead; or more tokens than the encoder has positions.
        """
        if self.config.leaks:
            if past_key_values is not None:
                raise CurvekitError(
                    f"the recipe {self.config.recipe!r} sees later words, so its past cannot be cached; "
                    "generate with use_cache=False"
                )
            use_cache = False
        elif use_cache is None:
            use_cache = self.config.use_cache and not (self.transformer.gradient_checkpointing and self.training)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        grow(past_key_values)
        if self.config.source != "none":
            if padding_mask is None and attention_mask is not None and attention_mask.ndim == 2:
                padding_mask = attention_mask
            inputs_embeds = self._embed(input_ids, inputs_embeds, padding_mask, position_ids, past_key_values)
            input_ids = None
        return super().forward(
            input_ids=input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def _embed(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        """Token embeddings fused with the curve: ``[batch, time, n_embd]``."""
        tokens = self.transformer.wte(input_ids) if inputs_embeds is None else inputs_embeds
        time = tokens.shape[1]
        layers = self._own_layers(cache)
        past: int | Tensor = layers[0].get_seq_length() if layers else 0
        if isinstance(past, Tensor):
            past = past.clone()  # a static layer counts in place
        if position_ids is None:
            position_ids = (torch.arange(time, device=tokens.device) + past).unsqueeze(0)
        if self.encoder is None:
            states = tokens
        elif input_ids is None:
            raise CurvekitError(
                f"the recipe {self.config.recipe!r} reads token ids for its encoder; give input_ids, not inputs_embeds"
            )
        else:
            if isinstance(past, int) and past + time > self.config.max_context:
                raise CurvekitError(
                    f"{past + time} tokens are more than the {self.config.max_context} positions of the model; "
                    "shorten the text, or use context='static'"
                )
            encoder_cache = Cache(layers=layers[1:]) if layers and self.encoder.cache_layers else None
            states = self.encoder(input_ids, mask, position_ids.expand(len(tokens), -1), encoder_cache)
        if layers:
            states = layers[0].update(states.unsqueeze(1), states.new_empty(*states.shape[:2], 0).unsqueeze(1))[0][:, 0]
        points = control_points(states, self.config.degree, self.config.window, mask, past, time)
        embeds = self.curve(points, tokens)
        if self.config.positions == "sinusoidal":
            embeds = embeds + sinusoidal_positions(position_ids, embeds.shape[-1]).to(embeds.dtype)
        return embeds

    def _own_layers(self, cache: Cache | None) -> list[Any]:
        """The cache's layers behind GPT-2's own, added when they are first needed, of the kind that GPT-2's are."""
        if cache is None:
            return []
        first = self.config.n_layer
        wanted = first + 1 + (self.encoder.cache_layers if self.encoder is not None else 0)
        while len(cache.layers) < wanted:
            like: Any = cache.layers[0] if cache.layers else GrowingLayer()
            cache.layers.append(StaticLayer(like.max_cache_len) if isinstance(like, StaticLayer) else type(like)())
        return cache.layers[first:]

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As GPT-2's; the encoder's table follows, and knows nothing of a new token."""
        words = super().resize_token_embeddings(*args, **kwargs)
        if self.config.source == "encoder" and self.encoder is not None:
            self.encoder.resize(self.config.vocab_size)
            self.config.encoder_config = (self.config.encoder_config or {}) | {"vocab_size": self.config.vocab_size}
        return words

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """As GPT-2's, for softmax. A member of another name is a part of the model and not exchanged.

        Raises:
            CurvekitError: the model's attention is not softmax.
        """
        own = ATTENTIONS[self.config.attention]
        if own != "softmax" and attn_implementation != implementation(own):
            raise CurvekitError(
                f"the attention of the recipe {self.config.recipe!r} is {self.config.attention!r}, which "
                f"{attn_implementation!r} would replace; build a recipe with attention='softmax' for that"
            )
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def prepare_inputs_for_generation(
        self, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As GPT-2's; a static cache turns the mask into four dimensions, so the plain one goes along."""
        # Named, because `generate` reads from the signature whether embeddings may stand in for the prompt.
        inputs = super().prepare_inputs_for_generation(*args, inputs_embeds=inputs_embeds, **kwargs)  # type: ignore[misc]
        mask = kwargs.get("attention_mask")
        if self.config.source != "none" and mask is not None and mask.ndim == 2:
            inputs["padding_mask"] = mask
        return inputs

    @classmethod
    def from_base(
        cls,
        base: str = "mini",
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        encoder: str = "minilm",
        seed: int = 0,
        scratch: bool = False,
        **settings: Any,
    ) -> CurveGPT2LMHeadModel:
        """Start from a GPT-2 checkpoint.

        Args:
            base: ``mini``, a hub name such as ``gpt2``, or a folder with a GPT-2.
            tokenizer: the base's own, loaded when it is None; from scratch any.
            encoder: see :func:`curvekit.bases.berts.locate_encoder`; used with ``source="encoder"``.
            seed: of every weight that the base does not bring.
            scratch: take the base's shape and none of its weights; the vocabulary is the tokeniser's.
            settings: fields of :class:`CurveGPT2Config`, such as ``context``, ``attention``, ``degree``; from
                scratch also GPT-2's ``n_layer``, ``n_embd``, ``n_head`` and ``n_positions``.

        Raises:
            CurvekitError: the base or the encoder cannot be had, or a setting is unknown.
        """
        known = set(CurveGPT2Config.__annotations__) - {"encoder", "encoder_config", "base_is_random"} | _DROPOUTS
        known |= set(MINI) if scratch else set()
        for name, value in settings.items():
            pick(name, sorted(known), "model setting")
            if name in MINI:
                require_type(name, value, int)
                if value < 1:
                    raise CurvekitError(f"{name} is {value}; give 1 or more")
            elif name in _DROPOUTS:
                require_type(name, value, float)
                if not 0 <= value < 1:
                    raise CurvekitError(f"{name} is {value}; give 0 or more, and less than 1")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with quiet():
                gpt2 = _fresh_gpt2(base, tokenizer, settings) if scratch else _load_gpt2(base)
            bert = None
            if settings.get("source") == "encoder":
                tokenizer = base_tokenizer(base) if tokenizer is None else tokenizer
                bert = load_encoder(encoder, tokenizer, gpt2.config.vocab_size)
                settings |= {"encoder": encoder, "encoder_config": _plain(bert.config)}
            # Of a base that curvekit saved, its GPT-2 is taken and nothing else; a leaking one keeps no cache.
            own = {"model_type", "architectures", "use_cache", *CurveGPT2Config.__annotations__}
            fields = {k: v for k, v in gpt2.config.to_dict().items() if k not in own}
            model = cls(CurveGPT2Config(**fields | {"base_is_random": scratch} | settings))
            model.transformer.load_state_dict(gpt2.transformer.state_dict(), strict=False)
            model.lm_head.load_state_dict(gpt2.lm_head.state_dict())
            model.generation_config.suppress_tokens = gpt2.generation_config.suppress_tokens
            if bert is not None and model.encoder is not None and not model.config.random_encoder:
                model.encoder.fill(bert)
        return model.eval()


def _fresh_gpt2(base: str, tokenizer: PreTrainedTokenizerBase | None, shape: dict[str, Any]) -> GPT2LMHeadModel:
    """Random weights in the base's shape, or in another where ``shape`` says so."""
    if tokenizer is None:
        raise CurvekitError("from scratch the vocabulary is the tokeniser's; give tokenizer=...")
    end = tokenizer.eos_token_id
    own = {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end}
    config = GPT2Config(**gpt2_fields(_config(base)) | own | {name: shape[name] for name in MINI if name in shape})
    if config.n_embd % config.n_head:
        raise CurvekitError(f"n_embd is {config.n_embd}, which {config.n_head} heads cannot share; give a multiple")
    return GPT2LMHeadModel(config)


def _load_gpt2(base: str) -> GPT2LMHeadModel:
    _config(base)
    where = hub.located(base)
    try:
        return GPT2LMHeadModel.from_pretrained(where, use_safetensors=True, local_files_only=hub.local_only(where))
    except (OSError, ValueError, RuntimeError) as error:
        raise CurvekitError(f"the base {base!r} cannot be loaded ({first_line(error)})") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise CurvekitError(f"the weights of the base {base!r} are not whole ({error}); copy them again") from error


def _config(base: str) -> Any:
    """The configuration of a base that is a GPT-2, wherever it lies."""
    where = hub.located(base)
    if not Path(where).is_dir() and "/" not in base:
        pick(base, BASES, "base")
    hub.require_model(where, "the base", "base='mini'")
    try:
        config = AutoConfig.from_pretrained(where, local_files_only=hub.local_only(where), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CurvekitError(f"the base {base!r} cannot be loaded ({first_line(error)})") from error
    if config.model_type not in ("gpt2", "curve_gpt2"):
        raise CurvekitError(f"the base {base!r} is a {config.model_type!r}; curvekit fine-tunes GPT-2")
    return config


def gpt2_fields(config: Any) -> dict[str, Any]:
    """The part of a configuration that is GPT-2's own: all that a plain GPT-2 of this shape needs."""
    return {name: value for name, value in config.to_dict().items() if name in GPT2Config.__annotations__}


def _plain(config: Any) -> dict[str, Any]:
    """The part of a BERT configuration that shapes the model."""
    names = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
        "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
        "layer_norm_eps", "initializer_range",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names}


def build_model(
    recipe: str,
    base: str = "mini",
    tokenizer: PreTrainedTokenizerBase | None = None,
    encoder: str = "minilm",
    seed: int = 0,
    scratch: bool = False,
    **overrides: Any,
) -> CurveGPT2LMHeadModel:
    """Build a recipe of :data:`RECIPES` from a base, or from random weights of its shape (``scratch``).

    ``overrides`` are fields of :class:`CurveGPT2Config`.

    Recipes of one base and seed share every weight of GPT-2's part.

    Raises:
        CurvekitError: as :meth:`CurveGPT2LMHeadModel.from_base`, or the recipe is unknown.
    """
    settings = recipe_settings(recipe, overrides)
    return CurveGPT2LMHeadModel.from_base(base, tokenizer, encoder=encoder, seed=seed, scratch=scratch, **settings)


with contextlib.suppress(ValueError):  # registered already, when the module is reloaded
    AutoConfig.register(CurveGPT2Config.model_type, CurveGPT2Config)
    AutoModelForCausalLM.register(CurveGPT2Config, CurveGPT2LMHeadModel)
    AutoModel.register(CurveGPT2Config, CurveGPT2LMHeadModel)
