"""What people prefer: blind ratings, the pairs they make, training on them, and what that brought and cost."""

from curvekit.lazy import public

_HOMES = {
    "Pair": "ratings",
    "pairs": "ratings",
    "append_rating": "ratings",
    "read_ratings": "ratings",
    "wilson": "ratings",
    "win_rates": "ratings",
    "Preference": "gathering",
    "read_pairs": "gathering",
    "rule": "rules",
    "PreferenceConfig": "settings",
    "PreferenceRun": "runs",
    "load_preferences": "runs",
    "prefer": "preferring",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
