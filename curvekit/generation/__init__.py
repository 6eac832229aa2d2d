"""Text that a model writes: how it is drawn, the stream of its tokens, and the conversation in a terminal."""

from curvekit.lazy import public

_HOMES = {
    "Completion": "streams",
    "generate": "streams",
    "stream": "streams",
    "Sampling": "sampling",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
