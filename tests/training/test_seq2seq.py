"""A run of a T5: rows of a source and a target in, a model that writes and is scored on targets out."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pytest
import torch

from curvekit.bases.opening import open_model
from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.evaluation.targets import GIVEN, score_targets
from curvekit.experiments.comparison import compare
from curvekit.text.pairs import load_pairs, pairs_of
from curvekit.training.seq2seq import Targets
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train

WORDS = [
    "river",
    "boat",
    "lamp",
    "tower",
    "mill",
    "ridge",
    "marsh",
    "quay",
    "lane",
    "barn",
    "gate",
    "weir",
    "copse",
    "field",
    "well",
    "keeper",
]


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """Rows whose target says the first and the last word of the source."""
    dice, folder = random.Random(0), tmp_path_factory.mktemp("rows")
    for split, count in (("train", 40), ("dev", 8), ("test", 8)):
        with (folder / f"{split}.jsonl").open("w") as file:
            for number in range(count):
                said = dice.sample(WORDS, 6)
                row = {"document": f"{' '.join(said)} {number}.", "summary": f"{said[0]} to {said[-1]}", "id": number}
                file.write(json.dumps(row) + "\n")
    return folder


def config(base, corpus, **settings) -> RunConfig:
    given = {
        "recipe": "plain", "source_key": "document", "target_key": "summary", "steps": 8, "block_size": 32,
        "batch_size": 4, "eval_every": 4, "save_every": 2, "sample_prompts": 2, "sample_tokens": 6,
        "precision": "float32", "learning_rate": 3e-3,
    }  # fmt: skip
    return RunConfig(**given | {"base": str(base), "corpus": str(corpus)} | settings)


@pytest.fixture(scope="module")
def run(tiny_t5, tiny_encoder, rows, tmp_path_factory):
    wanted = config(
        tiny_t5, rows, recipe="published", encoder=str(tiny_encoder), optimizer="muon", scratch=True, steps=24,
        eval_every=12, learning_rate=1e-2,
    )  # fmt: skip
    return train(wanted, tmp_path_factory.mktemp("run") / "t5", progress="none")


def test_a_run_learns_scores_and_writes(run):
    history, metrics = run.history, run.metrics
    losses = [row["loss"] for row in history if "loss" in row]
    assert len(losses) == 24 and sum(losses[-4:]) / 4 < losses[0] - 0.5
    assert not metrics["leaks"] and metrics["conformance"]["leak"] == 0 and metrics["base_is_random"]
    score = run.scores("test")
    assert score.signature["prefix"] == GIVEN and len(score.tokens) == 8
    assert metrics["bits_per_byte"] == pytest.approx(score.nll.sum() / math.log(2) / score.bytes.sum())
    assert [row["reference"].split()[1] for row in run.samples] == ["to", "to"]
    assert metrics["bleu"] is not None


def test_a_killed_run_ends_with_the_same_losses(tiny_t5, rows, tmp_path, interrupted):
    wanted = config(tiny_t5, rows, recipe="softemax", dropout=0.1, accumulate=2)
    whole = train(wanted, tmp_path / "whole", progress="none")
    folder = interrupted(wanted, tmp_path / "killed", 5)
    again = train(wanted, folder, progress="none")
    losses = [[row.get("loss", row.get("validation_loss")) for row in each.history] for each in (whole, again)]
    assert losses[0] == losses[1]
    assert whole.metrics["loss"] == again.metrics["loss"]


def test_a_step_of_two_batches_is_that_of_one(tiny_t5, rows, tmp_path):
    """Each token of a target weighs the same, however the targets are batched."""
    runs = [
        train(config(tiny_t5, rows, steps=2, eval_every=2, batch_size=8 // parts, accumulate=parts, sample_prompts=0),
              tmp_path / str(parts), progress="none")
        for parts in (1, 2)
    ]  # fmt: skip
    one, two = ([row["loss"] for row in each.history if "loss" in row] for each in runs)
    assert one == pytest.approx(two, abs=1e-5)


def test_its_validation_loss_is_that_of_the_targets_and_their_ends(tiny_t5, rows, tmp_path):
    wanted = config(tiny_t5, rows, steps=2, eval_every=2, batch_size=3, sample_prompts=0)
    done = train(wanted, tmp_path / "run", progress="none")
    model, tokenizer = done.model(), done.tokenizer()
    total, count, hits = 0.0, 0, 0
    for each in Targets(wanted, print).examples(tokenizer, tmp_path, False)[1]:
        labels = torch.tensor([each["labels"]])
        with torch.no_grad():
            out = model(torch.tensor([each["input_ids"]]), labels=labels)
        total, count = total + out.loss.item() * labels.numel(), count + labels.numel()
        hits += (out.logits.argmax(-1) == labels).sum().item()
    last = [row for row in done.history if "validation_loss" in row][-1]
    assert last["validation_loss"] == pytest.approx(total / count, abs=1e-5)
    assert last["validation_accuracy"] == pytest.approx(hits / count)


def test_plain_text_is_read_by_halves(tiny_t5, tiny_corpus, tmp_path):
    wanted = config(tiny_t5, tiny_corpus, source_key=None, target_key=None, steps=2, eval_every=2)
    done = train(wanted, tmp_path / "run", progress="none")
    prompts = [row["prompt"] + row["reference"] for row in done.samples]
    text = (tiny_corpus / "test.txt").read_text()
    assert len(prompts) == 2 and all(prompt in text for prompt in prompts)


def test_two_runs_compare_and_the_table_says_with_what(run, tmp_path):
    other = dataclasses.replace(run.config, recipe="plain")
    plain = train(other, tmp_path / "plain", progress="none")
    found = compare([plain.folder, run.folder], "plain", tmp_path / "compared")
    assert found.row("published")["p"] is not None, "a centred curve on the source is compared like any other"
    assert "no perplexity of whole texts" in (tmp_path / "compared" / "results.md").read_text()


def told(capsys, *argv) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        status = main([str(word) for word in argv])
    except SystemExit as end:
        status = end.code
    done = capsys.readouterr()
    return status, done.out, done.err


def test_evaluate_gives_the_figures_of_the_run(run, rows, capsys):
    status, out, _ = told(capsys, "evaluate", run.folder, "--corpus", rows)
    assert status == 0 and f"bits per byte     {run.metrics['bits_per_byte']:.4f}" in out
    assert "8 targets given their sources" in out and "no perplexity of whole texts" in out
    with_keys = told(capsys, "evaluate", run.folder, "--corpus", rows, "--source-key", "document",
                     "--target-key", "summary", "--batch-size", 1)[1]  # fmt: skip
    figures = [[float(line.split()[-1]) for line in text.splitlines()[:4]] for text in (with_keys, out)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)  # another batch sums in another order


def test_generate_writes_a_target_and_check_finds_nothing(run, capsys):
    settings = ("--temperature", 0, "--tokens", 5)
    status, out, _ = told(capsys, "generate", run.folder, "river boat lamp", *settings, "--json")
    assert status == 0
    model, tokenizer = open_model(run.folder, seq2seq=True)
    ids = torch.tensor([[*tokenizer("river boat lamp")["input_ids"], tokenizer.eos_token_id]])
    mask = torch.ones_like(ids)
    new = model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False)[0, 1:]
    assert json.loads(out)["continuation"] == tokenizer.decode(new, skip_special_tokens=True)
    streamed = told(capsys, "generate", run.folder, "river boat lamp", *settings)[1]
    assert streamed == f"river boat lamp\n{json.loads(out)['continuation']}\n"
    long = " ".join(WORDS * 20)
    assert "its last" in told(capsys, "generate", run.folder, long, *settings)[2]
    assert told(capsys, "check", run.folder)[0] == 0


def test_a_model_that_continues_text_is_scored_on_the_same_targets(tiny_base, rows, capsys, tmp_path):
    keys = ("--source-key", "document", "--target-key", "summary")
    status, out, _ = told(capsys, "evaluate", tiny_base, "--corpus", rows, *keys)
    assert status == 0 and "prefix:the source" in out
    model, tokenizer = open_model(tiny_base)
    sources, targets = pairs_of(load_pairs(rows, source="document", target="summary")["test"], tokenizer, 64)
    score = score_targets(model, tokenizer, sources, targets)
    for source, target, nll in zip(sources, targets, score.nll, strict=True):
        before = [tokenizer.eos_token_id, *tokenizer(source)["input_ids"], *tokenizer("\n")["input_ids"]]
        ids = torch.tensor([[*before, *tokenizer(target)["input_ids"]]])
        with torch.no_grad():
            odds = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        assert nll == pytest.approx(-odds[len(before) - 1 :].sum().item(), abs=1e-4)


def test_batch_sizes_change_no_score(run, rows):
    model, tokenizer = run.model(), run.tokenizer()
    pairs = pairs_of(load_pairs(rows, source="document", target="summary")["test"], tokenizer, 64)
    scores = [score_targets(model, tokenizer, *pairs, batch_size=size, keep_tokens=2) for size in (1, 7)]
    assert scores[0].nll == pytest.approx(scores[1].nll, abs=1e-5)
    assert sum(scores[0].token_nll[0]["nll"]) == pytest.approx(scores[0].nll[0])


# Bad input


@pytest.mark.parametrize(("settings", "said"), [
    ({"adapter": "lora"}, "adapter is 'lora', which a T5 has no place for"),
    ({"examples": "padded"}, "examples is 'padded'"),
    ({"stride": 8}, "a target is scored whole"),
    ({"target_key": None}, "give both, or none"),
    ({"target_key": "summari"}, "has no column 'summari'"),
    ({"block_size": 80}, "longer than the 64 positions"),
    ({"block_size": 4}, "row 1 of the train split has .* more than the 4"),
    ({"recipe": "canon"}, "a T5 has two"),
    ({"recipe": "gpt2"}, "on a T5 take 'plain'"),
    ({"freeze": "all_but_head"}, "a T5's head is its embeddings"),
    ({"corpus": "pydocs"}, "is text without keys"),
])  # fmt: skip
def test_what_a_t5_cannot_do_is_one_sentence_and_nothing_is_left(tiny_t5, rows, tmp_path, settings, said):
    with pytest.raises(CurvekitError, match=said):
        train(config(tiny_t5, **{"corpus": rows} | settings), tmp_path / "run", progress="none")
    assert not (tmp_path / "run").exists()


def test_rows_are_refused_for_a_model_that_continues_text(tiny_base, rows, tmp_path):
    with pytest.raises(CurvekitError, match="continues text and writes no target.*take a T5"):
        train(config(tiny_base, rows, recipe="gpt2"), tmp_path / "run", progress="none")


@pytest.mark.parametrize(
    ("base", "keys"), [("t5-mini", {}), ("gpt-neo-mini", {"source_key": None, "target_key": None})]
)
def test_a_shape_without_weights_is_trained_from_scratch_only(base, keys, rows, tiny_corpus, tmp_path):
    corpus = tiny_corpus if keys else rows
    with pytest.raises(CurvekitError, match=f"'{base}' is a shape without weights; give scratch"):
        train(config(base, corpus, **keys), tmp_path / "run", progress="none")


@pytest.mark.parametrize(
    "argv", [("serve", "BASE"), ("demo", "BASE"), ("merge", "BASE", "OUT"), ("space", "BASE", "OUT")]
)
def test_a_command_that_continues_text_takes_no_t5(tiny_t5, tmp_path, capsys, argv):
    words = [{"BASE": tiny_t5, "OUT": tmp_path / "out"}.get(word, word) for word in argv]
    status, _, err = told(capsys, *words, *(("--port", 0) if argv[0] in ("serve", "demo") else ()))
    assert status == 2 and "is a T5, which writes a target for a source" in err and not (tmp_path / "out").exists()
