"""A run: its losses are exact, it survives being killed at any step, and its folder says what happened."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from wandb_files import history

from curvekit.bases.building import build_model
from curvekit.causality import LeakWarning
from curvekit.errors import CurvekitError
from curvekit.text.packing import pack
from curvekit.training import checkpoints, stepping
from curvekit.training import texts as of_text
from curvekit.training import trainer as training
from curvekit.training.trainer import RunConfig, load_run, train

LANGUAGE = {"loss", "perplexity", "word_perplexity", "bits_per_byte", "token_accuracy"}


class Stopped(Exception):
    """Ends a run from outside, as a kill does."""


@pytest.fixture(scope="module")
def config(tiny_base, tiny_corpus) -> RunConfig:
    """Twelve steps of a tiny GPT-2 with dropout, a second or two."""
    return RunConfig(
        recipe="gpt2",
        base=str(tiny_base),
        corpus=str(tiny_corpus),
        block_size=32,
        batch_size=4,
        steps=12,
        learning_rate=1e-2,
        dropout=0.1,
        precision="float32",
        eval_every=4,
        save_every=3,
        sample_prompts=2,
        prompt_tokens=8,
        sample_tokens=8,
    )


@pytest.fixture(scope="module", autouse=True)
def frozen_garbage():
    """The Trainer collects garbage each time it starts; most of a second, were all of torch looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory) -> training.Run:
    """One finished run that the tests share and leave as it is."""
    return train(config, tmp_path_factory.mktemp("runs") / "undisturbed", progress="none")


def rows(run: training.Run) -> list[dict]:
    """The history without the clock."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run.history]


def stop(*args, **kwargs) -> None:
    raise Stopped


# What a run leaves


def test_a_run_leaves_every_file_and_every_figure(undisturbed, config):
    names = {path.name for path in undisturbed.folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("config.json", "corpus.json", "frequency.json", "history.jsonl", "metrics.json", "model", "samples.jsonl"),
        *("scores-test.json", "scores-validation.json"),
    }
    metrics = undisturbed.metrics
    assert metrics.keys() >= LANGUAGE | {"bleu", "chrf", "rouge1", "rouge2", "rougeL", "distinct_1", "self_bleu"}
    assert metrics["validation"].keys() >= LANGUAGE
    assert metrics["leaks"] is False and metrics["base_is_random"] is False
    assert metrics["signature"]["split"] == "test" and metrics["signature"]["revision"]
    assert metrics["steps"] == metrics["kept_step"] == 12
    assert metrics["tokens_per_second"] > 0 and metrics["train_seconds"] > 0
    assert metrics["perplexity"] == pytest.approx(undisturbed.scores("test").perplexity)
    assert str(undisturbed.folder) not in (undisturbed.folder / "metrics.json").read_text()
    assert RunConfig.from_dict(json.loads((undisturbed.folder / "config.json").read_text())) == config


def test_lines_so_short_that_sixteen_fill_no_block_still_validate(config, tmp_path):
    (tmp_path / "lines.txt").write_text("".join(f"Line {number} is short.\n" for number in range(800)))
    short = dataclasses.replace(
        config, corpus=str(tmp_path / "lines.txt"), steps=1, eval_every=1, validation_documents=2, sample_prompts=0
    )
    run = train(short, tmp_path / "run", progress="none")
    assert len(run.scores("validation").tokens) > 2 and run.scores("validation").tokens.sum() >= config.block_size


def test_what_was_left_out_of_a_corpus_is_told(config, tmp_path, tiny_texts, capsys):
    copies = [f"{text} And no more." for text in tiny_texts]
    (tmp_path / "lines.txt").write_text("\n".join([*tiny_texts, *copies]), encoding="utf-8")
    train(dataclasses.replace(config, corpus=str(tmp_path / "lines.txt"), steps=1), tmp_path / "run", progress="lines")
    assert "left out as duplicates of held-out ones" in capsys.readouterr().out


def test_the_history_has_each_step_and_each_validation_once(undisturbed):
    steps = [row for row in undisturbed.history if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert set(steps[0]) == {"step", "loss", "learning_rate", "grad_norm", "tokens", "seconds"}
    validations = [row for row in undisturbed.history if "validation_loss" in row]
    assert [row["step"] for row in validations] == [0, 4, 8, 12], "what the base knew, then what it learned"
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    assert [row["seconds"] for row in steps] == sorted(row["seconds"] for row in steps)
    for row in validations:
        assert row["validation_perplexity"] == pytest.approx(math.exp(row["validation_loss"]))


def test_the_rate_rises_then_falls_as_a_cosine(undisturbed):
    rates = [row["learning_rate"] for row in undisturbed.history if "loss" in row]
    warm = 2  # 10 % of 12 steps, rounded up
    expected = [0.01 * k / warm for k in range(warm)]
    expected += [0.005 * (1 + math.cos(math.pi * k / (12 - warm))) for k in range(12 - warm)]
    assert rates == pytest.approx(expected, abs=1e-9)


def test_a_trained_model_generates_with_a_cache(undisturbed):
    model = undisturbed.model()
    assert model.config.use_cache and model.generation_config.use_cache is not False
    given = []
    model.transformer.register_forward_hook(
        lambda module, args, kwargs, output: given.append(kwargs["past_key_values"]), with_kwargs=True
    )
    model.generate(torch.tensor([[1, 2, 3]]), attention_mask=torch.ones(1, 3), max_new_tokens=4, min_new_tokens=4)
    assert len(given) == 4 and all(past is not None for past in given)


def test_samples_continue_held_out_documents(undisturbed, tiny_corpus):
    documents = (tiny_corpus / "test.txt").read_text().splitlines()
    assert len(undisturbed.samples) == 2
    for sample in undisturbed.samples:
        assert any(text.startswith(sample["prompt"] + sample["reference"]) for text in documents)
        assert sample["reference"] and sample["continuation"]


def test_the_model_reloads_and_scores_what_the_metrics_say(undisturbed, tiny_corpus):
    from curvekit.evaluation.metrics import score_documents

    texts = (tiny_corpus / "test.txt").read_text().splitlines()
    score = score_documents(undisturbed.model(), undisturbed.tokenizer(), texts, context=32, batch_size=3)
    assert score.perplexity == pytest.approx(undisturbed.metrics["perplexity"], rel=1e-5)


def test_no_pickle_is_written_or_read(config, tmp_path, monkeypatch, interrupted):
    def forbidden(*args, **kwargs):
        raise AssertionError("a pickle was touched")

    monkeypatch.setattr(torch, "save", forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    folder = interrupted(config, tmp_path / "run", step=8)
    endings = {path.suffix for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert endings == {".json", ".jsonl", ".safetensors"}
    assert train(config, folder, progress="none").finished


# Losses are exact


@pytest.mark.parametrize(("batch_size", "accumulate"), [(1000, 1), (5, 1000)])
def test_losses_are_means_over_tokens(config, tiny_tokenizer, tiny_texts, tmp_path, batch_size, accumulate):
    """One step over the whole corpus, in one batch or in many of which the last is smaller."""
    once = dataclasses.replace(
        config, steps=1, batch_size=batch_size, accumulate=accumulate, dropout=0.0, learning_rate=0.0
    )
    base, step, after = train(once, tmp_path / "run", progress="none").history
    model = build_model("gpt2", config.base, tiny_tokenizer)

    def mean(texts: list[str]) -> tuple[float, float]:
        blocks = pack(texts, tiny_tokenizer, config.block_size, progress=False)
        ids = torch.stack([blocks[i]["input_ids"] for i in range(len(blocks))])
        with torch.no_grad():
            logits = model(ids).logits[:, :-1].flatten(0, 1)
        targets = ids[:, 1:].flatten()
        return F.cross_entropy(logits, targets).item(), (logits.argmax(-1) == targets).float().mean().item()

    assert step["loss"] == pytest.approx(mean(tiny_texts[:44])[0], abs=2e-6)
    loss, accuracy = mean(tiny_texts[44:52])
    for row in (base, after):  # the learning rate is 0
        assert row["validation_loss"] == pytest.approx(loss, abs=2e-6)
        assert row["validation_accuracy"] == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(1000, 1), (3, 1000)])
def test_losses_of_padded_examples_are_means_over_their_own_tokens(
    config, tiny_tokenizer, tiny_texts, tmp_path, batch_size, accumulate
):
    """Documents of very different lengths, in batches of which the last is smaller; padding counts nowhere."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    splits = {"train": tiny_texts[:7], "validation": tiny_texts[7:14], "test": tiny_texts[14:17]}
    splits = {name: [text[: 1 + 20 * i] for i, text in enumerate(texts)] for name, texts in splits.items()}
    for name, texts in splits.items():
        (folder / f"{name}.txt").write_text("\n".join(texts) + "\n")
    once = dataclasses.replace(
        config, corpus=str(folder), examples="padded", steps=1, batch_size=batch_size, accumulate=accumulate,
        dropout=0.0, learning_rate=0.0,
    )  # fmt: skip
    history = train(once, tmp_path / "run", progress="none").history
    model = build_model("gpt2", config.base, tiny_tokenizer)
    end = tiny_tokenizer.eos_token_id

    def mean(texts: list[str]) -> tuple[float, float, int]:
        losses, hits = [], []
        for text in texts:  # one by one, without padding
            ids = tiny_tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[end, *ids, end][: config.block_size]])
            with torch.no_grad():
                logits = model(ids).logits[0, :-1]
            losses.append(F.cross_entropy(logits, ids[0, 1:], reduction="none"))
            hits.append(logits.argmax(-1) == ids[0, 1:])
        tokens = sum(map(len, losses)) + len(texts)
        return torch.cat(losses).mean().item(), torch.cat(hits).float().mean().item(), tokens

    loss, _, tokens = mean(splits["train"])
    (step,) = (row for row in history if "loss" in row)
    assert step["loss"] == pytest.approx(loss, abs=2e-6)
    assert step["tokens"] == tokens
    loss, accuracy, _ = mean(splits["validation"])
    assert history[-1]["validation_loss"] == pytest.approx(loss, abs=2e-6)
    assert history[-1]["validation_accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_padded_runs_say_what_was_cut_and_go_on_where_they_were_stopped(config, tmp_path, capfd, interrupted):
    padded = dataclasses.replace(config, examples="padded", recipe="softemax")
    whole = train(padded, tmp_path / "whole")
    assert "44 of 44 documents are longer than 32 tokens and were cut" in capfd.readouterr().out
    folder = interrupted(padded, tmp_path / "stopped", step=8)
    assert rows(train(padded, folder, progress="none")) == rows(whole)


def test_gradient_checkpointing_changes_memory_and_not_losses(undisturbed, config, tmp_path):
    run = train(dataclasses.replace(config, gradient_checkpointing=True), tmp_path / "run", progress="none")
    assert rows(run) == rows(undisturbed)


def test_bf16_trains_to_nearly_the_same_losses(undisturbed, config, tmp_path):
    run = train(dataclasses.replace(config, precision="bf16", steps=4), tmp_path / "run", progress="none")
    ours, exact = (next(row["loss"] for row in each.history if "loss" in row) for each in (run, undisturbed))
    assert ours == pytest.approx(exact, abs=0.02) and ours != exact


def test_only_matrices_decay(tiny_base, tiny_tokenizer):
    model = build_model("sink", str(tiny_base), tiny_tokenizer)
    decayed = training.RunTrainer.get_decay_parameter_names(training.RunTrainer.__new__(training.RunTrainer), model)
    assert "transformer.h.0.attn.c_attn.weight" in decayed
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    assert "transformer.h.0.attn.log_sink" in shapes
    assert {shapes[name] for name in decayed} == {2}


def test_the_clock_stands_still_during_validation(config, tmp_path, monkeypatch):
    hits = stepping.hits_of

    def slow(*batch, **options):
        time.sleep(0.5)
        return hits(*batch, **options)

    monkeypatch.setattr(stepping, "hits_of", slow)
    run = train(dataclasses.replace(config, steps=4, eval_every=2), tmp_path / "run", progress="none")
    assert run.metrics["train_seconds"] < 0.5


# Killed, and started again

KILLED = """
    import json, os, signal, sys
    import gc
    import curvekit.training.checkpoints as checkpoints
    import curvekit.training.texts as of_text
    import curvekit.training.trainer as training

    gc.freeze()
    config, folder = training.RunConfig.from_dict(json.loads(sys.argv[1])), sys.argv[2]

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    def at_step(step):
        return lambda row: die() if row["step"] == step and "loss" in row else None

    def while_writing(name, nth, cut):
        # In the middle of the nth such file, which is left with `cut` of its bytes.
        original, calls = checkpoints.save_state, []
        def write(path, state):
            original(path, state)
            calls.append(path)
            if path.name == name and len([p for p in calls if p.name == name]) == nth:
                os.truncate(path, int(path.stat().st_size * cut))
                die()
        checkpoints.save_state = write

    plans = [  # each process does one of these, and the last none
        lambda: at_step(1),                                       # before the first checkpoint
        lambda: at_step(3),                                       # a step is logged, its checkpoint is not begun
        lambda: while_writing("optimizer.safetensors", 1, 0.5),   # the very first checkpoint
        lambda: at_step(5),
        lambda: while_writing("rng.safetensors", 1, 0.0),         # a later one
        lambda: at_step(8),                                       # second epoch
        lambda: at_step(12),                                      # the last step, before its checkpoint
        lambda: setattr(training, "_save_model", die),            # the last checkpoint is there, no model yet
        lambda: setattr(training, "evaluate", die),               # the model is there
        lambda: setattr(of_text, "text_metrics", die),            # scores are there, no metrics
        lambda: None,
    ]
    for plan in plans:
        process = os.fork()  # a process of its own; forking saves importing torch each time
        if not process:
            on_row = plan()
            training.train(config, folder, progress="none", on_row=on_row)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_step_and_started_again_it_ends_with_the_same_losses(undisturbed, config, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(KILLED)]
    arguments = [json.dumps(config.to_dict()), str(tmp_path / "run")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["-9"] * 10 + ["0"], done.stdout + done.stderr
    run = load_run(tmp_path / "run")
    assert rows(run) == rows(undisturbed)
    assert run.samples == undisturbed.samples
    clocks = {"train_seconds", "tokens_per_second"}
    assert {k: v for k, v in run.metrics.items() if k not in clocks} == {
        k: v for k, v in undisturbed.metrics.items() if k not in clocks
    }


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "trainer_state.json"]
)
def test_a_checkpoint_that_was_cut_off_is_passed_over_with_a_warning(undisturbed, config, tmp_path, name, interrupted):
    folder = interrupted(config, tmp_path / "run", step=8)
    last = folder / "checkpoints" / "checkpoint-6"
    os.truncate(last / name, (last / name).stat().st_size // 2)
    with pytest.warns(UserWarning, match=r"checkpoint-6 was cut off .*; that of step 3 is used"):
        run = train(config, folder, progress="none")
    assert rows(run) == rows(undisturbed)


def test_an_early_checkpoint_that_was_cut_off_does_not_hide_the_later_one(config, tmp_path, interrupted):
    folder = interrupted(config, tmp_path / "run", step=8)
    (folder / "checkpoints" / "checkpoint-3" / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"checkpoint-3 was cut off .*; that of step 6 is used"):
        assert checkpoints.last_whole_checkpoint(folder / "checkpoints").name == "checkpoint-6"


def test_a_run_that_lost_its_history_is_not_filed_under_other_settings(undisturbed, config, tmp_path, interrupted):
    folder = interrupted(config, tmp_path / "run", step=8)
    (folder / "history.jsonl").unlink()
    with pytest.raises(CurvekitError, match="holds another run: its seed is"):
        train(dataclasses.replace(config, seed=config.seed + 1), folder, progress="none")
    with pytest.warns(UserWarning, match="lost the history of its checkpoints; training begins anew"):
        assert rows(train(config, folder, progress="none")) == rows(undisturbed)


def test_a_run_goes_on_with_another_interval_between_checkpoints(config, tmp_path, interrupted, monkeypatch):
    folder = interrupted(config, tmp_path / "run", step=7)
    monkeypatch.setattr(training, "_clear", lambda folder: None)
    train(dataclasses.replace(config, save_every=2, keep_checkpoints=9), folder, progress="none")
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept >= {"checkpoint-8", "checkpoint-10", "checkpoint-12"}
    monkeypatch.undo()
    train(dataclasses.replace(config, save_every=2, keep_checkpoints=9), folder, progress="none")
    assert not (folder / "checkpoints").exists(), "what a kill at the very end leaves goes with the next call"


def test_every_state_comes_back_from_a_file_as_it_went_in(tmp_path):
    import random

    state = {0: {"step": torch.tensor(3.0), "average": torch.randn(2, 3)}, "list": [1, None, (2.5, "x", True)]}
    state |= {"python": random.getstate(), "empty": {}, "none": torch.zeros(0)}
    checkpoints.save_state(tmp_path / "state.safetensors", state)
    back = checkpoints.load_state(tmp_path / "state.safetensors")
    assert back["list"] == state["list"] and back["python"] == state["python"] and back["empty"] == {}
    for name in ("step", "average"):
        assert torch.equal(back[0][name], state[0][name])


def test_patience_stops_keeps_the_best_and_is_not_forgotten_by_a_resume(config, tmp_path, monkeypatch, interrupted):
    hasty = dataclasses.replace(config, steps=40, learning_rate=0.3, clip=0.0, eval_every=2, patience=2)
    run = train(hasty, tmp_path / "whole", progress="none")
    losses = {row["step"]: row["validation_loss"] for row in run.history if "validation_loss" in row}
    best = min(losses, key=losses.__getitem__)
    assert run.metrics["steps"] == best + 4 < 40
    assert run.metrics["kept_step"] == run.metrics["best_step"] == best

    model, tokenizer = run.model(), run.tokenizer()
    texts = (Path(config.corpus) / "validation.txt").read_text().splitlines()
    blocks = pack(texts, tokenizer, config.block_size, progress=False)
    ids = torch.stack([blocks[i]["input_ids"] for i in range(len(blocks))])
    with torch.no_grad():
        loss = F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
    assert loss == pytest.approx(losses[best], rel=1e-5)

    folder = interrupted(hasty, tmp_path / "stopped", step=best + 3)  # one bad validation has been counted
    folder = folder.rename(tmp_path / "moved")
    with monkeypatch.context() as patch:
        patch.setattr(training, "_save_model", stop)
        with pytest.raises(Stopped):  # after the last checkpoint, before the model
            train(hasty, folder, progress="none")
    again = train(hasty, folder, progress="none")
    assert rows(again) == rows(run)
    assert again.metrics["loss"] == run.metrics["loss"]


def test_a_finished_run_returns_at_once_and_stays_as_it_is(undisturbed, config, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("it did something")

    for name in ("material_of", "fit", "evaluate"):
        monkeypatch.setattr(training, name, forbidden)
    before = {path: path.stat().st_mtime_ns for path in undisturbed.folder.rglob("*")}
    again = train(config, undisturbed.folder)
    assert again.metrics == undisturbed.metrics
    assert {path: path.stat().st_mtime_ns for path in undisturbed.folder.rglob("*")} == before


# What a user can get wrong


def test_a_folder_of_another_configuration_names_what_differs(undisturbed, config):
    other = dataclasses.replace(config, steps=13, recipe="softemax", keep_checkpoints=5)
    with pytest.raises(CurvekitError, match="its recipe is 'gpt2', not 'softemax'; its steps is 12, not 13;"):
        train(other, undisturbed.folder)
    assert load_run(undisturbed.folder).metrics == undisturbed.metrics


def test_two_processes_cannot_train_in_one_folder(config, tmp_path):
    with training.claimed(config, tmp_path / "run"):
        probe = "import sys, json; from curvekit.training.runs import *; from pathlib import Path\n"
        probe += "with claimed(RunConfig(**json.loads(sys.argv[1])), Path(sys.argv[2])): print('claimed')"
        command = [sys.executable, "-c", probe, json.dumps(config.to_dict()), str(tmp_path / "run")]
        second = subprocess.run(command, capture_output=True, text=True)
    assert "CurvekitError: another process trains in" in second.stderr
    assert subprocess.run(command, capture_output=True, text=True).stdout == "claimed\n"


def test_a_corpus_that_changed_is_not_mixed_into_a_run(config, tmp_path, interrupted):
    shutil.copytree(config.corpus, tmp_path / "corpus")
    here = dataclasses.replace(config, corpus=str(tmp_path / "corpus"))
    interrupted(here, tmp_path / "run", step=2)
    with (tmp_path / "corpus" / "train.txt").open("a") as file:
        file.write("One more story.\n")
    with pytest.raises(CurvekitError, match=r"the corpus has changed since .* \(its train texts\)"):
        train(here, tmp_path / "run")


def test_a_folder_with_other_files_is_left_alone(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("\\documentclass{article}")
    with pytest.raises(CurvekitError, match=r"is no run's folder, it holds thesis\.tex"):
        train(config, tmp_path)


def test_a_folder_that_cannot_be_written_is_one_sentence(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CurvekitError, match=r"file is a file; name a folder"):
        train(config, tmp_path / "file" / "run")


def test_a_full_disk_is_one_sentence_and_loses_nothing(undisturbed, config, tmp_path, interrupted):
    """A limit on the size of files stands in for the disk; the weights are larger, everything else smaller."""
    limits, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    folder = interrupted(config, tmp_path / "run", step=5)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(CurvekitError, match=r"cannot write into .*; free some space"):
            train(config, folder, progress="none")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, action)
    with pytest.warns(UserWarning, match="checkpoint-6 was cut off"):
        run = train(config, folder, progress="none")
    assert rows(run) == rows(undisturbed)


def test_a_loss_that_is_not_a_number_stops_the_run(config, tmp_path):
    wild = dataclasses.replace(config, learning_rate=1e18, clip=0.0, warmup=0.0)
    with pytest.raises(CurvekitError, match=r"the loss is (nan|inf) at step .* lower learning_rate"):
        train(wild, tmp_path / "run", progress="none")


def test_a_place_that_is_not_finite_stops_the_run_and_is_named(config, tmp_path, monkeypatch):
    wanted, steps = dataclasses.replace(config, recipe="curve3-places"), itertools.count(1)
    step = stepping.RunTrainer.training_step

    def spoiled(self, model, *rest, **named):
        loss = step(self, model, *rest, **named)
        if next(steps) == 3:
            model.curved.curve.place_logit.grad[0] = float("inf")
        return loss

    monkeypatch.setattr(stepping.RunTrainer, "training_step", spoiled)
    with pytest.raises(
        CurvekitError, match=r"the loss is [\d.]+ at step 3, and \S+place_logit is not finite: .* lower"
    ):
        train(wanted, tmp_path / "run", progress="none")
    assert [row["step"] for row in load_run(tmp_path / "run").history if "loss" in row] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 65}, "block_size is 65, longer than the 64 positions"),
        ({"context_eval": 100}, "context_eval is 100, longer than the 64 positions"),
        ({"sample_tokens": 64}, "sample_tokens is 64, longer than the 64 positions .* give at most 63"),
    ],
)
def test_nothing_is_longer_than_the_models_positions(config, tmp_path, changes, message):
    with pytest.raises(CurvekitError, match=message):
        train(dataclasses.replace(config, **changes), tmp_path / "run", progress="none")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("recipe", "curv", "unknown recipe 'curv'; did you mean 'curve'"),
        ("corpus", "wikitext2", "unknown corpus 'wikitext2'; did you mean 'wikitext-2'"),
        ("corpus", "missing.txt", r"there is no file or folder .missing\.txt"),
        ("base", "gtp2", "unknown base 'gtp2'; did you mean 'gpt2'"),
        ("context", "casual", "unknown context 'casual'; did you mean 'causal'"),
        ("precision", "fp8", "unknown precision 'fp8'"),
        ("track", "wandbb", "unknown track 'wandbb'; did you mean 'wandb'"),
        ("steps", 0, "steps is 0; give 1 or more"),
        ("steps", "many", "steps is 'many'; give a whole number"),
        ("steps", True, "steps is True; give a whole number"),
        ("learning_rate", -1.0, "learning_rate is -1.0; give 0 or more"),
        ("learning_rate", math.nan, "learning_rate is nan"),
        ("dropout", 1.0, r"dropout is 1\.0; give at most 0\.9"),
        ("compile", "yes", "compile is 'yes'; give true or false"),
        ("model", "degree=2", "model is 'degree=2'; give a mapping"),
        ("stride", 300, "stride is 300 and would skip tokens; give at most 256"),
        ("eval_documents", 0, "eval_documents is 0; give 1 or more"),
    ],
)
def test_a_bad_setting_is_one_clear_sentence(name, value, message):
    with pytest.raises(CurvekitError, match=message):
        RunConfig(**{name: value}).validate()


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(CurvekitError, match="unknown setting 'batchsize'; did you mean 'batch_size'"):
        RunConfig.from_dict({"batchsize": 3})


def test_fp16_needs_a_gpu(config, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CurvekitError, match="precision is 'fp16', which needs a GPU"):
        train(dataclasses.replace(config, precision="fp16"), tmp_path / "run", progress="none")


def test_a_tuple_is_the_list_that_its_file_holds():
    config = RunConfig(model={"channels": ("point", "tangent")})
    assert config.differences(RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))) == []


def test_the_defaults_are_valid_and_every_setting_explains_itself():
    assert RunConfig().validate() == RunConfig()
    for setting in dataclasses.fields(RunConfig):
        assert len(setting.metadata["help"]) > 5, setting.name


def test_the_fingerprint_follows_results_and_not_paths():
    same = {"data_dir": "/elsewhere", "track": "wandb", "save_every": 7, "keep_checkpoints": 9}
    assert RunConfig(**same).fingerprint() == RunConfig().fingerprint()
    for change in ({"seed": 1}, {"steps": 301}, {"model": {"degree": 3}}, {"context": "causal"}):
        assert RunConfig(**change).fingerprint() != RunConfig().fingerprint(), change


def test_a_folder_without_a_run_is_one_sentence(tmp_path):
    with pytest.raises(CurvekitError, match="there is no run in"):
        load_run(tmp_path)


def test_an_unfinished_run_says_so(config, tmp_path, interrupted):
    run = load_run(interrupted(config, tmp_path / "run", step=2))
    with pytest.raises(CurvekitError, match="is not finished; give its command again"):
        run.metrics  # noqa: B018
    with pytest.raises(CurvekitError, match="has no model yet"):
        run.model()


# Who watches


def test_a_leaking_recipe_warns_and_every_figure_says_so(config, tmp_path):
    cheat = dataclasses.replace(config, recipe="self-curve", model={"window": "centred"}, steps=2)
    with pytest.warns(LeakWarning, match="'self-curve' sees the tokens it is to predict"):
        run = train(cheat, tmp_path / "run", progress="none")
    assert run.metrics["leaks"] is True and run.metrics["validation"]["leaks"] is True
    assert run.scores("validation").leaks is True


def test_a_log_gets_plain_lines(config, tmp_path, capfd):
    train(config, tmp_path / "run")  # pytest's streams are no terminal
    out, err = capfd.readouterr()
    assert "run: 12 steps\n" in out and "step 12/12  validation loss" in out and "test perplexity" in out
    assert "\r" not in out + err and "\x1b" not in out + err
    assert len(out.splitlines()) < 30


def test_a_terminal_gets_a_bar(config, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # another test's
    train(config, tmp_path / "run")
    out, err = capfd.readouterr()
    assert "12/12" in err and "validation=" in err and "perplexity=" in err
    assert "step 1/" not in out


def test_a_notebook_gets_a_widget_only_where_a_server_started_it(monkeypatch):
    from curvekit.training import tracking

    monkeypatch.setitem(sys.modules, "ipykernel", object())
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert tracking._looked_at() == "lines"
    monkeypatch.setenv("JPY_SESSION_NAME", "03_fine_tuning.ipynb")
    assert tracking._looked_at() == "bar"


@pytest.mark.slow
def test_an_offline_wandb_run_holds_losses_metrics_and_samples_by_name_also_after_a_resume(
    config, tmp_path, monkeypatch, interrupted
):
    tracked = dataclasses.replace(config, track="wandb", wandb_mode="offline")
    folder = interrupted(tracked, tmp_path / "run", step=8)
    markup = "<script>alert(1)</script>"
    monkeypatch.setattr(of_text, "generate", lambda model, tokenizer, prompts, **_: [markup] * len(prompts))
    run = train(tracked, folder, progress="none")

    first, last = sorted((folder / "wandb").glob("offline-run-*"))
    assert first.name.rpartition("-")[2] == last.name.rpartition("-")[2]  # the same run
    logged = history(last)
    deadline = time.monotonic() + 30
    while "samples.path" not in logged.get(12, {}) and time.monotonic() < deadline:
        time.sleep(0.2)  # wandb's own process closes the file a little after its finish() returns
        logged = history(last)
    for row in run.history:
        for name in row.keys() - {"step"}:
            assert logged[row["step"]][name] == pytest.approx(row[name]), (row["step"], name)
    for name in ("perplexity", "token_accuracy", "bleu", "bits_per_byte", "word_perplexity"):
        assert logged[12][name] == pytest.approx(run.metrics[name])
    table = json.loads((last / "files" / logged[12]["samples.path"]).read_text())
    assert table["columns"] == ["prompt", "continuation", "reference"]
    assert table["data"][0][1] == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert len(table["data"]) == len(run.samples)


def test_tensorboard_holds_the_same_names(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(dataclasses.replace(config, track="tensorboard"), tmp_path / "run", progress="none")
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([row["loss"] for row in run.history if "loss" in row])
    for name in ("perplexity", "token_accuracy", "bleu"):
        assert events.Scalars(name)[-1].value == pytest.approx(run.metrics[name])
    assert "samples/0/text_summary" in events.Tags()["tensors"]


@pytest.mark.parametrize(("track", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_tracker_says_what_to_install(config, tmp_path, monkeypatch, track, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CurvekitError, match=f"track is '{track}', which is not installed; pip install"):
        train(dataclasses.replace(config, track=track), tmp_path / "run", progress="none")


def test_recipes_of_one_seed_see_the_same_blocks_in_the_same_order(undisturbed, config, tmp_path):
    """A gate that starts at zero makes a curve recipe the plain GPT-2 before the first step."""
    run = train(dataclasses.replace(config, recipe="self-curve", steps=12), tmp_path / "run", progress="none")
    ours, plain = ([row for row in each.history if row["step"] <= 1] for each in (run, undisturbed))
    assert ours[0]["validation_loss"] == pytest.approx(plain[0]["validation_loss"], abs=1e-6)
    assert ours[1]["loss"] == pytest.approx(plain[1]["loss"], abs=1e-6)
    tokens = [[row["tokens"] for row in each.history if "loss" in row] for each in (run, undisturbed)]
    assert tokens[0] == tokens[1]
    assert all(a < b for a, b in itertools.pairwise(tokens[0]))
