"""Importing curvekit, and asking the command line for help, stays light."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import curvekit
from curvekit.cli.frame import COMMANDS

HEAVY = ("torch", "transformers", "datasets", "numpy", "pandas", "matplotlib", "IPython", "wandb", "fastapi", "gradio")


def loaded_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter holds after ``code``."""
    probe = f"import json, sys\n{code}\nprint(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import curvekit; curvekit.__version__; dir(curvekit)",
        "import curvekit.cli; curvekit.cli.parser().format_help()",
        *(
            f"import curvekit.cli\ntry: curvekit.cli.main([{command!r}, '--help'])\nexcept SystemExit: pass"
            for command in COMMANDS
        ),
        "import curvekit.cli\ntry: curvekit.cli.main(['--version'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_loaded(code):
    assert loaded_after(code) == set()


def test_the_probe_itself_sees_what_is_loaded():
    assert loaded_after("import numpy") == {"numpy"}


@pytest.mark.parametrize("name", [name for name in curvekit.__all__ if name != "__version__"])
def test_every_public_name_loads_on_first_use(name):
    assert getattr(curvekit, name) is getattr(importlib.import_module(f"curvekit.{curvekit._HOMES[name]}"), name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'softmaxx'"):
        curvekit.softmaxx  # noqa: B018
