"""The playground: text that grows and can be stopped, seeds that write it again, failures that are said."""

from __future__ import annotations

import html
import json
import re
import time

import pytest
from screen import PROMPT, elements, plain, pressed

from curvekit.errors import CurvekitError
from curvekit.generation.streams import generate
from curvekit.widgets import Playground, panels


def test_generate_writes_what_the_library_writes_and_says_the_seed(voices, model, tokenizer):
    panel = pressed(Playground(voices, PROMPT, max_new_tokens=12, seed=7, temperature=0.9))
    (text,) = generate(model, tokenizer, [PROMPT], max_new_tokens=12, seed=7, temperature=0.9)
    shown = plain(panel.results.children[0])
    assert PROMPT + text in shown
    assert "seed 7" in shown and "12 tokens" in shown
    assert panel.history[0]["text"] == text
    assert panel.seed.value == 8, "the next press writes another text"


def test_a_seed_that_was_shown_writes_its_sample_again(voices):
    panel = pressed(Playground(voices, PROMPT, samples=3, max_new_tokens=8))
    seeds = [row["seed"] for row in panel.history]
    assert len({row["text"] for row in panel.history}) == 3
    panel.samples.value, panel.renew.value = 1, False
    for row in list(panel.history):
        panel.seed.value = row["seed"]
        pressed(panel)
        assert panel.history[-1]["text"] == row["text"]
        assert panel.seed.value == row["seed"]
    assert len(set(seeds)) == 3


def test_the_text_grows_while_it_is_written_and_is_drawn_no_oftener_than_is_seen(voices, model):
    model.pause = 0.02
    panel = Playground(voices, PROMPT, max_new_tokens=40)
    began = time.monotonic()
    panel.start.click()
    while not panel.results.children:
        time.sleep(0.005)
    drawn = []
    panel.results.children[0].observe(lambda change: drawn.append(len(plain(change.owner))), "value")
    panel.wait()
    assert 4 <= len(drawn) <= (time.monotonic() - began) / panels.REFRESH + 3
    assert drawn == sorted(drawn)


def test_every_token_is_coloured_and_names_its_alternatives(voices):
    panel = pressed(Playground(voices, PROMPT, max_new_tokens=6))
    titles = re.findall(r'<span title="([^"]*)" style="background', panel.results.children[0].value)
    assert len(titles) == sum(bool(token) for token in panel.history[0]["tokens"])
    assert all(re.search(r"” [\d.e-]+ %", html.unescape(title)) for title in titles)
    assert all("\nor\n" in html.unescape(title) for title in titles)
    assert panel.history[0]["probabilities"] == pytest.approx([p for p in panel.history[0]["probabilities"] if p > 0])


def test_stop_ends_it_within_a_second_and_says_so(voices, model):
    model.pause = 0.05
    panel = Playground(voices, PROMPT, samples=2, max_new_tokens=50)
    assert panel.halt.disabled
    panel.start.click()
    while model.calls < 3:
        time.sleep(0.01)
    assert not panel.halt.disabled and panel.start.disabled
    began = time.monotonic()
    panel.halt.click()
    panel.wait()
    assert time.monotonic() - began < 1
    assert "Stopped: Stop was pressed" in plain(panel.message)
    assert panel.history[0]["reason"] == "stopped" and len(panel.history) == 1
    assert panel.halt.disabled and not panel.start.disabled


def test_two_generates_at_once_are_one_and_a_message(voices, model):
    model.pause = 0.02
    panel = Playground(voices, PROMPT, max_new_tokens=10)
    panel.generate()
    panel.generate()
    assert "still being written" in plain(panel.message)
    panel.wait()
    assert len(panel.history) == 1


def test_two_widgets_write_at_once_and_each_its_own_text(voices, model, tokenizer):
    model.pause = 0.005
    panels = [Playground(voices, PROMPT, max_new_tokens=20, seed=seed) for seed in (1, 2)]
    for panel in panels:
        panel.generate()
    for seed, panel in enumerate(panels, 1):
        panel.wait()
        assert [panel.history[0]["text"]] == generate(model, tokenizer, [PROMPT], max_new_tokens=20, seed=seed)


def test_a_failing_model_is_a_message_and_the_next_press_works(voices, model):
    model.fails_at = 4
    panel = pressed(Playground(voices, PROMPT, max_new_tokens=10))
    assert plain(panel.message) == "RuntimeError: the model <b>broke</b>"
    assert "broke" in plain(panel.results.children[0])
    assert isinstance(panel.failure, RuntimeError)
    assert "b" not in elements(panel)
    pressed(panel)
    assert len(panel.history) == 1 and plain(panel.message) == ""


def test_a_failure_in_the_thread_itself_is_a_message_too(voices, monkeypatch):
    panel = Playground(voices, PROMPT)
    monkeypatch.setattr(panel, "_remember", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in plain(pressed(panel).message)


def test_an_empty_prompt_begins_a_document_and_says_so(voices):
    panel = pressed(Playground(voices, "  ", max_new_tokens=4))
    assert "The prompt was empty" in plain(panel.message)
    assert panel.history[0]["tokens"]


def test_a_prompt_that_is_too_long_loses_its_beginning_and_says_how_much(voices, tokenizer):
    prompt = PROMPT * 40
    panel = pressed(Playground(voices, prompt, max_new_tokens=10))
    cut = len(tokenizer(prompt).input_ids) - (64 - 10)
    assert f"its first {cut} tokens were left out" in plain(panel.message)
    assert panel.history[0]["truncated"] == cut


def test_a_setting_that_no_model_takes_is_a_message(voices):
    panel = Playground(voices, PROMPT, no_repeat_ngram_size=2)
    panel.sampling = panel.sampling.changed("num_beams", 2)
    panel.renew.value = False
    assert "one continuation can be streamed" in plain(pressed(panel).message)
    with pytest.raises(CurvekitError, match="temperature is -1"):
        Playground(voices, temperature=-1)
    with pytest.raises(CurvekitError, match="no model"):
        Playground({})


def test_the_history_is_exported_whole_as_lines(voices, tmp_path):
    panel = Playground(voices, PROMPT, max_new_tokens=5, history=tmp_path / "history.jsonl", temperature=0.7)
    assert panel.export.disabled
    for _ in range(3):
        pressed(panel)
    panel.export.click()
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert all(row["temperature"] == 0.7 and row["prompt"] == PROMPT and row["model"] == "gpt2" for row in rows)
    assert "3 continuations written" in plain(panel.message)
    panel.file.value = str(tmp_path / "history.jsonl" / "no-folder")
    panel.export.click()
    assert "choose another folder" in plain(panel.message)


def test_the_steering_section_steers_what_is_written_and_says_what_cannot_be(voices, model, tokenizer):
    control = {"preface": "A bank is a place for money."}
    panel = pressed(Playground(voices, PROMPT, max_new_tokens=8, seed=3, control=control))
    settings = {"max_new_tokens": 8, "seed": 3}
    assert panel.history[0]["text"] == generate(model, tokenizer, [PROMPT], control=control, **settings)[0]
    assert panel.history[0]["control"]["preface"] == control["preface"]
    panel.steering.fields["preface"].value = ""
    panel.seed.value = 3
    pressed(panel)
    assert panel.history[1]["text"] == generate(model, tokenizer, [PROMPT], **settings)[0]
    assert panel.history[1]["control"] is None
    panel.steering.fields["label"].value = "x"
    panel.start.click()
    assert "give attribute too" in plain(panel.message)
