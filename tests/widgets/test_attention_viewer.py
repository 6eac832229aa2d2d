"""The attention viewer: each member's sum and sink for the word that is clicked, and a message where there is none."""

from __future__ import annotations

from screen import PROMPT, plain

from curvekit.errors import CurvekitError
from curvekit.widgets import AttentionViewer


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
    failing = lambda *_: (_ for _ in ()).throw(CurvekitError("exposes none"))  # noqa: E731
    monkeypatch.setattr("curvekit.widgets.attention_viewer.attention_of", failing)
    assert plain(AttentionViewer(voices, PROMPT).message) == "exposes none"
