"""Several processes: the losses of one, one that writes and talks, and none that is left behind."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from several import free_port, launch, start

from curvekit.bases.adapters import is_adapted
from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.files import read_jsonl, write_json
from curvekit.training.processes import share_of_batch
from curvekit.training.runs import load_run
from curvekit.training.scoring import deal
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")


@pytest.fixture(scope="module")
def config(tiny_base, tiny_corpus):
    return RunConfig(
        recipe="self-curve", base=str(tiny_base), corpus=str(tiny_corpus), steps=7, block_size=32, batch_size=4,
        eval_every=3, save_every=3, sample_prompts=1, prompt_tokens=4, sample_tokens=4, validation_documents=5,
        eval_documents=5, precision="float32",
    )  # fmt: skip


def command(config: RunConfig, folder: Path, tmp_path: Path, *flags: str) -> list[str]:
    write_json(tmp_path / "settings.json", config.to_dict())
    return ["train", "--config", str(tmp_path / "settings.json"), "--out", str(folder), *flags]


def together(config, tmp_path, *flags: str, world: int = 2, name: str = "two"):
    """The run of several processes, and what each said."""
    codes, said = launch(tmp_path, [command(config, tmp_path / name, tmp_path, *flags)] * world)
    assert codes == [0] * world, said
    return load_run(tmp_path / name), said


def same(one, other, tolerance: float = 1e-5) -> None:
    """Every loss of two runs agrees, in training, in validation and in the scores."""
    assert [row["step"] for row in one.history] == [row["step"] for row in other.history]
    for a, b in zip(one.history, other.history, strict=True):
        for name in ("loss", "validation_loss", "validation_accuracy"):
            assert (name in a) == (name in b)
            assert a.get(name, 0) == pytest.approx(b.get(name, 0), rel=tolerance), (name, a, b)
        assert a.get("tokens") == b.get("tokens")
    for name in ("loss", "bits_per_byte", "token_accuracy"):
        assert one.metrics[name] == pytest.approx(other.metrics[name], rel=tolerance)
    assert one.metrics["signature"] == other.metrics["signature"]
    kept, others = one.scores("test"), other.scores("test")
    assert kept.tokens.tolist() == others.tokens.tolist()
    assert [each["tokens"] for each in kept.token_nll] == [each["tokens"] for each in others.token_nll]


ALL, PARTS = "each with all weights", "each with a part of the weights"
VARIANTS = {
    "documents of different lengths, two batches a step": (
        ALL, {"examples": "padded", "accumulate": 2, "batch_size": 2}
    ),
    "curves in the blocks and learned sinks, checkpointed": (
        PARTS, {"recipe": "self-curve3+sites", "model": {"attention": "sink"}, "gradient_checkpointing": True},
    ),
    "muon, one rate more, two batches a step": (
        PARTS, {"recipe": "smear", "optimizer": "muon", "added_rate": 2.0, "scratch": True, "accumulate": 2},
    ),
    "compiled, curve and SoftEMax": (PARTS, {"recipe": "curve+softemax", "compile": True}),
    "an adapter": (PARTS, {"adapter": "lora", "rank": 2}),
}  # fmt: skip


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=pytest.mark.long if "compiled" in name else ()) for name in VARIANTS]
)
def test_two_processes_have_the_losses_of_one(config, tmp_path, variant):
    kept, settings = VARIANTS[variant]
    config = dataclasses.replace(config, **settings)
    one = train(config, tmp_path / "one", progress="none")
    two, (first, second) = together(dataclasses.replace(config, shard=kept == PARTS), tmp_path)
    same(one, two)
    assert f"2 processes, {kept}" in first and not second, "only the first process talks"
    model = two.model()
    assert is_adapted(model) or model.lm_head.weight is model.transformer.wte.weight


def test_a_killed_process_ends_all_with_a_sentence_and_another_number_goes_on(config, tmp_path):
    config = dataclasses.replace(config, steps=60, eval_every=30, save_every=2)
    one = train(config, tmp_path / "one", progress="none")
    folder = tmp_path / "two"
    arguments = command(config, folder, tmp_path, "--shard", "true", "--keep-checkpoints", "3")
    first, second = start(tmp_path, [arguments] * 2)
    until = time.monotonic() + 300
    while len(read_jsonl(folder / "history.jsonl", whole=False)) < 6 and time.monotonic() < until:
        time.sleep(0.02)
    second.kill()
    first.join(300)
    said = (tmp_path / "rank0.txt").read_text()
    assert first.exitcode == 2 and "another of the 2 processes of this run has ended" in said, said
    assert not (folder / "metrics.json").exists()
    assert any((folder / "checkpoints").glob("checkpoint-*")), "there is something to go on from"
    same(one, train(config, folder, progress="none"))


def test_two_processes_go_on_where_one_was_stopped(config, tmp_path, interrupted):
    one = train(config, tmp_path / "one", progress="none")
    interrupted(config, tmp_path / "two", step=5)
    two, (first, _) = together(dataclasses.replace(config, shard=True), tmp_path)
    assert "goes on after step 3" in first
    same(one, two)


def test_processes_with_other_texts_are_refused(config, tiny_corpus, tmp_path):
    config = dataclasses.replace(config, corpus="words")
    for name in ("here", "there"):
        shutil.copytree(tiny_corpus, tmp_path / name / "words")
    with (tmp_path / "there" / "words" / "train.txt").open("a") as file:
        file.write("One line more.\n")
    arguments = [
        command(config, tmp_path / "run", tmp_path, "--data-dir", str(tmp_path / name)) for name in ("here", "there")
    ]
    codes, (first, second) = launch(tmp_path, arguments)
    assert codes == [2, 2]
    assert "the processes see different corpora" in first and not second
    assert not (tmp_path / "run" / "metrics.json").exists()


def launched(monkeypatch, **numbers: int) -> None:
    for name, number in numbers.items():
        monkeypatch.setenv(name, str(number))


def test_more_processes_than_devices_are_refused(config, tmp_path, monkeypatch):
    launched(monkeypatch, RANK=0, WORLD_SIZE=4096, LOCAL_RANK=0, LOCAL_WORLD_SIZE=4096)
    with pytest.raises(CurvekitError, match="started 4096 processes on a machine of"):
        train(config, tmp_path / "run")


def test_processes_that_no_launcher_started_are_told_so(config, tmp_path, monkeypatch):
    launched(monkeypatch, RANK=0, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(CurvekitError, match="the 2 processes cannot meet .*start them with torchrun"):
        train(config, tmp_path / "run")


def test_what_is_the_work_of_one_process_says_so(monkeypatch, capsys):
    launched(monkeypatch, RANK=0, WORLD_SIZE=2)
    assert main(["compare", "a", "b"]) == 2
    assert "compare is the work of one process" in capsys.readouterr().err


def test_a_launcher_that_shards_by_itself_is_refused(config, tmp_path, monkeypatch):
    launched(monkeypatch, RANK=0, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(CurvekitError, match="give curvekit the setting --shard true"):
        train(config, tmp_path / "run")


def test_a_step_is_dealt_out_evenly_or_not_at_all():
    assert share_of_batch(8, 3, 1) == (8, 3)
    assert share_of_batch(8, 3, 2) == (4, 3)
    assert share_of_batch(8, 3, 3) == (8, 1)
    with pytest.raises(CurvekitError, match="5 processes cannot share the 3 x 8 blocks .*; start 1, 2, 3, 4, 8, or"):
        share_of_batch(8, 3, 5)


def test_documents_are_dealt_out_once_each():
    shares = deal([5, 1, 9, 3, 3, 8], 3)
    assert sorted(i for share in shares for i in share) == list(range(6))
    assert max(sum([5, 1, 9, 3, 3, 8][i] for i in share) for share in shares) <= 11


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_the_launchers_run_the_command_of_one_process(config, tmp_path, launcher):
    one = train(config, tmp_path / "one", progress="none")
    programs = {
        "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"],
        "accelerate": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
                       "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())],
    }  # fmt: skip
    words = [sys.executable, *programs[launcher], "-m", "curvekit", *command(config, tmp_path / "two", tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("bits per byte") == 1
    same(one, load_run(tmp_path / "two"))
