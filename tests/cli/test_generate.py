"""The command ``generate``: prompts from everywhere, texts whole or as they come, a terminal, and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from curvekit.bases.opening import open_model
from curvekit.cli import main
from curvekit.cli.generate import SHARE
from curvekit.generation import console
from curvekit.generation.streams import generate

ENDLESS = 6000


@pytest.fixture(scope="module")
def endless(tiny_tokenizer, tmp_path_factory):
    """A small model with room for a text of many seconds, which never ends by itself when greedy."""
    folder = tmp_path_factory.mktemp("endless")
    torch.manual_seed(0)
    end = tiny_tokenizer.eos_token_id
    settings = {"n_positions": ENDLESS + 100, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tiny_tokenizer), bos_token_id=end, eos_token_id=end, **settings))
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()  # it repeats itself
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def process(*argv: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "curvekit.cli", "generate", *map(str, argv)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **streams | options)


def written(tiny_base, prompts, **settings) -> list[str]:
    model, tokenizer = open_model(tiny_base)
    texts = generate(model, tokenizer, prompts, top_p=SHARE, **settings)
    count = settings.get("num_return_sequences", 1)
    return [prompts[i // count] + text for i, text in enumerate(texts)]


@pytest.mark.parametrize("flags", [[], ["--beams", "2"]])
def test_prompts_from_a_pipe_are_continued_in_order(tiny_base, monkeypatch, capsys, flags):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("The river\n\nA bänk\n".encode())))
    assert main(["generate", str(tiny_base), "-", "--tokens", "6", "--count", "2", *flags]) == 0
    settings = {"num_beams": 2} if flags else {}
    texts = written(tiny_base, ["The river", "A bänk"], max_new_tokens=6, num_return_sequences=2, **settings)
    assert capsys.readouterr().out == "\n\n".join(texts) + "\n"


def test_what_streams_is_what_is_printed_whole(tiny_base, monkeypatch, capsys):
    argv = ["generate", str(tiny_base), "The river", "--tokens", "6", "--count", "3"]
    assert main(argv) == 0
    whole = capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(console, "put", lambda text: print(text, end=""))
    assert main(argv) == 0
    assert capsys.readouterr().out == whole


def test_json_lines_tell_how_each_text_came_about(tiny_base, capsys):
    long = "The river was low in summer. " * 30
    assert main(["generate", str(tiny_base), long, "--tokens", "6", "--json", "--count", "2", "--seed", "4"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"prompt", "continuation", "seed", "tokens", "reason", "truncated"} == set(rows[0])
    assert rows[0]["truncated"] > 100 and rows[0]["seed"] == 4 != rows[1]["seed"]
    again = ["generate", str(tiny_base), long, "--tokens", "6", "--json", "--seed", str(rows[1]["seed"]), "--speed"]
    assert main(again) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["continuation"] == rows[1]["continuation"] and row["seconds"] > 0


def test_a_prompt_that_is_cut_and_the_speed_are_told_beside_the_text(tiny_base, capsys):
    assert main(["generate", str(tiny_base), "The river was low. " * 30, "--tokens", "6", "--speed"]) == 0
    said = capsys.readouterr().err
    assert "too long, its first" in said and "6 tokens," in said and "a second" in said


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["x", "--top-p", "0"], "top_p is 0.0; give more than 0"),
        (["x", "--interactive"], "leave PROMPT and --file out"),
        (["x", "--recipe", "curv"], "did you mean 'curve'"),
        (["x", "--temperature", "0", "--count", "2"], "without sampling"),
    ],
)
def test_what_cannot_work_is_one_sentence(tiny_base, argv, message, capsys):
    assert main(["generate", str(tiny_base), *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("curvekit: error: ") and message in line


def test_closed_streams_and_poor_encodings(tiny_base):
    def shell(line: str, **environment: str) -> subprocess.CompletedProcess:
        command = f"{sys.executable} -m curvekit.cli generate {tiny_base} {line}"
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ | environment)

    for line in ("- <&-", "--interactive <&-", "x >&-"):
        done = shell(line)
        assert done.returncode == 2 and "is closed" in done.stderr and "Traceback" not in done.stderr
    done = shell("'a bänk' --tokens 3", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.startswith("a b\\xe4nk")


def test_a_reader_that_has_enough_ends_it(endless):
    running = process(endless, "The river", "--temperature", "0", "--tokens", ENDLESS)
    assert running.stdout.read(20).startswith(b"The river")
    running.stdout.close()
    start = time.monotonic()
    assert running.wait(timeout=60) == 128 + signal.SIGPIPE
    assert b"Traceback" not in running.stderr.read() and time.monotonic() - start < 30


def test_ctrl_c_keeps_what_was_written(endless):
    running = process(endless, "The river", "--temperature", "0", "--tokens", ENDLESS)
    begun = running.stdout.read(40)
    running.send_signal(signal.SIGINT)
    rest, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert (begun + rest).startswith(b"The river") and rest.endswith(b"\n")
    assert said == b"curvekit: stopped\n"


def test_generate_continues_each_prompt_as_often_as_asked(trained, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("The curve\n\nA bank\n", encoding="utf-8")
    argv = [
        "generate",
        str(trained["gpt2"]),
        "--file",
        str(tmp_path / "prompts.txt"),
        "--count",
        "2",
        "--tokens",
        "5",
        "--json",
    ]
    assert main(argv) == 0
    first = capsys.readouterr().out
    rows = [json.loads(line) for line in first.splitlines()]
    assert [row["prompt"] for row in rows] == ["The curve", "The curve", "A bank", "A bank"]
    assert rows[0]["continuation"] != rows[1]["continuation"]
    assert main(argv) == 0 and capsys.readouterr().out == first
    assert main([*argv, "--seed", "1"]) == 0 and capsys.readouterr().out != first


def test_generate_prints_the_prompt_and_what_follows(trained, capsys):
    assert main(["generate", str(trained["gpt2"]), "The river", "--tokens", "5", "--temperature", "0"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("The river") and len(shown) > len("The river\n")


def test_a_conversation_samples_as_the_command_was_told(tiny_base, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("The river\n"))
    assert main(["generate", str(tiny_base), "--interactive", "--tokens", "5", "--seed", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == written(tiny_base, ["The river"], max_new_tokens=5, seed=3)


def test_at_a_terminal_ctrl_c_stops_the_text_and_lines_are_remembered(endless, tmp_path):
    ours, theirs = pty.openpty()
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "TERM": "dumb"}
    argv = (endless, "--interactive", "--temperature", "0", "--tokens", ENDLESS)
    running = process(*argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""

    def until(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < deadline, seen[-500:]
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 4096)

    try:
        until(b"> ")
        assert b":set temperature=0.8" in seen
        os.write(ours, b"The river\n")
        until(b"The river\r\nThe river")
        running.send_signal(signal.SIGINT)
        until(b"[stopped]")
        seen = b""
        os.write(ours, b":set tokens=3\nA bank\n")
        until(b"3 tokens,")
        os.write(ours, b":quit\n")
        assert running.wait(timeout=60) == 0
    finally:
        running.kill()
        os.close(ours)
    history = (tmp_path / "curvekit" / "history").read_text().splitlines()
    assert history == ["The river", ":set tokens=3", "A bank", ":quit"]
