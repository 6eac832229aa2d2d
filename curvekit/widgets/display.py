"""What a notebook shows of a widget: itself where a person can touch it, and elsewhere its figure."""

from __future__ import annotations

import os
from typing import Any

from curvekit.figures.drawing import Picture, save
from curvekit.widgets.panels import Panel


def show(
    widget: type[Panel], name: str, *args: Any, static: bool | None = None, report_dir: str = "", **settings: Any
) -> Panel | Picture:
    """The widget with these arguments, or its figure where nobody can touch it.

    Args:
        widget: a class of :mod:`curvekit.widgets`.
        name: of the figure's files.
        static: a figure; None: where no front end of a person has started the kernel, as under papermill.
        report_dir: receives the figure, as in :func:`curvekit.figures.drawing.save`.
    """
    if static is None:
        static = not {"JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG"} & set(os.environ)
    return save(widget.still(*args, **settings), name, report_dir) if static else widget(*args, **settings)
