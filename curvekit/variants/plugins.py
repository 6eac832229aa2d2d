"""Plugins: a Python file that registers variants of a user's own, run when it is named and never otherwise."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import ModuleType

from curvekit.decoding import read_whole
from curvekit.errors import CurvekitError, first_line
from curvekit.variants.names import place
from curvekit.variants.recipes import registered, unregister

_loaded: dict[Path, str] = {}


def load_plugin(file: str | Path) -> None:
    """Run a Python file, which registers what it has; the same file is run once.

    It is run as the user's own program would be, with all the rights of one: name none that you would not start.

    Raises:
        CurvekitError: there is no such file, or it fails, with its own error and the line; what it had registered by
            then is taken away again.
    """
    path = Path(file).expanduser()
    if path.suffix != ".py" or not path.is_file():
        raise CurvekitError(f"there is no plugin {file}; give a Python file, such as my_recipe.py")
    path = path.resolve()
    text = read_whole(path)
    if _loaded.get(path) == text:
        return
    module = ModuleType(f"curvekit_plugin_{path.stem}")
    module.__file__ = str(path)
    before = set(registered())
    sys.modules[module.__name__] = module
    linecache.checkcache(str(path))
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        sys.modules.pop(module.__name__)
        unregister(*(name for name in registered() if name not in before))
        own = str(error) if isinstance(error, CurvekitError) else f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, SyntaxError):
            own = f"{type(error).__name__}: {error.msg}"
        raise CurvekitError(f"the plugin {place(error, str(path))}: {own}") from error
    _loaded[path] = text
