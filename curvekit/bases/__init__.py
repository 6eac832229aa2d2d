"""Which checkpoints there are and how they load: what ships, what lies on this disk, what the hub has."""

from curvekit.lazy import public

_HOMES = {
    "build_model": "building",
    "open_model": "opening",
    "base_tokenizer": "tokenizer",
    "add_adapter": "adapters",
    "merge": "adapters",
    "load_bert": "berts",
    "load_encoder": "berts",
    "unreachable": "hub",
    "located": "hub",
    "converted": "gguf",
    "read_gguf": "gguf",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
