"""The conversation in a terminal: lines and their seeds, settings by name, failures that do not end it."""

from __future__ import annotations

import io
import sys

import pytest

from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.generation import console
from curvekit.generation.console import Console
from curvekit.generation.sampling import Sampling
from curvekit.generation.streams import generate


def written(tiny_base, **settings) -> str:
    (text,) = generate(*open_model(tiny_base), ["The river"], **settings)
    return f"The river{text}"


def talk(tiny_base, monkeypatch, capsys, *lines: str) -> tuple[list[str], list[str]]:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    Console(*open_model(tiny_base), Sampling(max_new_tokens=5)).converse()
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines()


def test_each_line_is_continued_with_the_next_seed(tiny_base, monkeypatch, capsys):
    out, err = talk(tiny_base, monkeypatch, capsys, "The river", "The river", ":seed 0", "The river", ":quit", "x")
    first, second = (written(tiny_base, max_new_tokens=5, seed=seed) for seed in (0, 1))
    assert out == [first, second, first]
    assert "seed 0]" in err[0] and "seed 1]" in err[1]


def test_settings_are_changed_shown_and_refused_by_name(tiny_base, monkeypatch, capsys):
    lines = [":set temperature=0", ":set tokens=3", ":set beams=2", "The river"]
    lines += [":set temprature=1", ":set top-p=7", ":set seed", ":sing", ':set stop=["x", "."]', ":show"]
    out, err = talk(tiny_base, monkeypatch, capsys, *lines)
    assert out == [written(tiny_base, max_new_tokens=3, temperature=0, num_beams=2)]
    told = "\n".join(err)
    assert "did you mean 'temperature'" in told and "top_p is 7.0" in told and "did you mean" in told
    assert "write :set NAME=VALUE" in told and "unknown command 'sing'" in told
    assert any(line.split()[:2] == ["temperature", "0.0"] for line in err) and "('x', '.')" in told


def test_a_model_that_fails_leaves_the_conversation_going(tiny_base, monkeypatch, capsys):
    answers = iter([RuntimeError("out of memory"), None])

    def answer(self, prompt):
        if failure := next(answers):
            raise failure
        print("fine")

    monkeypatch.setattr(Console, "answer", answer)
    out, err = talk(tiny_base, monkeypatch, capsys, "a", "b")
    assert out == ["fine"] and err == ["curvekit: error: out of memory"]


def test_a_closed_standard_input_is_told(tiny_base, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CurvekitError, match="standard input is closed"):
        Console(*open_model(tiny_base), Sampling()).converse()


def test_a_terminal_is_shown_control_characters_and_does_not_obey_them(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    console.put("a\x1b[2Jb\tc\n\x9b")
    assert capsys.readouterr().out == "a\\x1b[2Jb\tc\n\\x9b"
