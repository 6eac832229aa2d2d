"""The settings of a run as flags: made from :class:`curvekit.training.RunConfig`, so that none is written twice."""

from __future__ import annotations

import argparse
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Union, get_args, get_origin, get_type_hints

from curvekit.cli.flags import Pairs, boolean, path
from curvekit.errors import CurvekitError
from curvekit.files import read_json
from curvekit.training.settings import RunConfig


def add_settings(
    each: argparse.ArgumentParser,
    without: Sequence[str] = (),
    defaults: Mapping[str, Any] = MappingProxyType({}),
    of: Any = RunConfig,
) -> None:
    """A flag for every field of RunConfig, or of another such class; one that is not given is not in the namespace.

    ``defaults`` are those of the command where they are not RunConfig's own.
    """
    group = each.add_argument_group("settings of a run")
    group.add_argument(
        "--config",
        type=path,
        metavar="FILE",
        help="a JSON file with settings, such as a run's config.json; a flag overrides it",
    )
    hints = get_type_hints(of)
    for setting in fields(of):
        if setting.name in without:
            continue
        options: dict[str, Any] = {"dest": setting.name, "default": argparse.SUPPRESS}
        kind = _kind(hints[setting.name])
        if kind is dict:
            options |= {"nargs": "+", "action": Pairs, "metavar": "NAME=VALUE"}
        elif kind is bool:
            options |= {"nargs": "?", "const": True, "type": boolean, "metavar": "true|false"}
        else:
            options |= {"type": kind, "metavar": {int: "N", float: "X", str: "NAME"}[kind]}
        if choices := setting.metadata.get("choices"):
            options["metavar"] = "|".join(choices)
        text, default = setting.metadata["help"], defaults.get(setting.name, setting.default)
        if setting.name in defaults:
            text = re.sub(r" \(default: .*?\)", "", text)
        if "default" not in text and kind is not dict:
            text += f" (default: {str(default).lower() if kind is bool else default})"
        group.add_argument(f"--{setting.name.replace('_', '-')}", help=text.replace("%", "%%"), **options)


def _kind(hint: Any) -> type:
    """``int`` of ``int | None``, ``dict`` of ``dict[str, Any]``."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    return get_origin(hint) or hint


def given(
    arguments: argparse.Namespace,
    of: Any = RunConfig,
    without: Sequence[str] = (),
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The settings of the file of ``--config``, over them the flags.

    The file may be of a whole run: those ``without`` a flag, which the command chooses, are left out of it.

    Raises:
        CurvekitError: it says of one of them another thing than the ``defaults`` of the command.
    """
    flags = vars(arguments)
    values = read_json(arguments.config) if arguments.config else {}
    for name in without:
        value = values.pop(name, None)
        if name in defaults and value not in (None, defaults[name]):
            raise CurvekitError(
                f"{arguments.config} says {name} {value!r}, which is {defaults[name]!r} here; leave it out"
            )
    values |= {each.name: flags[each.name] for each in fields(of) if each.name in flags}
    return values


def config(arguments: argparse.Namespace) -> RunConfig:
    """The defaults, over them what was given."""
    return RunConfig.from_dict(given(arguments)).validate()
