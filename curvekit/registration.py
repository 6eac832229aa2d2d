"""transformers' auto classes know curvekit's models after ``import curvekit``, which itself loads neither of the two.

    import curvekit
    AutoModelForCausalLM.from_pretrained(RUN)

What stands in transformers' registry is a light stand-in for each configuration, put there as soon as transformers'
own registry is imported, before or after curvekit. The first model that is opened loads :mod:`curvekit.modeling` and
:mod:`curvekit.t5`, which register the real classes in their place.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

REGISTRY = "transformers.models.auto.configuration_auto"
CONFIGURATIONS = {  # transformers' model type -> the class of curvekit.configuration
    "curve_gpt2": "CurveGPT2Config",
    "curve_gpt_neo": "CurveGPTNeoConfig",
    "curve_llama": "CurveLlamaConfig",
    "curve_t5": "CurveT5Config",
}


class StandIn:
    """Hands over to the configuration whose name it bears, which is loaded with its model when it is asked for."""

    model_type: str

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    @classmethod
    def from_dict(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real().from_dict(*args, **kwargs)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real().from_pretrained(*args, **kwargs)

    @classmethod
    def _real(cls) -> Any:
        importlib.import_module("curvekit.t5")  # the last room of the models
        return getattr(importlib.import_module("curvekit.configuration"), cls.__name__)


def announce() -> None:
    """Register the stand-ins now where transformers' registry is loaded, else when it will be."""
    if not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())
    if REGISTRY in sys.modules:
        _register(importlib.import_module(REGISTRY))  # another thread may be in the middle of it: this waits


def _register(registry: ModuleType) -> None:
    for model_type, name in CONFIGURATIONS.items():
        if model_type not in registry.CONFIG_MAPPING:  # the real ones may be there already
            registry.CONFIG_MAPPING.register(model_type, type(name, (StandIn,), {"model_type": model_type}))


class _Waiting(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it lets the other finders find transformers' registry, and registers once that has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != REGISTRY:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            run = loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register(module)

            loader.exec_module = run_and_register
        return spec
