"""What a model with a curve is told: the fields that curvekit adds to a configuration of transformers."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, get_origin, get_type_hints

from transformers import GPT2Config, GPTNeoConfig, LlamaConfig, T5Config

from curvekit.curves import CHANNELS, FAMILIES, check_curve, reach
from curvekit.encoders import CONTEXTS
from curvekit.errors import CurvekitError, pick, require_type
from curvekit.mixers import MIXERS, SITES
from curvekit.normalisers import LOG_C
from curvekit.recipes import ATTENTIONS, FIXED_SINKS, SOURCES, check_freeze, check_source_side, own_parts

POSITIONS = ("base", "sinusoidal", "gpt2")  # `gpt2` is what `base` was called while every base was a GPT-2


_Mixed: Any = object  # what the mixin stands over: a configuration of transformers


@dataclass(kw_only=True)
class CurveConfigMixin(_Mixed):
    """The settings of a curve and of the attention, over a base's own configuration.

    Args:
        recipe: the recipe's name, for outputs.
        attention: a name of :data:`curvekit.recipes.ATTENTIONS`; ``sink`` learns one sink a head. It decides over
            transformers' ``attn_implementation``, which chooses among implementations of softmax.
        log_sink: the sink's score, or where learned sinks start (default log C).
        source: ``encoder``, ``self`` (the model's own token embeddings) or ``none``.
        encoder: the encoder's name, for outputs; ``encoder_config`` is its BERT configuration.
        random_encoder: the encoder keeps untrained weights (an ablation).
        train_encoder: train the encoder too.
        context: ``static``, ``causal`` or ``bidirectional``.
        encoder_layers: how many of the encoder's layers, the first ones, its states pass through; None is all. A
            static one has none, and takes no notice of it.
        degree, place, curve_weights, learn_place, window, channels, normalisation, fusion: of the curve; see
            :class:`curvekit.curves.CurveEmbedding`.
        sites: where neighbouring states are mixed besides: any of ``embedding`` (the input, after the curve there),
            ``attention`` and ``mlp`` (in every block, after the norm before it).
        mixer: what does it there, a name of :data:`curvekit.mixers.MIXERS`; a ``curve`` has ``curve_weights``,
            ``site_degree`` and ``site_channels`` (where they are None, ``degree`` and ``channels``), and places of its
            own. ``site_gate`` is where its gate starts, and ``site_spread`` how far around that, evenly, the gates of
            all its channels are drawn.
        positions: ``base``, or ``sinusoidal`` to add the published ones to the base's own.
        base_is_random: the base had no pretrained weights.
        freeze: what of the base keeps its weights in training, loaded models included; what curvekit adds (curve,
            gate, sinks, and the encoder as ``train_encoder`` says) is trained in any case.
            ``none``: nothing. ``embeddings``: words and positions, and with the words the output matrix where it is
            the same (tied). A number n: these and the first n blocks. ``all_but_head``: everything but the last
            norm and the output matrix, which becomes a matrix of its own, or training it would move the embeddings.

        registered: of attention and curve weights those that a user registered (:mod:`curvekit.variants`), with the
            digits of their source; set by itself.

    Raises:
        CurvekitError: a value of another type, an unknown name, more blocks than there are, a sink for a member
            that has a fixed one, or a part of a user's own that is registered nowhere.
    """

    auto_map: ClassVar[Mapping[str, str]] = MappingProxyType({})  # no code to fetch: trl asks whom transformers lacks

    recipe: str = "plain"
    attention: str = "softmax"
    log_sink: float = LOG_C
    source: str = "none"
    encoder: str | None = None
    encoder_config: dict | None = None
    random_encoder: bool = False
    train_encoder: bool = False
    context: str = "static"
    encoder_layers: int | None = None
    degree: int = 2
    place: float = 0.5
    curve_weights: str = "bernstein"
    learn_place: bool = False
    window: str = "trailing"
    channels: list | tuple = ("point",)
    normalisation: str = "layernorm"
    fusion: str = "gate"
    sites: list | tuple = ()
    mixer: str = "curve"
    site_degree: int | None = None
    site_channels: list | tuple | None = None
    site_gate: float = 1.0
    site_spread: float = 0.0
    positions: str = "base"
    base_is_random: bool = False
    freeze: str = "none"
    registered: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for name, hint in _own_hints().items():
            require_type(name, getattr(self, name), hint)
        for name in ("log_sink", "place", "site_gate", "site_spread"):
            setattr(self, name, float(getattr(self, name)))
        self.registered = own_parts((self.attention, self.curve_weights), self.registered)
        pick(self.attention, ATTENTIONS, "attention")
        if self.log_sink != LOG_C and self.attention in FIXED_SINKS:
            raise CurvekitError(f"attention {self.attention!r} has a fixed sink; leave log_sink out")
        pick(self.source, SOURCES, "source")
        pick(self.context, CONTEXTS, "context")
        if self.encoder_layers is not None and self.encoder_layers < 1:
            raise CurvekitError(f"encoder_layers is {self.encoder_layers}; give 1 or more, or none for all")
        pick(self.positions, POSITIONS, "kind of positions")
        self._check_sites()
        check_curve(
            self.degree, self.place, self.curve_weights, self.learn_place, self.window, self.channels,
            self.normalisation, self.fusion,
        )  # fmt: skip
        check_freeze(self.freeze, self.num_hidden_layers)
        if self.freeze == "all_but_head":
            setattr(self, "tie_word_embeddings", False)  # noqa: B010  the base declares it
        super().__post_init__(**kwargs)

    def _check_sites(self) -> None:
        pick(self.mixer, MIXERS, "mixer")
        for site in self.sites:
            pick(site, SITES, "site")
        if len(set(self.sites)) != len(self.sites):
            raise CurvekitError(f"sites are {list(self.sites)}; name each once")
        if not 0 <= self.site_spread < math.inf:
            raise CurvekitError(
                f"site_spread is {self.site_spread}; give 0, or how far gates are drawn around site_gate"
            )
        if not self.sites or self.mixer != "curve":
            return
        degree, channels = self.site_curve
        if degree < 0:
            raise CurvekitError(f"site_degree is {degree}; a curve's degree is 0 or more")
        if "point" not in channels or set(channels) - CHANNELS.keys():
            raise CurvekitError(f"a curve at sites has the channel point, and derivatives; not {list(channels)}")
        if self.curve_weights not in FAMILIES:
            raise CurvekitError("a curve at sites has Bernstein's or a B-spline's weights; mixer='canon' has free ones")

    @property
    def site_curve(self) -> tuple[int, list | tuple]:
        """Degree and channels of a curve at sites."""
        degree = self.degree if self.site_degree is None else self.site_degree
        return degree, self.channels if self.site_channels is None else self.site_channels

    @property
    def reads_neighbours(self) -> bool:
        """Whether a position reads its neighbours outside of attention, so that a past is kept of them."""
        return self.source != "none" or bool(self.sites)

    @property
    def leaks(self) -> bool:
        """Whether a position sees tokens after it."""
        if self.source == "none":
            return False
        return reach(self.degree, self.window)[1] > 0 or (self.source == "encoder" and self.context == "bidirectional")

    @property
    def max_context(self) -> int:
        """The longest sequence that both the model and the encoder have positions for."""
        positions: int = self.max_position_embeddings
        if self.source != "encoder" or self.context == "static":
            return positions
        return min(positions, (self.encoder_config or {}).get("max_position_embeddings", positions))

    @property
    def mixer_names(self) -> list[str]:
        """``attention_0``, ``mlp_0``, ... for each site of each block, and ``embedding``."""
        blocks = range(self.num_hidden_layers)
        inside = [f"{site}_{block}" for block in blocks for site in self.sites if site != "embedding"]
        return inside + ["embedding"] * ("embedding" in self.sites)

    @property
    def output_attentions(self) -> bool:
        """As transformers', which allows it with ``eager`` alone; a member of the family gives its weights itself."""
        return super().output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool) -> None:
        if self.attention == "softmax":
            super(CurveConfigMixin, type(self)).output_attentions.fset(self, value)
        else:
            self.__dict__["_output_attentions"] = value

    def validate_output_attentions(self) -> None:
        if self.attention == "softmax":
            super().validate_output_attentions()

    @property
    def past_layers(self) -> int:
        """How many layers a cache holds behind the blocks' own: the curve's states, a causal encoder's, the mixers'."""
        if self.leaks:
            return 0
        mixers = len(self.mixer_names)
        if self.source == "none":
            return mixers
        reads_back = self.source == "encoder" and self.context == "causal"
        return 1 + ((self.encoder_config or {}).get("num_hidden_layers", 0) if reads_back else 0) + mixers

    @property
    def cached_blocks(self) -> int:
        """How many blocks keep a past."""
        blocks: int = self.num_hidden_layers
        return blocks

    @property
    def per_layer_config(self) -> Sequence[Any]:
        """One configuration for each layer of a cache: transformers makes as many as there are of these."""
        theirs = list(super().per_layer_config)
        return theirs[-1:] * (self.cached_blocks + self.past_layers)

    @per_layer_config.setter
    def per_layer_config(self, per_layer_config: dict[int | str, dict[str, Any]] | None) -> None:
        raise CurvekitError("curvekit's models have layers of one shape; leave per_layer_config out")


@functools.cache
def _own_hints() -> dict[str, Any]:
    """The types of the fields that curvekit adds."""
    hints = get_type_hints(CurveConfigMixin)
    return {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}


OWN_FIELDS = frozenset(_own_hints())


class CurveGPT2Config(CurveConfigMixin, GPT2Config):
    """GPT-2's configuration and :class:`CurveConfigMixin`'s fields."""

    model_type = "curve_gpt2"


class CurveGPTNeoConfig(CurveConfigMixin, GPTNeoConfig):
    """GPT-Neo's configuration and :class:`CurveConfigMixin`'s fields."""

    model_type = "curve_gpt_neo"


class CurveLlamaConfig(CurveConfigMixin, LlamaConfig):
    """LLaMA's configuration and :class:`CurveConfigMixin`'s fields."""

    model_type = "curve_llama"


class CurveT5Config(CurveConfigMixin, T5Config):
    """T5's configuration and :class:`CurveConfigMixin`'s fields, which are of the stack that reads the source.

    Raises:
        CurvekitError: as :func:`curvekit.recipes.check_source_side`.
    """

    model_type = "curve_t5"

    def __post_init__(self, **kwargs: Any) -> None:
        check_source_side(vars(self))
        super().__post_init__(**kwargs)

    @property
    def leaks(self) -> bool:
        """Never: the source is complete before the first word of the target, and no curve runs through the target."""
        return False

    @property
    def past_layers(self) -> int:
        """None: the source is read once."""
        return 0

    @property
    def cached_blocks(self) -> int:
        """Those that write; transformers counts those that read, and fails where they are fewer."""
        return self.num_decoder_layers if self.num_decoder_layers is not None else self.num_layers

    @property
    def max_context(self) -> int:
        """The longest source, and the longest target: as many tokens as T5 was trained with, 512 unless it says."""
        most: int = getattr(self, "n_positions", 512)  # relative positions have no end of their own
        if self.source != "encoder" or self.context == "static":
            return most
        return min(most, (self.encoder_config or {}).get("max_position_embeddings", most))

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        """As T5's, which reads ``encoder`` and ``encoder_config`` as settings of its own first stack."""
        return self if encoder and not decoder else super().get_text_config(decoder=decoder, encoder=encoder)
