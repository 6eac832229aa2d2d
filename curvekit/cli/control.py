"""A control as flags: made from :class:`curvekit.steering.Control`, over the JSON file of ``--control``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from curvekit.cli.flags import listed, path
from curvekit.files import read_json
from curvekit.generation.console import unescaped
from curvekit.steering.control import Control

_FLAGS = {"codes": "code"}  # where a flag is called otherwise than its setting


def add_control(each: argparse.ArgumentParser) -> None:
    """A flag for every setting of a control; one that is not given is not in the namespace."""
    group = each.add_argument_group("steering")
    group.add_argument(
        "--control", type=path, metavar="FILE", help="a JSON file with settings of a control; a flag overrides it"
    )
    for setting in fields(Control):
        kind = str(setting.type)
        options: dict[str, Any] = {"dest": f"control_{setting.name}", "default": argparse.SUPPRESS}
        if kind.startswith("tuple"):
            options |= {"action": "append", "metavar": "CODE" if setting.name == "codes" else "WORDS"}
        elif kind in ("int", "float"):
            options |= {"type": int if kind == "int" else float, "metavar": "N" if kind == "int" else "X"}
        else:
            options |= {"type": unescaped, "metavar": "PATH" if setting.metadata["file"] else "TEXT"}
        text = setting.metadata["help"]
        if kind in ("int", "float") and "default" not in text:
            text += f" (default: {setting.default})"
        flag = _FLAGS.get(setting.name, setting.name).replace("_", "-")
        group.add_argument(f"--{flag}", help=text.replace("%", "%%"), **options)


def control(arguments: argparse.Namespace) -> Control | None:
    """The control of the file, over it the flags; None where neither is given.

    Raises:
        CurvekitError: as :meth:`Control.from_dict`.
    """
    flags = vars(arguments)
    names = {f"control_{each.name}": each.name for each in fields(Control)}
    given = {name: flags[flag] for flag, name in names.items() if flag in flags}
    if "bag" in given:
        given["bag"] = listed(given["bag"])
    if arguments.control is None:
        return Control.from_dict(given) if given else None
    if not given:
        return Control.read(arguments.control)
    return Control.from_dict(read_json(arguments.control) | given)
