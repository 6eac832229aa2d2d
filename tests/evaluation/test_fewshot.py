"""Few-shot prompts: no scored item in them, the scores of the formula, and figures with their intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from curvekit.bases.opening import open_model
from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.evaluation.fewshot import (
    FewShot,
    Task,
    calibrated,
    clean_pool,
    fewshot,
    label_scores,
    label_scores_naive,
    require_apart,
)
from curvekit.evaluation.intervals import cluster_interval, ratio
from curvekit.figures.drawing import is_figure
from curvekit.files import read_json
from curvekit.reports.fewshot import page
from curvekit.text.labelled import Labelled

TASK = Task("Text: {text}\nLabel:")
TRAIN = [Labelled(f"text number {i} is about a {'river' if i % 2 else 'bank'}", "ab"[i % 2]) for i in range(30)]
ITEMS = [Labelled(f"item {i} is about a {'river' if i % 2 else 'bank'}", "ab"[i % 2]) for i in range(10)]


@pytest.fixture(scope="module")
def voice(tiny_base, tmp_path_factory, tiny_tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    end = tiny_tokenizer.eos_token_id
    config = GPT2Config(n_positions=400, n_embd=32, n_layer=2, n_head=2, vocab_size=len(tiny_tokenizer),
                        bos_token_id=end, eos_token_id=end)  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(8)
    folder = tmp_path_factory.mktemp("long")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return *open_model(folder), folder


def test_a_prompt_is_the_examples_and_the_item_without_its_label():
    shot = FewShot(TASK, 2, seed=1)
    first, second = shot.examples(TRAIN)
    assert {first.label, second.label} == {"a", "b"}
    assert shot.prompt("x", TRAIN) == (
        f"Text: {first.text}\nLabel: {first.label}\n\nText: {second.text}\nLabel: {second.label}\n\nText: x\nLabel:"
    )
    assert shot.examples(TRAIN) == shot.examples(TRAIN) != FewShot(TASK, 2, seed=2).examples(TRAIN)
    turned = FewShot(TASK, 6, seed=1, order=3).examples(TRAIN)
    plain = FewShot(TASK, 6, seed=1).examples(TRAIN)
    assert turned != plain and sorted(turned) == sorted(plain)


def test_no_prompt_holds_a_scored_item_or_its_duplicates():
    long = " ".join(f"word{i}" for i in range(60))
    items = [Labelled("The  SAME text", "a"), Labelled(long, "b")]
    train = [*TRAIN, Labelled("the same text", "b"), Labelled(f"{long} and a little more", "a")]
    pool, left_out = clean_pool(train, items)
    assert left_out == 2 and pool == TRAIN
    for seed in range(20):
        require_apart(FewShot(TASK, 20, seed).examples(pool), [item.text for item in items])
    with pytest.raises(CurvekitError, match="'the same text' is itself scored"):
        FewShot(TASK, 32).prompt("The same text", train)
    with pytest.raises(CurvekitError, match="repeats a scored item"):
        clean_pool(TRAIN, TRAIN)


@pytest.mark.parametrize("labels", [("a", "b"), ("river", "a bank of the")])
def test_scores_are_those_of_the_formula(voice, labels):
    model, tokenizer, _ = voice
    shot = FewShot(TASK, 3, seed=1)
    head = shot.head(shot.examples(TRAIN))
    items = [item.text for item in ITEMS[:3]] + ["a much longer text than the others, of a boat in summer"]
    found = label_scores(model, tokenizer, shot, head, items, labels)
    expected = [label_scores_naive(model, tokenizer, shot, head, item, labels) for item in items]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_calibration_divides_by_what_is_said_without_content():
    scores, empty = np.log([[0.6, 0.4], [0.3, 0.7]]), np.log([[0.9, 0.1], [0.7, 0.3]])
    np.testing.assert_allclose(calibrated(scores, empty), np.log(np.exp(scores) / [0.8, 0.2]))
    assert calibrated(scores, empty).argmax(1).tolist() == [1, 1]


def test_figures_come_with_intervals_over_items_and_spreads(voice):
    model, tokenizer, _ = voice
    found = fewshot(model, tokenizer, TASK, TRAIN, ITEMS, shots=(0, 2), sets=2, orders=2, calibrate=True)
    none, two = found["rows"]
    assert found["majority"] == 0.5 and found["left_out"] == 0 and none["sets_sd"] is None
    assert np.shape(two["accuracies"]) == (2, 2) and two["low"] <= two["accuracy"] <= two["high"]
    assert two["accuracy"] == pytest.approx(np.mean(two["accuracies"]))
    assert two["over_majority"] == pytest.approx(two["accuracy"] - 0.5)


def test_the_interval_of_a_share_covers_it_as_often_as_it_says():
    dice = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        draws = np.stack([dice.random(60) < 0.3, np.ones(60)], axis=1)
        low, high = cluster_interval(draws, ratio, samples=400, seed=seed)
        covered += low <= 0.3 <= high
    assert 0.88 < covered / 200 < 0.99


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--shots", "40"], "there are 30 rows to draw from"),
        (["--shots", "-1"], "shots is -1"),
        (["--question", "x"], "the one holds {text}"),
        (["--task", "movies"], "unknown task"),
        (["--shots", "29"], "give fewer shots"),
        (["--label-column", "lable"], "no column 'lable'"),
    ],
)
def test_what_cannot_work_is_one_sentence(voice, tmp_path, capsys, argv, message):
    table, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for path, rows in ((table, TRAIN), (test, ITEMS)):
        path.write_text("".join(json.dumps(row._asdict()) + "\n" for row in rows))
    assert main(["fewshot", str(voice[2]), str(table), "--test", str(test), *argv]) == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_a_table_or_json(voice, tmp_path, capsys):
    table, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for path, rows in ((table, TRAIN), (test, ITEMS)):
        path.write_text("".join(json.dumps(row._asdict()) + "\n" for row in rows))
    argv = ["fewshot", str(voice[2]), str(table), "--test", str(test), "--shots", "0", "2", "--sets", "2"]
    assert main(argv) == 0
    assert "| 2 | " in (shown := capsys.readouterr().out) and "always the commonest: 0.500" in shown
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][1]["shots"] == 2
    assert main([*argv, "--out", str(tmp_path / "page")]) == 0
    folder = tmp_path / "page"
    kept, text = read_json(folder / "results.json"), (folder / "README.md").read_text()
    assert kept["rows"] == found["rows"] and text == page(kept)
    assert is_figure(folder / "figures" / "accuracy-by-shots.svg")
    assert "--shots 0 2 --sets 2" in text and str(tmp_path) not in text + json.dumps(kept)
