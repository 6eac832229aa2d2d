"""Killed, damaged, removed: a base that ships is whole at every moment, a run ends in an undisturbed one's figures."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.files import read_json, write_json, write_text
from curvekit.ownership import MARKER, broken, mark
from curvekit.training import cards, trainer
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train

MOMENTS = 30


@pytest.fixture(scope="module")
def config(tiny_base, tiny_corpus):
    return RunConfig(
        recipe="gpt2", base=str(tiny_base), corpus=str(tiny_corpus), steps=6, block_size=16, batch_size=2,
        eval_every=2, save_every=2, sample_prompts=1, prompt_tokens=4, sample_tokens=4, validation_documents=4,
        eval_documents=2, precision="float32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    return train(config, tmp_path_factory.mktemp("runs") / "undisturbed", progress="none")


# Damage


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "trainer_state.json", "config.json"]
)
def test_a_flipped_byte_in_a_checkpoint_changes_no_figure(undisturbed, config, tmp_path, interrupted, name):
    folder = interrupted(config, tmp_path / "run", step=5)
    path = folder / "checkpoints" / "checkpoint-4" / name
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"checkpoint-4 .*that of step 2 is used"):
        run = train(config, folder, progress="none")
    assert [row.get("loss") for row in run.history] == [row.get("loss") for row in undisturbed.history]
    assert run.metrics["perplexity"] == undisturbed.metrics["perplexity"]


def damaged(content: bytes, how: str) -> bytes:
    return {
        "flipped": content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        "zeros": bytes(len(content)),
        "cut": content[: len(content) // 2],
        "empty": b"",
        "text": b"something else",
    }[how]


@pytest.mark.parametrize("how", ["flipped", "zeros", "cut", "empty", "text"])
def test_a_damaged_token_stream_is_made_again(undisturbed, config, tmp_path, interrupted, how):
    folder = interrupted(config, tmp_path / "run", step=5)
    path = folder / "tokens" / "train.safetensors"
    path.write_bytes(damaged(path.read_bytes(), how))
    run = train(config, folder, progress="none")
    assert run.metrics["perplexity"] == undisturbed.metrics["perplexity"]


@pytest.mark.parametrize("name", ["tokens", "checkpoints"])
def test_a_kill_while_a_folder_of_a_run_is_marked_blocks_nothing(undisturbed, config, tmp_path, monkeypatch, name):
    class Killed(BaseException):
        pass

    def killed(folder, kind, *_):
        if kind == name:
            (folder / f".{MARKER}.0123abcd.curvekit").write_bytes(b'{"ki')
            raise Killed
        mark(folder, kind)

    monkeypatch.setattr(trainer, "mark", killed)
    with pytest.raises(Killed):
        train(config, tmp_path / "run", progress="none")
    monkeypatch.undo()
    assert train(config, tmp_path / "run", progress="none").metrics["perplexity"] == undisturbed.metrics["perplexity"]


def test_a_run_whose_folder_is_removed_says_so(config, tmp_path):
    folder = tmp_path / "run"

    def on_row(row):
        if row["step"] == 3:
            shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises(CurvekitError, match="was removed or moved while the run was trained"):
        train(config, folder, progress="none", on_row=on_row)
    assert not folder.exists(), "it is not made again behind the back of who removed it"


# Kills


def killed(work: Callable[[], object], near: Path, moment: int) -> bool:
    """Do the work in a child that is killed at its ``moment``-th file operation near a path; False: it ended."""
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(event: str, arguments: tuple) -> None:
            nonlocal seen
            if arguments and isinstance(arguments[0], str | os.PathLike) and str(near) in str(arguments[0]):
                seen += 1
                if seen == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def data(tiny_texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("books", "stories", "wikitext-2"):
        (folder / name).mkdir()
    dice = random.Random(0)
    tales, novels = ([" ".join(dice.sample(words, len(words))) for words in map(str.split, tiny_texts)] for _ in "ab")
    (folder / "books" / "one.txt").write_text("\n".join(novels))
    (folder / "stories" / "stories.txt").write_text(
        "".join(f"<sos> Tale {i} <nl> {text} <eos>\n" for i, text in enumerate(tales))
    )
    for split, first in (("train", 0), ("valid", 3), ("test", 6)):
        articles = (f" = Title {i} = \n\n An article : {tiny_texts[i]}\n\n" for i in range(first, first + 3))
        (folder / "wikitext-2" / f"{split}.txt").write_text("".join(articles))
    return folder


def pretraining(data: Path, out: Path) -> list[str]:
    return [
        "pretrain", "--data-dir", str(data), "--out", str(out), "--name", "tiny", "--vocabulary", "300", "--steps", "2",
        "--eval-every", "2", "--block-size", "32", "--batch-size", "2", "--compile", "false", "--sample-prompts", "0",
        "--precision", "float32", "--validation-documents", "2", "--eval-documents", "2",
        "--model", "n_layer=1", "n_embd=16", "n_head=2", "n_positions=64",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert main(pretraining(data, out)) == 0
    return out


def is_whole(base: Path) -> bool:
    with safe_open(base / "model.safetensors", "pt") as file:
        tensors = len(file.keys())
    return tensors > 10 and broken(base, only=True) is None and read_json(base / "config.json")["n_layer"] == 1


@pytest.mark.slow
def test_a_base_that_ships_is_whole_at_thirty_moments_of_a_kill(pretrained, data, tmp_path, monkeypatch):
    card = {"edition": "old"}

    def write_card(run, folder, *_):  # what it measures takes minutes, and writes no other files
        write_json(
            folder / "card.json", dict.fromkeys(("parameters", "figures", "tried", "training", "sources")) | card
        )
        write_text(folder / "README.md", "pretrained for curvekit")

    monkeypatch.setattr(cards, "_write_card", write_card)
    rows = cards.gather(data)
    monkeypatch.setattr(cards, "gather", lambda _: rows)
    base = tmp_path / "assets" / "base"
    command = [*pretraining(data, pretrained), "--ship", str(base)]
    theirs = [tmp_path / "assets" / name / "photo" for name in (".base.old", ".base.new")]
    for path in theirs:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    assert main(command) == 0 and is_whole(base)

    moment, found = 0, []
    whole = shutil.copytree(base, tmp_path / "whole")
    card["edition"] = "new"
    while killed(lambda: main(command), base.parent, moment := moment + 1):
        left = [path.name for path in base.parent.iterdir() if "curvekit" in path.name]
        assert base.exists() or any(name.endswith(("-old", "-new")) for name in left), "there is no base any more"
        found.append(bool(left))
        cards.require_place(base)  # with which the command begins, too
        assert is_whole(base)
        assert sorted(path.name for path in base.parent.iterdir()) == [".base.new", ".base.old", "base"]
        assert json.loads((base / "card.json").read_text())["edition"] in ("old", "new")
        if moment % 10 == 0:
            assert main(command) == 0 and is_whole(base), "the command does not go on"
        shutil.rmtree(base)
        shutil.copytree(whole, base)
    assert moment > MOMENTS and any(found)
    assert read_json(base / "card.json")["edition"] == "new"
    assert all(path.read_text() == "mine" for path in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 4, 9, 14, 20])
def test_a_kill_while_the_vocabulary_is_saved_blocks_nothing(data, pretrained, tmp_path, moment):
    out = tmp_path / "out"
    shutil.copytree(pretrained / "corpus", out / "corpus")
    assert killed(lambda: main(pretraining(data, out)), out / ".start-300", moment)
    assert main(pretraining(data, out)) == 0
    assert sorted(path.name for path in out.iterdir()) == ["corpus", "start-300", "tiny"]


def test_what_an_earlier_version_left_of_a_vocabulary_is_made_again(data, pretrained, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(pretrained / "corpus", out / "corpus")
    start = out / "start-300"
    start.mkdir()
    (start / "config.json").write_bytes(b"")  # killed while it was saved
    (start / "tokenizer.json").write_bytes((pretrained / "start-300" / "tokenizer.json").read_bytes()[:999])
    assert main(pretraining(data, out)) == 0


@pytest.mark.parametrize("name", ["start-400", "corpus", "../elsewhere", "a/b", "", ".."])
def test_a_run_s_name_is_none_of_what_lies_beside_it(name, data, pretrained, capsys):
    before = sorted(path.name for path in pretrained.iterdir())
    arguments = pretraining(data, pretrained)
    arguments[arguments.index("--name") + 1] = name
    assert main(arguments) == 2 and "the name" in capsys.readouterr().err
    assert sorted(path.name for path in pretrained.iterdir()) == before
