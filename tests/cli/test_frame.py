"""The program: its version, its examples, the shape of its commands, and how each of them ends."""

from __future__ import annotations

import errno
import importlib
import inspect
import io
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import curvekit
from curvekit.cli import main, parser
from curvekit.cli.frame import COMMANDS


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"curvekit {curvekit.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_room_of_one_shape(command):
    room = importlib.import_module(f"curvekit.cli.{command}")
    assert list(inspect.signature(room.add).parameters) == ["commands"]
    assert list(inspect.signature(room.run).parameters) == ["arguments"]
    declared = parser()._subparsers._group_actions[0].choices[command]
    assert declared.get_default("run") is room.run and declared.description.endswith(".")


def test_no_room_that_is_a_command_is_left_out_of_the_program():
    rooms = Path(curvekit.cli.__file__).parent.glob("*.py")
    assert {path.stem for path in rooms if "\ndef run(" in path.read_text(encoding="utf-8")} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_of_the_help_is_one_that_the_parser_takes(command):
    texts = [parser().epilog, parser()._subparsers._group_actions[0].choices[command].epilog]
    examples = [
        line.strip() for text in texts for line in text.splitlines() if "curvekit " in line and "COMMAND" not in line
    ]
    assert len(examples) >= 6
    for example in examples:
        line = example[example.index("curvekit ") :]
        words = shlex.split(line.split("  ")[0].partition(" >")[0])
        parser().parse_args(words[1:])


def curvekit_process(*argv: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "curvekit.cli", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_ctrl_c_ends_with_130_and_no_traceback(run_flags, tmp_path):
    history = tmp_path / "run" / "history.jsonl"
    process = curvekit_process("train", "--recipe", "gpt2", "--out", str(tmp_path / "run"), *run_flags(steps=100_000))
    try:
        deadline = time.monotonic() + 60
        while not (history.exists() and history.stat().st_size) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said and said.splitlines()[-1] == "curvekit: stopped"


def test_a_reader_that_leaves_early_is_no_error(trained, tiny_corpus):
    argv = ["evaluate", str(trained["gpt2"]), "--corpus", str(tiny_corpus), "--json"]
    process = curvekit_process(*argv)
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=120) == 128 + signal.SIGPIPE
    assert "Traceback" not in said and "BrokenPipe" not in said


def test_a_closed_standard_output_is_no_error(trained, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["compare", str(trained["gpt2"]), str(trained["softemax"])]) == 0


def test_a_full_disk_behind_standard_output_is_one_sentence(trained, monkeypatch, capsys):
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        assert main(["compare", *map(str, trained.values())]) == 2
    assert capsys.readouterr().err == (
        "curvekit: error: standard output: No space left on device; check its permissions and the free space\n"
    )
