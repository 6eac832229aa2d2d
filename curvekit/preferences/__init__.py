"""What people prefer: blind ratings of texts, and who wins them."""

from curvekit.lazy import public

_HOMES = {}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
