"""Bad input ends in one clear sentence and a non-zero exit, and nothing that existed is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curvekit.cli import main
from curvekit.evaluation.results import BEGIN, END

SHORT = ("--steps", "2", "--block-size", "32", "--batch-size", "2", "--eval-every", "2", "--sample-prompts", "0",
         "--precision", "float32")  # fmt: skip


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused; return the sentence."""

    def run(*argv: object) -> str:
        capsys.readouterr()
        try:
            status = main([str(word) for word in argv])
        except SystemExit as end:  # argparse's own refusals
            status = end.code
        said = capsys.readouterr().err
        sentences = [line for line in said.splitlines() if line.startswith("curvekit") and ": error: " in line]
        assert status == 2 and len(sentences) == 1 and said.splitlines()[-1] == sentences[0], said
        assert "Traceback" not in said
        return sentences[0]

    return run


@pytest.fixture
def train_argv(tiny_base, tiny_corpus):
    return ["train", "--recipe", "gpt2", "--base", str(tiny_base), "--corpus", str(tiny_corpus), *SHORT]


@pytest.fixture(scope="module")
def finished_run(tiny_base, tiny_corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    argv = ["train", "--recipe", "gpt2", "--base", tiny_base, "--corpus", tiny_corpus, *SHORT, "--out", folder]
    assert main([str(word) for word in argv]) == 0
    return folder


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Names


@pytest.mark.parametrize(
    ("command", "flag", "wrong", "near"),
    [
        ("train", "--recipe", "curv", "curve"),
        ("report", "--recipes", "gpt2,softmax", "softemax"),
        ("train", "--corpus", "wikitext2", "wikitext-2"),
        ("train", "--base", "gpt-2", "gpt2"),
        ("report", "--base", "gpt2-mediun", "gpt2-medium"),
        ("train", "--encoder", "minillm", "minilm"),
        ("train", "--track", "wandbb", "wandb"),
        ("train", "--context", "casual", "causal"),
        ("train", "--model", "degre=3", "degree"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_the_nearest(command, flag, wrong, near, refused, train_argv, tmp_path):
    argv = train_argv if command == "train" else ["report"]
    if flag == "--encoder":
        argv = [*argv, "--recipe", "curve"]
    sentence = refused(*argv, "--out", tmp_path / "new", flag, wrong)
    assert repr(near) in sentence, sentence
    assert not list((tmp_path / "new").rglob("*.safetensors"))


def test_a_refused_command_can_be_mended_in_the_same_folder(refused, train_argv, tiny_corpus, tmp_path):
    argv = [*train_argv, "--out", str(tmp_path / "run")]
    refused(*argv, "--model", "degre=3")
    refused(*argv, "--block-size", "65")
    assert main(argv) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "freeze=2"], "model holds 'freeze', which is a setting of its own"),
        (["--model", "place=NaN"], "give finite numbers"),
        (["--recipe", "curve", "--encoder", "data/encoders/bert"], "'data/encoders/bert' is not on this machine"),
        (["--base", "~/no such base"], "there is no "),
        (["--scratch", "--model", "n_head=abc"], "n_head is 'abc'; give a whole number"),
        (["--scratch", "--model", "n_layer=0"], "n_layer is 0; give 1 or more"),
        (["--model", "attn_pdrop=5"], "attn_pdrop is 5; give 0 or more, and less than 1"),
        (["--model", "base_is_random=false"], "unknown model setting 'base_is_random'"),
    ],
)
def test_what_no_model_can_be_built_from_is_refused(refused, train_argv, tmp_path, flags, said):
    assert said in refused(*train_argv, "--out", tmp_path / "run", *flags)


def test_a_tokeniser_that_was_cut_off_is_named(refused, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    os.truncate(run / "model" / "tokenizer.json", 99)
    assert "the tokeniser in" in (sentence := refused("evaluate", run)) and "not whole" in sentence


def test_a_setting_that_does_not_exist_is_answered_with_the_nearest(refused, tmp_path):
    (tmp_path / "config.json").write_text('{"learningrate": 1}')
    assert "'learning_rate'" in refused("train", "--config", tmp_path / "config.json")


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--steps", "0", "steps is 0; give 1 or more"),
        ("--learning-rate", "nan", "learning_rate is nan"),
        ("--warmup", "2", "warmup is 2.0; give at most 0.9"),
        ("--steps", "many", "invalid int value: 'many'"),
        ("--compile", "perhaps", "neither true nor false"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_expected(flag, value, expected, refused, tmp_path):
    assert expected in refused("train", "--out", tmp_path / "new", flag, value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["[1]", "{", "nothing"])
def test_a_settings_file_that_is_no_settings(text, refused, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in refused("train", "--config", tmp_path / "config.json")
    assert (tmp_path / "config.json").read_text() == text


def test_a_seed_that_is_no_number(refused, tmp_path):
    assert "seed is 'one'" in refused("report", "--seeds", "one", "--out", tmp_path / "new")


# Text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"  \n\n", "empty"),
        (b"\x7fELF\0\0\0\x01\0" * 50, "binary"),
        ("Der Fluß war tief.\n".encode("latin-1") * 50, "not UTF-8"),
    ],
    ids=["empty", "blank", "binary", "latin-1"],
)
def test_a_file_that_is_no_text(data, expected, refused, train_argv, tiny_base, tmp_path):
    (tmp_path / "text.txt").write_bytes(data)
    for argv in (["evaluate", tiny_base], [*train_argv, "--out", tmp_path / "run"]):
        sentence = refused(*argv, "--corpus", tmp_path / "text.txt")
        assert expected in sentence and "text.txt" in sentence
    assert (tmp_path / "text.txt").read_bytes() == data
    assert not (tmp_path / "run" / "model").exists()


def test_a_corpus_that_is_not_there(refused, tiny_base, tmp_path):
    assert "no file or folder" in refused("evaluate", tiny_base, "--corpus", tmp_path / "missing.txt")
    assert "no data folder" in refused(
        "evaluate", tiny_base, "--corpus", "wikitext-2", "--data-dir", tmp_path / "missing"
    )


def test_a_corpus_shorter_than_one_block(refused, train_argv, tmp_path):
    folder = tmp_path / "short"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        (folder / f"{split}.txt").write_text(f"A river, {split}.\n")
    sentence = refused(*train_argv, "--corpus", folder, "--out", tmp_path / "run")
    assert "block" in sentence and "32" in sentence, sentence


@pytest.mark.parametrize("source", ["missing", "binary", "blank"])
def test_prompts_that_cannot_be_read(source, refused, tiny_base, tmp_path):
    path = tmp_path / "prompts.txt"
    if source != "missing":
        path.write_bytes(b"\xff\xfe\0" if source == "binary" else b"\n \n")
    assert str(path) in refused("generate", tiny_base, "--file", path)


# Sizes


def test_a_context_longer_than_the_positions(refused, train_argv, tiny_base, tiny_corpus, tmp_path):
    sentence = refused("evaluate", tiny_base, "--corpus", tiny_corpus, "--context", "65")
    assert "65" in sentence and "64" in sentence
    sentence = refused(*train_argv, "--block-size", "65", "--out", tmp_path / "run")
    assert "65" in sentence and "64 positions" in sentence
    sentence = refused("generate", tiny_base, "x", "--tokens", "64")
    assert "64 positions" in sentence


def test_a_stride_that_would_skip_tokens(refused, train_argv, tiny_base, tiny_corpus, tmp_path):
    assert "skip" in refused("evaluate", tiny_base, "--corpus", tiny_corpus, "--context", "16", "--stride", "17")
    assert "skip" in refused(*train_argv, "--stride", "33", "--out", tmp_path / "run")


# Folders


def test_a_run_folder_of_another_configuration_is_left_alone(refused, train_argv, finished_run):
    before = contents(finished_run)
    sentence = refused(*train_argv, "--out", finished_run, "--steps", "3", "--seed", "1")
    assert "steps" in sentence and "seed" in sentence and str(finished_run) in sentence
    assert contents(finished_run) == before


def test_a_folder_with_other_files_is_left_alone(refused, train_argv, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "thesis.tex" in refused(*train_argv, "--out", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"thesis.tex", ".lock"}
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_folder_that_cannot_be_written(refused, train_argv, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert str(tmp_path / "file") in refused(*train_argv, "--out", tmp_path / "file" / "run")
    assert str(tmp_path / "file") in refused("report", "--out", tmp_path / "file" / "report")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_folder_that_holds_no_run(refused, finished_run, tmp_path):
    assert "no comparison" in refused("compare", tmp_path)
    assert "no run" in refused("compare", tmp_path, finished_run)
    (tmp_path / "config.json").write_text('{"recipe": "gpt2", "seed": 1}')
    assert "not finished" in refused("compare", finished_run, tmp_path)
    assert "no model yet" in refused("generate", tmp_path, "x")
    assert "holds no run, model or base" in refused("generate", tmp_path.parent, "x")
    assert "did you mean 'gpt2'" in refused("generate", "gpt2x", "x")


@pytest.mark.parametrize("content", ["[1]", "null", '"x"', "{"])
@pytest.mark.parametrize("name", ["config.json", "metrics.json", "scores-test.json"])
def test_a_file_of_a_run_that_holds_something_else_is_named(refused, finished_run, tmp_path, name, content):
    run = shutil.copytree(finished_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"seed": 1}))
    (run / name).write_text(content)
    assert name in refused("compare", finished_run, run)


def test_a_folder_in_place_of_a_settings_file(refused, tmp_path):
    assert f"cannot read {tmp_path}" in refused("train", "--config", tmp_path, "--out", tmp_path / "run")


def test_a_readme_without_marks_is_left_alone(refused, tmp_path, monkeypatch):
    monkeypatch.setattr("curvekit.cli.compare.results_block", lambda folder: "what was found")
    (tmp_path / "README.md").write_text(f"{END} {BEGIN}")
    assert "results:begin" in refused("compare", tmp_path, "--readme", tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == f"{END} {BEGIN}"


def test_a_full_disk_keeps_what_was_there_and_the_same_command_goes_on(refused, train_argv, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    argv = [*train_argv, "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr("curvekit.files.os.fsync", full)
        assert "No space left on device" in refused(*argv)
    assert not list(tmp_path.rglob("*.json"))
    assert main(argv) == 0


def test_a_disk_that_fills_up_at_a_checkpoint(train_argv, tmp_path):
    """The kernel itself refuses to let a file grow, wherever it is written from."""
    argv = [*train_argv, "--out", str(tmp_path / "run")]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        "from curvekit.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", limited, *argv], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("curvekit: error: cannot write")
    assert not (tmp_path / "run" / "model").exists()
    assert main(argv) == 0 and (tmp_path / "run" / "metrics.json").exists()


def test_a_model_that_was_cut_off_is_recognised(refused, finished_run, tiny_corpus, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    weights = run / "model" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    for argv in (["generate", run, "x"], ["evaluate", run, "--corpus", tiny_corpus]):
        assert str(run) in refused(*argv)


def test_a_base_that_was_cut_off_is_recognised(refused, train_argv, tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    weights = base / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    assert "not whole" in refused(*train_argv, "--base", base, "--out", tmp_path / "run")


def test_training_goes_on_before_a_checkpoint_that_was_cut_off(train_argv, tmp_path, capsys):
    """Stopped after step 4 with the checkpoint of step 4 broken: it goes on from step 2, to the same end."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = ["--steps", "6", "--save-every", "2"]
    assert main([*train_argv, *settings, "--out", str(whole)]) == 0
    stop_after_step_4(train_argv, settings, broken)
    weights = broken / "checkpoints" / "checkpoint-4" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    capsys.readouterr()
    assert main([*train_argv, *settings, "--out", str(broken)]) == 0
    assert "checkpoint-4" in capsys.readouterr().err
    losses = lambda run: [  # noqa: E731
        row.get("loss", row.get("validation_loss")) for row in map(json.loads, (run / "history.jsonl").open())
    ]
    assert losses(broken) == losses(whole)


def stop_after_step_4(train_argv, settings, folder: Path) -> None:
    from curvekit.training import stepping

    kept = stepping.History.on_step_begin

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise KeyboardInterrupt
        kept(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stepping.History, "on_step_begin", on_step_begin)
        assert main([*train_argv, *settings, "--out", str(folder)]) == 130


# Notebooks


def test_a_notebook_parameter_that_does_not_exist(refused, tmp_path):
    assert "'spread'" in refused("report", "--out", tmp_path / "report", "--parameter", "spred=3")
    assert not list(tmp_path.rglob("*.ipynb"))


def test_a_notebook_that_is_not_there(refused, tmp_path):
    assert "missing.ipynb" in refused("report", "--out", tmp_path / "r", "--notebooks", tmp_path / "missing.ipynb")


# The hub


@pytest.fixture
def silent_hub(monkeypatch):
    """A hub that takes the connection and never answers."""
    from huggingface_hub import constants

    from curvekit.bases import hub

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        hub._asked.cache_clear()
        yield constants.ENDPOINT
        hub._asked.cache_clear()


@pytest.mark.parametrize(
    "argv",
    [
        ["evaluate", "{base}", "--corpus", "wikitext-2"],
        ["evaluate", "gpt2", "--corpus", "{corpus}"],
        ["generate", "someone/some-gpt2", "x"],
    ],
    ids=["corpus", "base", "hub name"],
)
def test_a_hub_that_does_not_answer_is_given_up_within_five_seconds(argv, refused, silent_hub, tiny_base, tiny_corpus):
    import curvekit.training.trainer  # noqa: F401  what loading torch takes is not the hub's

    argv = [word.format(base=tiny_base, corpus=tiny_corpus) for word in argv]
    began = time.monotonic()
    sentence = refused(*argv)
    assert time.monotonic() - began < 6
    assert silent_hub in sentence and "; " in sentence
