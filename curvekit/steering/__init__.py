"""Control over what a model writes: codes, attribute gradients, mixed logits and vectors, and the judge of them."""

from curvekit.lazy import public

_HOMES = {
    "AttributeModel": "attributes",
    "Control": "control",
    "Judge": "judge",
    "SteeringVector": "vectors",
    "difference_of_means": "vectors",
    "fit_attribute": "attributes",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
