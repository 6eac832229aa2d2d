"""What is saved beside a model's weights, checked before transformers reads it: settings, by file and field.

transformers takes most values as they come and fails in the middle of its own code. Here every field of
``config.json`` and ``generation_config.json`` that their class knows must be of the class's own type, a size must be
one that a model can have, and a tokeniser's files must be whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curvekit.errors import CurvekitError
from curvekit.files import present, read_json
from curvekit.shapes import Maybe, require

_IDS = (int, [int], None)  # of special tokens
_SIZES = {  # at most
    **dict.fromkeys(("n_layer", "num_hidden_layers", "num_layers", "num_decoder_layers"), 4096),
    **dict.fromkeys(("n_head", "num_attention_heads", "num_heads"), 2**16),
    **dict.fromkeys(("n_embd", "hidden_size", "n_inner", "intermediate_size", "d_model", "d_ff", "d_kv"), 2**20),
    **dict.fromkeys(("vocab_size", "n_positions", "max_position_embeddings"), 2**26),
}
_KINDS = (bool, int, float, str, list, dict)


def check_saved(folder: str | Path) -> None:
    """Return if the settings in the folder of a saved model can be those of one; a folder without any passes.

    Raises:
        CurvekitError: ``runs/a/model/config.json: n_layer is null; expected a whole number``
    """
    folder = Path(folder)
    if present(path := folder / "config.json"):
        values = read_json(path, shape={"model_type": str})
        _check(values, _defaults(values["model_type"]), path)
        if "encoder_config" in values and values["encoder_config"] is not None:
            inner = require(values["encoder_config"], dict, f"{path}, encoder_config")
            _check(inner, _defaults("bert"), f"{path}, encoder_config")
    if present(path := folder / "generation_config.json"):
        from transformers import GenerationConfig

        _check(read_json(path), GenerationConfig().to_dict(), path)


def check_tokenizer(folder: str | Path) -> None:
    """Return if the files of a saved tokeniser can be those of one; a folder without any passes.

    Raises:
        CurvekitError: as :func:`check_saved`.
    """
    folder = Path(folder)
    if present(path := folder / "tokenizer_config.json"):
        read_json(path, shape={"tokenizer_class": Maybe((str, None))})
    if present(path := folder / "tokenizer.json"):
        read_json(path, shape={"model": dict, "added_tokens": Maybe([{"id": int, "content": str}])})


def _defaults(model_type: str) -> dict[str, Any]:
    """What the configuration of this type holds when nothing is set; nothing for a type that is not known."""
    from transformers import CONFIG_MAPPING

    import curvekit.t5  # noqa: F401  registers the models with transformers

    try:
        return CONFIG_MAPPING[model_type]().to_dict()
    except Exception:  # not known, or one that cannot be made of nothing
        return {}


def _check(values: dict[str, Any], defaults: dict[str, Any], source: object) -> None:
    for name, value in values.items():
        default = defaults.get(name)
        if name.endswith(("_token_id", "_token_ids")):
            require({name: value}, {name: _IDS}, source)
        elif name == "architectures":
            require({name: value}, {name: (None, [str])}, source)
        elif default is not None and name not in ("dtype", "torch_dtype"):
            kind = next((each for each in _KINDS if isinstance(default, each)), None)
            kind = float if kind is int and isinstance(value, float) and name not in _SIZES else kind
            if kind is not None:
                require({name: value}, {name: list if isinstance(default, tuple) else kind}, source)
        if name in _SIZES and value is not None:
            require({name: value}, {name: int}, source)
            if not 1 <= value <= _SIZES[name]:
                raise CurvekitError(f"{source}: {name} is {value}; expected 1 to {_SIZES[name]:,}; restore the file")
