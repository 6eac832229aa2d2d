"""The widgets: text that streams and can be stopped, failures that are said, markup that stays text, figures."""

from __future__ import annotations

import html
import json
import re
import threading
import time
from html.parser import HTMLParser

import ipywidgets
import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from curvekit import widgets
from curvekit.errors import CurvekitError
from curvekit.figures.drawing import Picture
from curvekit.generation.streams import Alternative, Piece, generate
from curvekit.preferences.ratings import QUESTIONS, read_ratings
from curvekit.widgets import panels
from curvekit.widgets.gallery import AttentionViewer, BlindRating, CurveExplorer, Playground, SideBySide, show
from curvekit.widgets.panels import Sample

PROMPT = "The river was"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Slow(GPT2LMHeadModel):
    """Takes a while for a token, counts them, and fails at one."""

    pause, fails_at, calls = 0.0, None, 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        time.sleep(self.pause)
        if self.calls == self.fails_at:
            raise RuntimeError("the model <b>broke</b>")
        return super().forward(*args, **kwargs)


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture
def model(tiny_base):
    return Slow.from_pretrained(tiny_base).eval()


@pytest.fixture
def voices(model, tokenizer):
    return {"gpt2": (model, tokenizer)}


@pytest.fixture
def two(model, tokenizer, tiny_base):
    other = Slow.from_pretrained(tiny_base).eval()
    torch.manual_seed(1)
    for parameter in other.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return {"gpt2": (model, tokenizer), "curve": (other, tokenizer)}


def pressed(panel):
    panel.start.click()
    panel.wait()
    assert not panel.busy
    return panel


def plain(widget):
    """What a reader sees of a widget's HTML: every text outside tags."""
    parser = HTMLParser()
    seen = []
    parser.handle_data = seen.append
    parser.feed(widget.value)
    return "".join(seen)


def elements(panel):
    """All tags and attributes in all HTML of a widget and below."""
    found, waiting = set(), [panel]
    while waiting:
        each = waiting.pop()
        waiting += getattr(each, "children", ())
        if isinstance(each, ipywidgets.HTML):
            parser = HTMLParser()
            parser.handle_starttag = lambda tag, attributes: found.update({tag, *(name for name, _ in attributes)})
            parser.feed(each.value)
    return found


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
        harmless |= {"class", "style", "title", "role", "alt", "src", "scope"}
        assert elements(panel) <= harmless, elements(panel) - harmless
        for box in (playground.results, columns.results, rating.columns):
            assert all(text in plain(child) for child in box.children)


@pytest.mark.parametrize("blind", [True, False])
def test_markup_that_a_model_writes_stays_text(blind):
    sample = Sample(EVIL, "", blind=blind)
    sample.add(Piece(EVIL, 1, 0.5, (Alternative(f'" onload="{EVIL}', 2, 0.4),)))
    sample.finish(CurvekitError(EVIL))
    assert elements(sample.box) <= {"div", "span", "class", "style", "title", "role"}
    assert plain(sample.box).count(EVIL) == 3


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


def test_columns_write_the_same_prompt_and_seed_through_each_model(two, tokenizer):
    panel = pressed(SideBySide(two, PROMPT, max_new_tokens=10, seed=3))
    for box, (name, (model, _)) in zip(panel.results.children, two.items(), strict=True):
        (text,) = generate(model, tokenizer, [PROMPT], max_new_tokens=10, seed=3)
        assert plain(box).startswith(name + PROMPT + text)
        assert "seed 3" in plain(box)


def test_a_column_that_fails_leaves_the_others_whole(two):
    two["gpt2"][0].fails_at = 2
    panel = pressed(SideBySide(two, PROMPT, max_new_tokens=10))
    first, second = map(plain, panel.results.children)
    assert "RuntimeError" in first and "10 tokens" in second
    assert "RuntimeError" in plain(panel.message)


@pytest.fixture(scope="module")
def explorer(tiny_encoder):
    return CurveExplorer("the river was low in summer", str(tiny_encoder))


def described(panel):
    return html.unescape(re.search(r'alt="([^"]*)"', panel.picture.value)[1])


def test_a_click_on_a_word_says_what_its_curve_blends(explorer):
    explorer.degree.value, explorer.place.value = 2, 0.5
    words = [button.description for button in explorer.words.row.children]
    explorer.words.row.children[3].click()
    assert f"“{words[3]}” receives 25 % {words[1]}, 50 % {words[2]}, 25 % {words[3]}." in described(explorer)
    explorer.words.row.children[0].click()
    assert f"“{words[0]}” receives 100 % {words[0]}." in described(explorer)
    assert [b.button_style for b in explorer.words.row.children][:2] == ["primary", ""]


def test_degree_place_family_and_context_change_the_curve(explorer):
    explorer.words.row.children[3].click()
    pictures = [explorer.picture.value]
    for control, value in (("degree", 3), ("place", 0.8), ("family", "B-spline"), ("context", "causal")):
        getattr(explorer, control).value = value
        pictures.append(explorer.picture.value)
    assert len(set(pictures)) == 5
    explorer.context.value = "bidirectional"
    assert "it leaks" in plain(explorer.message)


def test_a_sentence_without_words_is_a_message_and_the_next_one_draws(explorer):
    before = explorer.picture.value
    explorer.sentence.value = " "
    assert "a curve needs two" in plain(explorer.message)
    assert explorer.picture.value == before
    explorer.sentence.value = "a bank is a place for money " * 20
    assert "Drawn are the first 24 words" in plain(explorer.message)
    assert len(explorer.words.row.children) == 24


def test_attention_shows_each_members_sum_and_sink_for_the_word_that_is_clicked(voices):
    panel = AttentionViewer(voices, PROMPT, members=("stable",))
    assert (panel.layer.max, panel.head.max) == (1, 1)
    before = panel.picture.value
    panel.words.row.children[1].click()
    assert panel.picture.value != before
    after = panel.picture.value
    panel.members["softmax1"].value = True
    assert panel.picture.value != after
    assert panel.failure is None
    panel.text.value = "The boats lay on the sand. " * 30
    assert "tokens are left out" in plain(panel.message)


def test_attention_of_a_model_that_has_none_is_a_message(voices, model, monkeypatch):
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    assert "hands out its weights only" in plain(AttentionViewer(voices, PROMPT).message)
    monkeypatch.setattr(widgets, "attention_of", lambda *_: (_ for _ in ()).throw(CurvekitError("exposes none")))
    assert plain(AttentionViewer(voices, PROMPT).message) == "exposes none"


def rated(panel, answers=("first", "tie", "second")):
    for row, answer in zip(panel.answers.values(), answers, strict=True):
        assert panel.save.disabled
        row.value = answer
    panel.save.click()
    panel.wait()


def test_a_rating_is_on_the_disk_with_who_wrote_what_and_the_next_pair_comes(two, tokenizer, tmp_path):
    path = tmp_path / "ratings.jsonl"
    panel = pressed(BlindRating(two, [PROMPT], path, rater="ann", max_new_tokens=8))
    pair, texts = panel.pair, [sample.text for sample in panel.samples]
    rated(panel)
    (row,) = read_ratings(path)
    assert [row[q] for q in QUESTIONS] == ["first", "tie", "second"]
    assert (row["rater"], row["prompt"], row["first"], row["second"]) == ("ann", PROMPT, pair.first, pair.second)
    for side, text in zip((pair.first, pair.second), texts, strict=True):
        assert generate(two[side][0], tokenizer, [PROMPT], max_new_tokens=8, seed=pair.seed) == [text]
    assert [row["first_text"], row["second_text"]] == texts
    assert panel.pair is not pair and all(answer.value is None for answer in panel.answers.values())
    assert panel.count.value.endswith("ratings.jsonl: 1")


def test_nothing_that_is_shown_tells_who_wrote_it(two, tmp_path):
    panel = pressed(BlindRating(two, [PROMPT], tmp_path / "r.jsonl", max_new_tokens=8))
    shown = " ".join(box.value for box in panel.columns.children) + panel.message.value
    assert "gpt2" not in shown and "curve" not in shown.replace("curvekit-sample", "")
    assert "title=" not in shown and "a second" not in shown


def test_a_pair_that_was_stopped_cannot_be_rated(two, tmp_path):
    for model, _ in two.values():
        model.pause = 0.05
    panel = BlindRating(two, [PROMPT], tmp_path / "r.jsonl", max_new_tokens=50)
    panel.start.click()
    time.sleep(0.3)
    panel.halt.click()
    panel.wait()
    assert all(row.layout.visibility == "hidden" for row in panel.answers.values()) and panel.save.disabled
    panel.rate()
    assert not (tmp_path / "r.jsonl").exists()


def test_the_summary_gives_win_rates_with_an_interval(two, tmp_path):
    panel = pressed(BlindRating(two, [PROMPT], tmp_path / "r.jsonl", max_new_tokens=4))
    for _ in range(2):
        rated(panel)
    panel.tally.value = True
    assert panel.count.value.endswith(": 2")
    for word in ("low", "high", "wins", "ties", "on_topic"):
        assert word in plain(panel.summary)
    assert "Wilson" in html.unescape(panel.summary.value)


def test_one_model_alone_cannot_be_rated_and_it_is_said(voices, tmp_path):
    panel = BlindRating(voices, [PROMPT], tmp_path / "r.jsonl")
    assert "needs two models" in plain(panel.message)
    panel.start.click()
    assert "name more models" in plain(panel.message)


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
    monkeypatch.setattr(widgets, "open_model", lambda *given: given)
    assert widgets.load_voices(["runs/gpt2-seed0", "runs/curve-seed0", "x/curve-seed1", "mini:softemax"]) == {
        "gpt2": ("runs/gpt2-seed0",),
        "curve": ("runs/curve-seed0",),
        "curve-seed1": ("x/curve-seed1",),
        "mini:softemax": ("mini", "softemax"),
    }


CELL = """
import os, time, torch
from transformers import AutoTokenizer, GPT2LMHeadModel
from curvekit.widgets.gallery import Playground
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
