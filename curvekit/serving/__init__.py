"""Models over HTTP and in a browser: the service, the demo, a Space of a run, and many replicas with Ray."""

from curvekit.lazy import public

_HOMES = {
    "serve": "running",
    "demo": "gradio_demo",
    "space": "spaces",
    "application": "service",
    "Limits": "orders",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
