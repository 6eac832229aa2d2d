"""Prompts: answers alone are scored, in any form; what does not fit is cut where the task says; rows are packed."""

from __future__ import annotations

import copy

import pytest
import torch
from taskrows import dialogues, questions

from curvekit.errors import CurvekitError
from curvekit.text.examples import pack_examples, packed
from curvekit.text.prompts import Prompter
from curvekit.text.tasks import TASKS

CHATML = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<|endoftext|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
QA, TALK = TASKS["squad_qa"], TASKS["topical_chat"]


@pytest.fixture
def chatty(tiny_tokenizer):
    chatty = copy.deepcopy(tiny_tokenizer)
    chatty.chat_template = CHATML
    return chatty


def said(tokenizer, piece):
    return tokenizer.decode([token for token, label in zip(piece.ids, piece.labels, strict=True) if label != -100])


def test_of_a_question_the_answer_and_its_end_are_scored(tiny_tokenizer, chatty):
    example = QA.example(questions(1)[0])
    for tokenizer, begins in ((tiny_tokenizer, "<|endoftext|>Story"), (chatty, "<user>Story")):
        (piece,) = Prompter(QA, tokenizer, 500).encode(example)
        (asked,) = Prompter(QA, tokenizer, 500).ask(example)
        assert said(tokenizer, piece).strip() == f"{example.target}<|endoftext|>"
        assert piece.ids[: len(asked)] == asked and tokenizer.decode(asked).startswith(begins)
    assert not Prompter(QA, chatty, 500, "plain").chat
    with pytest.raises(CurvekitError, match="no chat template"):
        Prompter(QA, tiny_tokenizer, 500, "chat")


def test_of_a_dialogue_every_answer_is_scored_and_nothing_else(tiny_tokenizer, chatty):
    example = TALK.example(dialogues(1)[0])
    answers = [turn.text for turn in example.turns if turn.role == "assistant"]
    (plain,) = Prompter(TALK, tiny_tokenizer, 500).encode(example)
    assert said(tiny_tokenizer, plain) == "".join(f" {text}\n" for text in answers)
    (chat,) = Prompter(TALK, chatty, 500).encode(example)
    assert said(chatty, chat) == "".join(f"{text}<|endoftext|>" for text in answers)
    assert chatty.decode(chat.ids) == chatty.apply_chat_template(
        [{"role": turn.role, "content": turn.text} for turn in example.turns], tokenize=False
    )


def test_a_dialogue_that_is_too_long_becomes_pieces_that_begin_with_a_user(tiny_tokenizer):
    turns = [turn for number in range(6) for turn in dialogues(1, seed=number)[0]["turns"]]
    example = TALK.example({"turns": turns})
    whole = Prompter(TALK, tiny_tokenizer, 5000).encode(example)[0]
    pieces = Prompter(TALK, tiny_tokenizer, 150).encode(example)
    assert len(pieces) > 2 and all(len(piece.ids) <= 150 and piece.cut for piece in pieces)
    assert "".join(said(tiny_tokenizer, piece) for piece in pieces) == said(tiny_tokenizer, whole)
    assert all(tiny_tokenizer.decode(piece.ids).startswith("<|endoftext|>User:") for piece in pieces)
    asked = Prompter(TALK, tiny_tokenizer, 150).history(example.turns[:-1], 40)
    assert len(asked) <= 110 and tiny_tokenizer.decode(asked).endswith("Assistant:")


def test_a_context_that_is_too_long_is_read_by_windows_that_overlap(tiny_tokenizer):
    row = questions(1)[0]
    row["context"] = "The boats lay there. " * 30 + row["context"] + " She read it twice." * 30
    example = QA.example(row)
    prompter = Prompter(QA, tiny_tokenizer, 200)
    windows = prompter.ask(example)
    assert len(windows) > 3 and all(len(ids) + QA.new_tokens <= 200 for ids in windows)
    texts = [tiny_tokenizer.decode(ids) for ids in windows]
    assert all(text.endswith("Answer:") for text in texts) and any(row["answers"][0] in text for text in texts)
    (piece,) = prompter.encode(example)
    assert (
        piece.cut and len(piece.ids) <= 200 and row["answers"][0] in tiny_tokenizer.decode(piece.ids[: -piece.scored])
    )


def test_a_template_that_leaves_no_room_for_the_answer_says_so(tiny_tokenizer):
    with pytest.raises(CurvekitError, match="the template leaves no room for the answer"):
        Prompter(QA, tiny_tokenizer, 60).encode(QA.example(questions(1)[0]))


def test_no_row_is_longer_than_a_block_and_none_is_lost():
    lengths = [3, 9, 4, 4, 2, 7, 1, 10, 5]
    rows = packed(lengths, 10)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= 10 for row in rows) and len(rows) == 5  # 45 places of 50
    with pytest.raises(CurvekitError, match="11 tokens, more than a row of 10"):
        packed([11], 10)


def test_packed_rows_hold_three_times_the_scored_tokens_of_padded_ones(tiny_tokenizer):
    rows = questions(80)
    rows[0]["context"] += " The boats lay there, and she read it twice." * 28  # one long row is enough to pad for
    prompter = Prompter(QA, tiny_tokenizer, 1024)
    blocks = pack_examples([QA.example(row) for row in rows], prompter, 1024, 0)
    padded = 1024 // max(len(each.ids) for each in blocks.encoded)  # examples a row
    assert blocks.examples / len(blocks) >= 3 * padded, str(blocks)
    assert blocks.scored == sum(int((blocks[i]["labels"] != -100).sum()) for i in range(len(blocks)))


def test_no_example_of_a_row_sees_another(tiny_tokenizer, make):
    """Each one's loss in a packed row is the one that it has alone, with every part of the recipe."""
    prompter = Prompter(QA, tiny_tokenizer, 64)
    short = QA.__class__("t", "t", "answer", "{question} {answers}", cut=None)
    prompter = Prompter(short, tiny_tokenizer, 64)
    blocks = pack_examples([short.example(row) for row in questions(4)], prompter, 64, 0)
    assert len(blocks) < blocks.examples
    for recipe in ("gpt2", "curve+softemax", "canon"):
        model = make(recipe).eval()
        for index in range(len(blocks)):
            row = {name: value.unsqueeze(0) for name, value in blocks[index].items()}
            labels = row.pop("labels")[0]
            logits = model(**row).logits[0]
            place = 0
            for number in blocks.rows[index]:
                ids = torch.tensor([blocks.encoded[number].ids])
                alone = model(ids, use_cache=False).logits[0]
                torch.testing.assert_close(logits[place : place + ids.shape[1]], alone, atol=2e-5, rtol=1e-4)
                assert labels[place] == -100
                place += ids.shape[1]
