"""Every widget: markup stays text, a figure where nobody can press, an interrupt that stops, short names of models."""

from __future__ import annotations

import re
import threading
import time

import ipywidgets
import pytest
from screen import EVIL, PROMPT, elements, plain, pressed

from curvekit.errors import CurvekitError
from curvekit.figures.drawing import Picture
from curvekit.generation.streams import Alternative, Piece
from curvekit.widgets import (
    AttentionViewer,
    BlindRating,
    CurveExplorer,
    Playground,
    SideBySide,
    load_voices,
    panels,
    show,
)
from curvekit.widgets.panels import Sample


@pytest.mark.parametrize("text", [EVIL, '"><svg onload=alert(3)>', "&lt;b&gt;", "'onmouseover='x"])
def test_markup_stays_text_in_every_widget(text, two, tokenizer, tmp_path):
    names = {f"{text} {name}": voice for name, voice in two.items()}
    playground = pressed(Playground(names, text, max_new_tokens=5, samples=2))
    columns = pressed(SideBySide(names, text, max_new_tokens=5))
    attention = AttentionViewer(names, text)
    rating = pressed(BlindRating(names, [text], tmp_path / "r.jsonl", max_new_tokens=5))
    for row in rating.answers.values():
        row.value = "tie"
    rating.save.click()
    rating.wait()
    rating.tally.value = True
    for panel in (playground, columns, attention, rating):
        assert not panel.failure
        harmless = {"div", "span", "img", "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "p", "b"}
        harmless |= {"class", "dir", "style", "title", "role", "alt", "src", "scope"}
        assert elements(panel) <= harmless, elements(panel) - harmless
        for box in (playground.results, columns.results, rating.columns):
            assert all(text in plain(child) for child in box.children)


@pytest.mark.parametrize("blind", [True, False])
def test_markup_that_a_model_writes_stays_text(blind):
    sample = Sample(EVIL, "", blind=blind)
    sample.add(Piece(EVIL, 1, 0.5, (Alternative(f'" onload="{EVIL}', 2, 0.4),)))
    sample.finish(CurvekitError(EVIL))
    assert elements(sample.box) <= {"div", "span", "class", "dir", "style", "title", "role"}
    assert plain(sample.box).count(EVIL) == 3


STILL = {
    "playground": lambda two, path, encoder: (Playground, (two, PROMPT), {"max_new_tokens": 5, "samples": 2}),
    "columns": lambda two, path, encoder: (SideBySide, (two, PROMPT), {"max_new_tokens": 5}),
    "curve": lambda two, path, encoder: (CurveExplorer, ("the river was low", encoder), {"degree": 3}),
    "attention": lambda two, path, encoder: (AttentionViewer, (two, PROMPT), {"head": 1}),
    "ratings": lambda two, path, encoder: (BlindRating, (two, [PROMPT], path / "r.jsonl"), {}),
}


@pytest.mark.parametrize("name", STILL)
def test_where_nobody_can_press_a_button_there_is_a_figure_and_no_widget(
    name, two, tmp_path, tiny_encoder, monkeypatch
):
    kind, arguments, settings = STILL[name](two, tmp_path, str(tiny_encoder))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(ipywidgets.Widget, "__init__", lambda *_, **__: pytest.fail("a widget was made"))
    picture = show(kind, name, *arguments, report_dir=str(tmp_path), **settings)
    assert isinstance(picture, Picture)
    assert (tmp_path / "figures" / f"{name}.svg").exists()


@pytest.mark.parametrize("name", STILL)
def test_where_a_person_is_there_is_the_widget_as_often_as_wished(name, two, tmp_path, tiny_encoder, monkeypatch):
    kind, arguments, settings = STILL[name](two, tmp_path, str(tiny_encoder))
    monkeypatch.setenv("JPY_SESSION_NAME", "06.ipynb")
    first, second = (show(kind, name, *arguments, **settings) for _ in range(2))
    assert isinstance(first, kind) and first is not second
    assert "application/vnd.jupyter.widget-view+json" in first._repr_mimebundle_()
    assert isinstance(show(kind, name, *arguments, static=True, **settings), Picture)


def test_voices_have_short_names_and_a_base_may_take_a_recipe(monkeypatch):
    monkeypatch.setattr("curvekit.widgets.voices.open_model", lambda *given: given)
    assert load_voices(["runs/gpt2-seed0", "runs/curve-seed0", "x/curve-seed1", "mini:softemax"]) == {
        "gpt2": ("runs/gpt2-seed0",),
        "curve": ("runs/curve-seed0",),
        "curve-seed1": ("x/curve-seed1",),
        "mini:softemax": ("mini", "softemax"),
    }


CELL = """
import os, time, torch
from transformers import AutoTokenizer, GPT2LMHeadModel
from curvekit.widgets import Playground
class Slow(GPT2LMHeadModel):
    def forward(self, *args, **kwargs):
        time.sleep(0.05)
        return super().forward(*args, **kwargs)
base = {base!r}
voice = Slow.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
panel = Playground({{"slow": voice}}, "The", max_new_tokens=60)
panel.start.click()
"""


@pytest.mark.slow
def test_an_interrupt_of_the_kernel_in_the_middle_of_a_stream_stops_it_and_is_said(tiny_base):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    said = []

    def note(message):
        said.append(message["content"].get("text") or message["content"].get("evalue") or "")

    def run(code):
        client.execute_interactive(code, timeout=120, output_hook=note)
        return "".join(said)

    try:
        run(CELL.format(base=str(tiny_base)))
        time.sleep(1.0)
        manager.interrupt_kernel()
        time.sleep(0.6)
        told = run("print(panel.busy, len(panel.history[0]['tokens']), panel.message.value, panel.start.disabled)")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "False" in told and "the kernel was interrupted" in told, told
    assert 2 <= int(re.search(r"False (\d+)", told)[1]) < 50


def test_a_thread_that_ends_leaves_nothing_running(voices):
    pressed(Playground(voices, PROMPT, max_new_tokens=3))
    assert not panels._running
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("curvekit")]
