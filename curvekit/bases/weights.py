"""Weights are what they say: only safetensors, of shapes that can be, each tensor that the model has and no other.

transformers fills a tensor that a checkpoint lacks with random numbers, leaves out one that it does not know, and
reads an index that names a pickle; each with a warning at most. Here each is an error, in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from curvekit.errors import CurvekitError, first_line
from curvekit.files import read_json
from curvekit.ownership import digest, marker

_INDEX = "model.safetensors.index.json"
_SIZES = (  # what configurations call numbers of which there is one at least
    *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"),
    *("hidden_size", "num_hidden_layers", "num_layers", "num_attention_heads", "num_key_value_heads", "num_heads"),
    *("max_position_embeddings", "intermediate_size", "d_model", "d_ff", "d_kv", "num_decoder_layers"),
)
_FLOATS = {"F64", "F32", "F16", "BF16"}
_SHOWN = 3


def load_checked(
    kind: Any,
    name: str | Path,
    what: str,
    *,
    missing: str | None = None,
    unexpected: str | None = None,
    mismatched: str | None = None,
    **options: Any,
) -> Any:
    """``kind.from_pretrained(name, **options)`` in evaluation mode, from safetensors only, every tensor checked.

    Args:
        kind: a model's class of transformers, or an ``AutoModel``.
        what: the subject of a sentence, such as ``the base 'gpt2'``.
        missing, unexpected, mismatched: as :func:`check_loaded`.
        options: of ``from_pretrained``, such as ``local_files_only``.

    Raises:
        CurvekitError: as :func:`check_files` and :func:`check_loaded`; or there are no such weights.
    """
    check_files(name)
    try:
        model, info = kind.from_pretrained(
            name,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named
            **options,
        )
    except CurvekitError:
        raise
    except Exception as error:  # what a changed file makes of transformers' own code
        from curvekit.bases import hub

        hub.require_answers()
        raise CurvekitError(f"{what} is not whole ({first_line(error)}); restore it, or make it again") from error
    check_loaded(model, info, what, missing=missing, unexpected=unexpected, mismatched=mismatched)
    return model.eval()


def check_files(name: str | Path, revision: str | None = None) -> None:
    """Check a checkpoint's files before a byte of its weights is read: a folder, or a name on the hub.

    Of a name on the hub the configuration and the index are fetched, where they are not here.

    Raises:
        CurvekitError: a configuration without a layer, a head or a width; an index that names anything but
            safetensors files beside it; a file that is cut off, or holds other numbers than floating ones; weights
            that were changed after curvekit wrote them.
    """
    folder = Path(name)
    local = folder.is_dir()
    config = folder / "config.json" if local else _fetched(str(name), "config.json", revision)
    if config is not None and config.exists():
        _check_sizes(read_json(config), config)
    index = folder / _INDEX if local else _fetched(str(name), _INDEX, revision)
    if index is not None and index.exists():
        _check_index(index, beside=local)
    if local:
        for path in sorted(folder.glob("*.safetensors")):
            _check_header(path)
        sealed = marker(folder).get("files")
        for file, expected in (sealed if isinstance(sealed, dict) else {}).items():
            if file.endswith(".safetensors") and (folder / file).exists() and digest(folder / file) != expected:
                raise CurvekitError(f"{folder / file} was changed after it was written; restore it, or make it again")


def _fetched(name: str, file: str, revision: str | None) -> Path | None:
    """A file of a hub repository, or None where it has none."""
    from transformers.utils.hub import cached_file

    from curvekit.bases import hub

    try:
        path = cached_file(
            name,
            file,
            revision=revision,
            local_files_only=hub.local_only(name),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        hub.require_answers()
        raise CurvekitError(f"{name!r} cannot be looked up on the hub ({first_line(error)})") from error
    return Path(path) if path else None


def _check_sizes(config: Mapping[str, Any], path: Path) -> None:
    for name in _SIZES:
        value = config.get(name, 1)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise CurvekitError(f"{path} says that {name} is {value!r}; a model has 1 or more: restore the file")


def _check_index(path: Path, beside: bool) -> None:
    """Every entry of an index is a safetensors file that lies beside it."""
    entries = read_json(path).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise CurvekitError(f"{path} has no weight_map that names files; restore it")
    for file in sorted(set(map(str, entries.values()))):
        if not file.endswith(".safetensors") or Path(file).name != file:
            raise CurvekitError(
                f"{path} names {file!r}; curvekit reads safetensors files beside the index and nothing else, "
                "so convert the weights"
            )
        if beside and not (path.parent / file).is_file():
            raise CurvekitError(f"{path} names {file!r}, which is not there; restore it")


def _check_header(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:  # compares the header with the file's length
            for name in file.keys():  # noqa: SIM118  no dictionary
                tensor = file.get_slice(name)
                kind, shape = tensor.get_dtype(), tensor.get_shape()
                if kind not in _FLOATS and len(shape) == 2 and shape[0] > 1:  # masks and positions are saved as others
                    raise CurvekitError(
                        f"the tensor {name} in {path} holds {kind} numbers, as quantised weights do; give weights of "
                        "floating numbers"
                    )
    except (OSError, SafetensorError) as error:
        raise CurvekitError(f"{path} is not whole ({first_line(error)}); restore it") from error


def check_loaded(
    model: Any,
    info: Mapping[str, Iterable[Any]],
    what: str,
    *,
    missing: str | None = None,
    unexpected: str | None = None,
    mismatched: str | None = None,
) -> None:
    """Check what became of a checkpoint's tensors; ``info`` is what ``output_loading_info=True`` returns.

    Tied tensors and buffers that are not saved are not missing: transformers does not count them.

    Args:
        what: the subject of the sentence, such as ``the base 'gpt2'``.
        missing, unexpected, mismatched: patterns of names that may be; what curvekit adds to a base that it starts
            from.

    Raises:
        CurvekitError: the first tensors that are missing, unexpected or of another shape, by name; or a parameter
            that holds no floating numbers.
    """
    lost = _beyond(info.get("missing_keys", ()), missing)
    extra = _beyond(info.get("unexpected_keys", ()), unexpected)
    other = _beyond(
        (each[0] if isinstance(each, tuple) else each for each in info.get("mismatched_keys", ())), mismatched
    )
    recipe = getattr(model.config, "recipe", None)
    of = f" for the recipe {recipe!r}" if recipe else ""
    for names, verb in ((lost, "lacks"), (extra, "has, and the model does not know,"), (other, "has in another shape")):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise CurvekitError(
                f"{what} {verb} {', '.join(names[:_SHOWN])}{more}: its weights are not those of its config.json{of}; "
                "restore both from one source"
            )
    if whole := [name for name, parameter in model.named_parameters() if not parameter.is_floating_point()]:
        raise CurvekitError(f"{what} holds no floating numbers in {whole[0]}; give weights that are not quantised")


def _beyond(names: Iterable[Any], allowed: str | None) -> list[str]:
    return sorted(str(name) for name in names if allowed is None or not re.search(allowed, str(name)))
