"""A model on a task: batches change no answer and save time, likelihoods are the formula, pairs have intervals."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import torch
from taskrows import dialogues, questions, short, write

from curvekit.errors import CurvekitError
from curvekit.evaluation.significance import paired_items
from curvekit.evaluation.tasks import (
    ask,
    calibration_error,
    choose,
    contrasts,
    evaluate_task,
    label_odds,
    log_likelihoods,
    spread,
    write_answers,
)
from curvekit.experiments.tasks import TaskComparison, answer_rows, saved_result
from curvekit.text.prompts import Prompter
from curvekit.text.rows import load_rows
from curvekit.text.tasks import TASKS, Task, find_task

SHORT = Task("short", "short questions", "answer", "{ask} {say}", new_tokens=6)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("short"), train=short(40), test=short(12, seed=1))
    found = load_rows(find_task(str(folder), "{ask} {say}"), folder)
    return dataclasses.replace(found, task=SHORT)


@pytest.fixture(scope="module")
def model(make):
    return make("curve+softemax").eval()


def test_likelihoods_are_the_formula_for_every_batch(rows, model, tiny_tokenizer):
    prompter = Prompter(rows.task, tiny_tokenizer, 64)
    pieces = [piece for each in rows.test for piece in prompter.encode(each)]
    found = log_likelihoods(model, pieces)
    for piece, (value, hits) in zip(pieces, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([piece.ids]), use_cache=False).logits[0, :-1].log_softmax(-1)
        labels = torch.tensor(piece.labels[1:])
        own = logits[labels != -100, labels[labels != -100]]
        assert value == pytest.approx(-float(own.sum()), rel=1e-4)
        assert hits == int((logits.argmax(-1) == labels).sum())


def test_answers_are_the_same_one_by_one_and_in_batches(rows, model, tiny_tokenizer):
    prompter = Prompter(rows.task, tiny_tokenizer, 64)
    alone, _ = write_answers(model, prompter, rows.test, batch_size=1)
    batched, _ = write_answers(model, prompter, rows.test, batch_size=5)
    assert alone == batched and all(row["reason"] in ("length", "eos", "stop string") for row in alone)


@pytest.mark.slow
def test_sorted_batches_are_four_times_as_fast_as_one_by_one(tmp_path):
    """On the base that ships, answers of twenty tokens, batches of 16."""
    from curvekit.bases.opening import open_model

    model, tokenizer = open_model("mini")
    task = dataclasses.replace(SHORT, new_tokens=20, stop=())
    examples = [task.example(row) for row in short(16)]
    prompter = Prompter(task, tokenizer, 512)
    write_answers(model, prompter, examples[:2])
    seconds = {}
    for size in (1, 16):
        start = time.process_time()
        write_answers(model, prompter, examples, size)
        seconds[size] = time.process_time() - start
    assert seconds[1] > 4 * seconds[16], seconds


def test_a_result_counts_what_happened_and_signs_its_figures(rows, model, tiny_tokenizer):
    asked = ask(model, tiny_tokenizer, rows, items=8, signature={"model": "m"})
    result = evaluate_task(model, asked)
    told = result.to_dict()
    assert set(told["counts"]) == {"items", "empty", "truncated", "stopped", "cut", "windowed", "left_out"}
    assert told["counts"]["items"] == 8 == len(result.rows())
    assert result.figures["perplexity"] == pytest.approx(result.score.perplexity)
    for name in ("prompt", "stop", "decoding", "revision", "torch", "transformers", "tokenizer_hash", "items"):
        assert told["signature"][name] not in (None, ""), name
    assert set(told["baselines"]) == {"majority"}
    reasons = [row["reason"] for row in result.answers]
    assert told["counts"]["truncated"] == reasons.count("length")


def test_a_context_that_is_too_long_is_answered_window_by_window(model, tiny_tokenizer, tmp_path):
    task = Task("w", "w", "answer", "{context} {answers}", cut="context", windows=True, new_tokens=3)
    long = [
        {"context": "The boats lay there. " * 12 + row["context"], "answers": row["answers"]} for row in questions(3)
    ]
    folder = write(tmp_path, train=questions(9), test=long)
    found = evaluate_task(model, ask(model, tiny_tokenizer, load_rows(task, folder)))
    assert found.counts["windowed"] == found.counts["cut"] == 3 and len(found.answers) == 3


def test_a_choice_is_the_likeliest_label_and_calibrated_by_a_prompt_without_content(model, tiny_tokenizer, tmp_path):
    task = dataclasses.replace(SHORT, kind="choice", labels=("red", "blue", "green", "white", "black", "grey"))
    prompter = Prompter(task, tiny_tokenizer, 64)
    examples = [task.example(row) for row in short(6)]
    answers, figures = choose(model, prompter, examples)
    prompts = [prompter.ask(each)[0] for each in examples]
    odds = label_odds(model, prompter, prompts, False)
    pieces = [prompter.continued(ids, label) for ids in prompts for label in task.labels]
    naive = -np.array([value for value, _ in log_likelihoods(model, pieces)]).reshape(6, 6)
    assert odds == pytest.approx(naive, rel=1e-4)
    assert [row["answer"] for row in answers] == [task.labels[place] for place in naive.argmax(1)]
    assert 0 <= figures["calibrated_accuracy"] <= 100 and 0 <= figures["calibration_error"] <= 1
    whole = sorted(entry[1:] for entry in tiny_tokenizer.get_vocab() if entry[0] == "Ġ" and entry[1:].isalpha())
    one = dataclasses.replace(task, labels=tuple(whole[:3]))  # of one token each: read from one forward
    prompter = Prompter(one, tiny_tokenizer, 64)
    assert all(prompter.continued([0], label).scored == 2 for label in one.labels)
    fast = label_odds(model, prompter, prompts, False)
    alone = [model(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1) for ids in prompts]
    tokens = [prompter.continued([0], label).ids[1] for label in one.labels]
    assert fast == pytest.approx(torch.stack(alone)[:, tokens].detach().numpy(), rel=1e-4)


def test_the_calibration_error_is_the_formula():
    confidence, right = np.array([0.95, 0.95, 0.55, 0.55]), np.array([True, False, True, True])
    assert calibration_error(confidence, right) == pytest.approx(0.5 * 0.45 + 0.5 * 0.45)


def test_of_a_dialogue_the_answers_alone_have_a_perplexity(model, tiny_tokenizer, tmp_path):
    folder = write(tmp_path, train=dialogues(30), test=dialogues(5, seed=1))
    rows = load_rows(TASKS["topical_chat"], data_dir=folder)
    result = evaluate_task(model, ask(model, tiny_tokenizer, rows, room=64))
    words = sum(len(turn.text.split()) for each in rows.test for turn in each.turns if turn.role == "assistant")
    assert result.score.words.sum() == words and result.figures["perplexity"] > 1


def test_models_are_compared_item_by_item_kept_and_not_measured_again(rows, model, make, tiny_tokenizer, tmp_path):
    done = TaskComparison()
    for name, each in (("plain", make("gpt2").eval()), ("<curve>", model)):
        done.results[name] = evaluate_task(each, ask(each, tiny_tokenizer, rows, signature={"model": name}))
    found = {row["figure"]: row for row in done.contrasts}
    assert set(found) == {"exact_match", "f1", "nats"} and found["nats"]["a"] == "<curve>"
    difference = done.results["<curve>"].score.loss - done.results["plain"].score.loss
    assert found["nats"]["difference"] == pytest.approx(difference)
    score = dataclasses.replace(done.results["<curve>"].score, leaks=True)
    looking = dataclasses.replace(done.results["<curve>"], score=score)
    honest = contrasts({"plain": done.results["plain"], "looking": looking})
    assert {row["figure"] for row in honest} == {"exact_match", "f1"}, "what it writes, and not what it reads"
    done.save(tmp_path / "out", "curvekit evaluate")
    again = saved_result(tmp_path / "out", "<curve>", ask(model, tiny_tokenizer, rows, signature={"model": "<curve>"}))
    assert again.figures["f1"] == pytest.approx(done.results["<curve>"].figures["f1"])
    assert TaskComparison({"plain": done.results["plain"], "<curve>": again}).contrasts == done.contrasts
    other = ask(model, tiny_tokenizer, rows, items=5, signature={"model": "<curve>"})
    assert saved_result(tmp_path / "out", "<curve>", other) is None
    (row, *_) = answer_rows(done.results, 3)
    assert list(row) == ["asked", "right", "plain", "<curve>"] and len(answer_rows(done.results, 3)) == 3
    fewer = evaluate_task(model, other)
    with pytest.raises(CurvekitError, match="answered other items"):
        contrasts({"plain": done.results["plain"], "fewer": fewer})


def test_an_interval_over_items_holds_what_it_should():
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    found = paired_items(base + rng.normal(0.3, 1, 200), base)
    assert found.low < 0.3 < found.high and found.significant and found.p < 0.05
    assert not paired_items(base, base).significant
    with pytest.raises(CurvekitError, match="no pairs"):
        paired_items([1.0], [1.0])


def test_items_are_spread_evenly_and_a_room_beyond_the_model_is_refused(rows, model, tiny_tokenizer):
    assert spread(list(range(10)), 3) == [0, 3, 6] and spread([1, 2], 5) == [1, 2]
    with pytest.raises(CurvekitError, match="the model has 48 positions|the model has 64 positions"):
        ask(model, tiny_tokenizer, rows, room=4096)
