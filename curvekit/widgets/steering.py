"""The steering of the playground: what stands before the prompt, a bag of words, a vector, experts, how strongly."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from ipywidgets import Accordion, Box, FloatSlider, IntSlider, Layout, Text

from curvekit.steering.control import Control
from curvekit.widgets.controls import GRID

_RANGES: dict[str, tuple[float, float, float]] = {
    "guidance_scale": (0, 5, 0.1),
    "step_size": (0, 1, 0.01),
    "iterations": (1, 10, 1),
    "kl_scale": (0, 1, 0.01),
    "gm_scale": (0, 1, 0.05),
    "vector_scale": (-8, 8, 0.25),
    "expert_weight": (-4, 4, 0.1),
}
_HELP = {each.name: each.metadata["help"] for each in fields(Control)}


class Steering:
    """A section that folds, with a field for every setting of a control; ``box`` is what is shown.

    Args:
        begun: the control to begin with.
    """

    def __init__(self, begun: Control | None) -> None:
        begun = begun or Control()
        self.fields: dict[str, Any] = {}
        for each in fields(Control):
            value = getattr(begun, each.name)
            look = {"description": each.name.replace("_", " "), "tooltip": _HELP[each.name],
                    "style": {"description_width": "120px"}, "layout": Layout(width="auto")}  # fmt: skip
            if each.name in _RANGES:
                low, high, step = _RANGES[each.name]
                kind = IntSlider if isinstance(step, int) else FloatSlider
                value = min(max(value, low), high)
                self.fields[each.name] = kind(value, min=low, max=high, step=step, continuous_update=False, **look)
            else:
                words = ", ".join(value) if isinstance(value, tuple) else value or ""
                hint = _HELP[each.name].partition("; ")[0]
                self.fields[each.name] = Text(words, placeholder=hint, continuous_update=False, **look)
        self.box = Accordion([Box(list(self.fields.values()), layout=GRID)], titles=("steering",))
        self.box.selected_index = 0 if begun != Control() else None

    def control(self) -> Control | None:
        """The control as the fields stand; None where they are all as a control's defaults.

        Raises:
            CurvekitError: a value that cannot be, or that lacks the one it belongs to.
        """
        values: dict[str, Any] = {}
        for each in fields(Control):
            value = self.fields[each.name].value
            if str(each.type).startswith("tuple"):
                value = tuple(word.strip() for word in value.split(",") if word.strip())
            elif str(each.type).startswith("str"):
                value = value or (None if "None" in str(each.type) else "")
            values[each.name] = value
        found = Control.from_dict(values)
        return None if asdict(found) == asdict(Control()) else found
