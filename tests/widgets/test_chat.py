"""The chat: turns that grow, are answered again, changed and stopped, and an export that a task reads."""

from __future__ import annotations

import json
import time

import pytest
from screen import EVIL, elements, plain, pressed

from curvekit.errors import CurvekitError
from curvekit.generation.conversation import Conversation
from curvekit.generation.sampling import Sampling
from curvekit.text.tasks import TASKS
from curvekit.widgets import Chat


def test_send_writes_what_the_conversation_writes_and_the_next_seed_another(voices, model, tokenizer):
    panel = pressed(Chat(voices, "Where is the river?", max_new_tokens=10, seed=3))
    talk = Conversation(model, tokenizer, Sampling(max_new_tokens=10, top_p=0.95, seed=3))
    list(talk.say("Where is the river?"))
    assert panel.talk.turns == talk.turns and panel.seed.value == 4 and panel.prompt.value == ""
    assert talk.turns[-1].text in plain(panel.screen)
    panel.renew.click()
    panel.wait()
    assert len(panel.talk.turns) == 2 and panel.talk.turns[1] != talk.turns[1]


def test_an_edited_turn_is_answered_anew_and_what_came_after_it_is_forgotten(voices):
    panel = pressed(Chat(voices, "One.", max_new_tokens=5))
    panel.prompt.value = "Two."
    pressed(panel)
    panel.number.value, panel.prompt.value = 1, "Three."
    panel.change.click()
    panel.wait()
    assert [turn.text for turn in panel.talk.turns if turn.role == "user"] == ["Three."]
    panel.number.value, panel.prompt.value = 9, "x"
    panel.change.click()
    assert "there is no turn 9; give 1 to 2" in plain(panel.message)


def test_stop_keeps_what_has_come(voices, model):
    model.pause = 0.05
    panel = Chat(voices, "Hello", max_new_tokens=50)
    panel.start.click()
    while model.calls < 4:
        time.sleep(0.01)
    panel.halt.click()
    panel.wait()
    assert "Stopped: Stop was pressed" in plain(panel.message)
    assert panel.talk.turns[-1].role == "assistant" and panel.talk.last.reason == "stopped"


def test_text_of_anybody_is_escaped_and_an_empty_message_is_a_sentence(voices):
    panel = pressed(Chat(voices, EVIL, max_new_tokens=3))
    assert EVIL in plain(panel.screen) and not {"script", "img"} & set(elements(panel))
    assert "nothing to answer" in plain(pressed(panel).message)
    with pytest.raises(CurvekitError, match="no chat template"):
        Chat(voices, form="chat")


def test_the_export_is_a_row_that_a_task_takes(voices, tmp_path):
    panel = Chat(voices, "Hello", max_new_tokens=5, history=tmp_path / "chat.jsonl")
    panel.export.click()
    assert "nothing was said yet" in plain(panel.message)
    pressed(panel).export.click()
    assert "2 turns appended" in plain(panel.message)
    panel.clear.click()
    panel.prompt.value = "Again"
    pressed(panel).export.click()
    rows = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    assert [TASKS["topical_chat"].example(row).turns[0].text for row in rows] == ["Hello", "Again"]


def test_two_models_have_a_conversation_each_and_a_figure_stands_for_them(voices, model, tokenizer):
    both = {**voices, "other": (model, tokenizer)}
    panel = pressed(Chat(both, "Hello", max_new_tokens=4))
    panel.model.value = "other"
    assert not panel.talk.turns and "Hello" not in plain(panel.screen)
    assert Chat.still(voices, "Hello", max_new_tokens=4).axes is not None
