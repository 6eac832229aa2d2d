"""What people prefer: blind ratings of texts, and who wins them."""

from curvekit.lazy import public

_HOMES = {
    "Pair": "ratings",
    "pairs": "ratings",
    "append_rating": "ratings",
    "read_ratings": "ratings",
    "wilson": "ratings",
    "win_rates": "ratings",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
