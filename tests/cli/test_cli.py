"""The command line: what each command prints and writes, and that its flags are the settings of a run."""

from __future__ import annotations

import errno
import inspect
import io
import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import nbformat
import pytest

import curvekit
from curvekit.cli.commands import MAIN_RECIPES, RESULTS_BEGIN, RESULTS_END, _config, main, parser
from curvekit.training.runs import load_run
from curvekit.training.settings import RunConfig

SHORT = ("--block-size", "32", "--batch-size", "2", "--eval-every", "2", "--save-every", "2", "--sample-prompts", "2",
         "--prompt-tokens", "4", "--sample-tokens", "4", "--keep-tokens", "1", "--precision", "float32")  # fmt: skip


def run_flags(base: Path, corpus: Path, *more: str, steps: int = 2) -> list[str]:
    return ["--base", str(base), "--corpus", str(corpus), "--steps", str(steps), *SHORT, *more]


@pytest.fixture(scope="module")
def trained(tiny_base, tiny_corpus, tmp_path_factory) -> dict[str, Path]:
    """Two finished runs, made by the command itself."""
    folder = tmp_path_factory.mktemp("runs")
    for recipe in ("gpt2", "softemax"):
        argv = ["train", "--recipe", recipe, "--out", str(folder / recipe), *run_flags(tiny_base, tiny_corpus)]
        assert main(argv) == 0
    return {recipe: folder / recipe for recipe in ("gpt2", "softemax")}


# Settings


def test_every_setting_is_a_flag_of_train_with_its_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for setting in fields(RunConfig):
        assert f"--{setting.name.replace('_', '-')} " in shown
        assert setting.metadata["help"].split(" (default")[0] in shown


def test_flags_go_over_the_file_and_the_file_over_the_defaults(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"steps": 7, "batch_size": 3, "model": {"degree": 3}}))
    arguments = parser().parse_args(["train", "--config", str(tmp_path / "settings.json"), "--steps", "9"])
    assert _config(arguments) == RunConfig(steps=9, batch_size=3, model={"degree": 3})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model", "degree=3", "place=0.25", "window=centred"], {"degree": 3, "place": 0.25, "window": "centred"}),
        (["--model", '{"degree": 3}', "--model", "channels=[\"point\"]"], {"degree": 3, "channels": ["point"]}),
    ],
)  # fmt: skip
def test_model_settings_are_pairs_or_json(flags, expected):
    assert parser().parse_args(["train", *flags]).model == expected


def test_model_settings_that_are_no_json_object_are_refused(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["train", "--model", "{degree: 3}"])
    assert "'{degree: 3}' is no JSON object" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "expected"), [(["--compile"], True), (["--compile", "false"], False)])
def test_a_switch_can_be_turned_on_and_off(flags, expected):
    assert parser().parse_args(["train", *flags]).compile is expected


def test_the_command_that_a_report_prints_is_one_that_the_parser_takes(tmp_path):
    from curvekit.reports.execution import _command

    config = RunConfig(corpus="a b.txt", compile=True, model={"degree": 3}, steps=5, learning_rate=1e-3)
    words = shlex.split(_command(config, ["gpt2", "curve"], [0, 1], tmp_path, ["a b.ipynb"], {"keys": 16, "x": [1]}))
    arguments = parser().parse_args(words[1:])
    given = {each.name: getattr(arguments, each.name) for each in fields(RunConfig) if hasattr(arguments, each.name)}
    assert RunConfig(**given) == config
    assert (arguments.recipes, arguments.seeds, arguments.out) == (["gpt2", "curve"], ["0", "1"], tmp_path)
    assert [str(path) for path in arguments.notebooks] == ["a b.ipynb"] and arguments.parameter == {
        "keys": 16,
        "x": [1],
    }


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"curvekit {curvekit.__version__}\n"


@pytest.mark.parametrize("command", ["report", "train", "evaluate", "generate", "compare"])
def test_every_example_of_the_help_is_one_that_the_parser_takes(command):
    texts = [parser().epilog, parser()._subparsers._group_actions[0].choices[command].epilog]
    examples = [
        line.strip() for text in texts for line in text.splitlines() if "curvekit " in line and "COMMAND" not in line
    ]
    assert len(examples) >= 6
    for example in examples:
        words = shlex.split(example.split("  ")[0].rpartition("| ")[2].partition(" >")[0])
        parser().parse_args(words[1:])


# Commands


def test_train_leaves_a_finished_run_and_says_how_good_it_is(trained, capsys):
    run = load_run(trained["gpt2"])
    assert run.finished and run.config.recipe == "gpt2"
    again = ["train", "--config", str(run.folder / "config.json"), "--out", str(run.folder)]
    assert main(again) == 0  # finished: nothing is trained a second time
    shown = capsys.readouterr().out
    assert f"{run.metrics['perplexity']:.4f}" in shown and str(run.folder) in shown


def test_evaluate_gives_the_figure_of_the_run_with_its_signature(trained, tiny_corpus, capsys):
    argv = ["evaluate", str(trained["gpt2"]), "--corpus", str(tiny_corpus), "--batch-size", "3"]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    metrics = load_run(trained["gpt2"]).metrics
    assert f"perplexity        {metrics['perplexity']:.4f}" in shown
    assert "context:32|stride:16" in shown and "split:test" in shown
    assert str(tiny_corpus.parent) not in shown
    signature = load_run(trained["gpt2"]).scores("test").signature
    assert all(f"|{name}:{signature[name]}|" in shown for name in ("tokenizer", "tokenizer_hash", "context", "stride"))


def test_evaluate_prints_json_and_nothing_else(trained, tiny_base, tiny_corpus, capsys):
    for model in (trained["softemax"], trained["softemax"] / "model", tiny_base):
        argv = [
            "evaluate",
            str(model),
            "--corpus",
            str(tiny_corpus),
            "--json",
            "--split",
            "validation",
            "--documents",
            "3",
        ]
        assert main(argv) == 0
        score = json.loads(capsys.readouterr().out)
        assert len(score["nll"]) == 3 and score["signature"]["recipe"] == ("gpt2" if model == tiny_base else "softemax")


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


def test_compare_prints_the_table_of_two_runs_with_an_interval(trained, capsys):
    assert main(["compare", str(trained["gpt2"]), str(trained["softemax"])]) == 0
    shown = capsys.readouterr().out
    assert "softemax" in shown and "95%" in shown and shown.count("|") > 20
    assert main(["compare", str(trained["softemax"]), str(trained["gpt2"]), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["verdict"] == "baseline" for row in rows] == [True, False]  # the first one


def test_compare_reads_a_folder_and_fills_the_readme(trained, tmp_path, capsys):
    from curvekit.experiments.comparison import compare

    comparison = compare(list(trained.values()), folder=tmp_path, command="curvekit report")
    assert main(["compare", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == comparison.to_markdown().strip()
    assert main(["compare", str(tmp_path), "--baseline", "softemax"]) == 0
    assert main(["compare", str(trained["softemax"]), str(trained["gpt2"])]) == 0
    first, second = (table.split() for table in capsys.readouterr().out.split("| recipe ")[1:])
    assert sorted(first) == sorted(second), "the same comparison, against the other one"
    page = tmp_path / "PAGE.md"
    page.write_text(f"before\n{RESULTS_BEGIN}\nold\n{RESULTS_END}\nafter\n", encoding="utf-8")
    assert main(["compare", str(tmp_path), "--readme", str(page)]) == 0
    first = page.read_text(encoding="utf-8")
    assert first.startswith(f"before\n{RESULTS_BEGIN}\n") and first.endswith(f"{RESULTS_END}\nafter\n")
    assert "old" not in first and comparison.summary() in first and "| softemax |" in first
    assert main(["compare", str(tmp_path), "--readme", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == first


def test_report_hands_its_settings_to_the_notebooks(tmp_path, capsys):
    from curvekit.reports import execution as reports

    names = "recipes = []\nseeds = []\nreport_dir = ''\ncorpus = ''\nsettings = {}\nspread = 0.0"
    cells = [
        nbformat.v4.new_code_cell(names, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print(recipes, seeds, corpus, settings['steps'], spread)"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "01_probe.ipynb")
    out = tmp_path / "report"
    argv = ["report", "--notebooks", str(tmp_path / "01_probe.ipynb"), "--out", str(out), "--recipes", "gpt2,curve"]
    assert inspect.signature(reports.report).parameters["recipes"].default == MAIN_RECIPES
    assert main([*argv, "--seeds", "0 3", "--steps", "7", "--parameter", "spread=2.5"]) == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n" and (out / "index.html").exists()
    executed = nbformat.read(out / "01_probe.ipynb", as_version=4)
    printed = "".join(output.get("text", "") for cell in executed.cells for output in cell.get("outputs", []))
    assert printed == "['gpt2', 'curve'] [0, 3] pydocs 7 2.5\n"


def test_a_model_that_leaks_says_so_in_one_line(tiny_base, tiny_corpus, tmp_path, capsys):
    argv = ["train", "--recipe", "self-curve", "--model", "window=centred", "--out", str(tmp_path / "run")]
    assert main(argv + run_flags(tiny_base, tiny_corpus)) == 0
    captured = capsys.readouterr()
    (warning, *_) = [line for line in captured.err.splitlines() if "warning" in line]
    assert warning.startswith("curvekit: warning: ") and "future" in warning + captured.out
    assert "yes" in captured.out


# How it ends


def curvekit_process(*argv: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "curvekit.cli", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_ctrl_c_ends_with_130_and_no_traceback(tiny_base, tiny_corpus, tmp_path):
    history = tmp_path / "run" / "history.jsonl"
    flags = run_flags(tiny_base, tiny_corpus, steps=100_000)
    process = curvekit_process("train", "--recipe", "gpt2", "--out", str(tmp_path / "run"), *flags)
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
