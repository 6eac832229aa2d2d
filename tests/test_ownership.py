"""Nothing of another's is lost: every writing command against every name that curvekit uses, byte for byte."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.files import write_atomically, write_text
from curvekit.ownership import MARKER, Scratch, broken, hold, marker, recover, replaced, require_file, seal
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train

# What somebody else may have under the names that curvekit uses: pages, a model's folder, a web app's settings.
NAMES = {
    "run": [
        "config.json", "corpus.json", "metrics.json", "history.jsonl", "samples.jsonl", "scores-test.json", ".lock",
        "scores-validation.json", "frequency.json", "wandb.json", "model/config.json", "model/model.safetensors",
        "tokens/train.safetensors", "tokens/secrets.txt", "checkpoints/checkpoint-3/weights.pt",
        "checkpoints/notes.txt", MARKER,
    ],
    "report": [
        "index.html", "metrics.json", "comparison.json", "results.json", "results.md", "results.tex", "one.html",
        "one.ipynb", "one.partial.ipynb", "figures/intervals.svg", "figures/intervals.png", "figures",
        "runs/gpt2-seed0/config.json", "runs/gpt2-seed0/checkpoints/checkpoint-1/optimizer.pt", MARKER,
    ],
    "base": [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "card.json", "README.md", MARKER,
    ],
    "pretraining": [
        "corpus/train.jsonl", "corpus/sources.json", "corpus", "start-300/config.json", "start-300/tokenizer.json",
        "mini/config.json", "mini/checkpoints/checkpoint-2/optimizer.pt", "mini/tokens/train.safetensors",
    ],
    "bench": ["cpu-quick.json", "cpu-quick.md", "figures/cpu-quick.svg", "figures/cpu-quick.png"],
}  # fmt: skip
CONTENTS = [
    b"mine", b'{"title": "a web app"}', b'{"model_type": "gpt2"}\n', b"[1, 2]", b'{"kind": 3}', b"\x89PNG of mine",
    b"\n", b"<svg>curvekit is mentioned</svg>", b'{"text": "a row"}\n',
]  # fmt: skip


def commands(folder: Path, corpus: Path, base: Path, notebook: Path) -> dict[str, list[str]]:
    quick = ["--base", str(base), "--corpus", str(corpus), "--block-size", "16", "--steps", "1"]
    return {
        "run": ["train", "--recipe", "gpt2", *quick, "--out", str(folder)],
        "report": ["report", "--recipes", "gpt2", *quick, "--notebooks", str(notebook), "--out", str(folder)],
        "base": ["pretrain", "--data-dir", str(corpus), "--out", str(folder) + "-runs", "--ship", str(folder)],
        "pretraining": ["pretrain", "--data-dir", str(corpus), "--vocabulary", "300", "--out", str(folder)],
        "bench": ["bench", "attention", "--quick", "--out", str(folder)],
    }


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    import nbformat

    path = tmp_path_factory.mktemp("notebooks") / "one.ipynb"
    cell = nbformat.v4.new_code_cell("recipes = []\nreport_dir = ''", metadata={"tags": ["parameters"]})
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": spec}), path)
    return path


@pytest.mark.parametrize("command", NAMES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_refused_command_changes_no_byte_of_another_s_folder(
    command, data, tiny_corpus, tiny_base, notebook, tmp_path_factory
):
    chosen = data.draw(st.lists(st.sampled_from(NAMES[command]), min_size=1, unique=True))
    home = tmp_path_factory.mktemp("home")
    folder = home / "theirs"
    for name in chosen:
        path = folder / name
        if path.parent.is_file() or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.draw(st.sampled_from(CONTENTS)))
    if not any(path.name not in (MARKER, ".lock") for path in folder.rglob("*")):
        (folder / "thesis.tex").write_text("years of work")
    before = everything(home)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(commands(folder, tiny_corpus, tiny_base, notebook)[command]) == 2
    assert "theirs" in said.getvalue(), "it was refused because of something else"
    assert everything(home) == before


@pytest.mark.parametrize("name", NAMES["run"])
def test_every_file_of_a_run_alone_is_refused_by_its_name(name, tmp_path, tiny_corpus, tiny_base, notebook, capsys):
    path = tmp_path / "theirs" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    (tmp_path / "theirs" / "a.txt").write_text("mine")
    assert main(commands(tmp_path / "theirs", tiny_corpus, tiny_base, notebook)["run"]) == 2
    assert "theirs" in capsys.readouterr().err and path.read_bytes() == b"mine"


@pytest.fixture(scope="module")
def config(tiny_base, tiny_corpus):
    return RunConfig(
        recipe="gpt2", base=str(tiny_base), corpus=str(tiny_corpus), steps=2, block_size=16, batch_size=2,
        eval_every=1, save_every=1, sample_prompts=1, prompt_tokens=4, sample_tokens=4, validation_documents=4,
        eval_documents=2, precision="float32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    return train(config, tmp_path_factory.mktemp("runs") / "one", progress="none")


def test_a_run_says_whose_it_is_and_a_report_is_not_written_over_it(run, tiny_corpus, tiny_base, notebook, capsys):
    before = everything(run.folder)
    assert marker(run.folder)["kind"] == "run" and marker(run.folder / "model")["kind"] == "model"
    assert main(commands(run.folder, tiny_corpus, tiny_base, notebook)["report"]) == 2
    assert "run" in capsys.readouterr().err and everything(run.folder) == before


def test_a_run_of_the_version_before_the_markers_is_recognised(run, config, tmp_path):
    old = shutil.copytree(run.folder, tmp_path / "old")
    for path in old.rglob(MARKER):
        path.unlink()
    (old / "metrics.json").unlink()  # it was killed before its end
    assert train(config, old, progress="none").metrics["perplexity"] == run.metrics["perplexity"]


@pytest.mark.parametrize("name", ["metrics.json", "history.jsonl", "samples.jsonl", "wandb.json", "scores-test.json"])
def test_another_s_file_in_a_folder_that_is_a_run_s_is_not_written_over(run, config, tmp_path, name):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    (folder / "metrics.json").unlink()
    (folder / name).write_text('{"of": "another"}\n')
    before = everything(folder)
    with pytest.raises(CurvekitError, match=f"{name} is not curvekit's own"):
        train(config, folder, progress="none")
    assert everything(folder) == before


def test_what_lies_beside_the_checkpoints_is_not_deleted_with_them(config, tmp_path, interrupted):
    folder = interrupted(config, tmp_path / "run", step=2)
    for name in ("checkpoint-1-backup", "checkpoint-9"):
        (folder / "checkpoints" / name).mkdir()
        (folder / "checkpoints" / name / "weights.pt").write_bytes(b"mine")
    (folder / "tokens" / "notes.txt").write_text("mine")
    train(config, folder, progress="none")
    left = {
        path.relative_to(folder).as_posix()
        for place in ("tokens", "checkpoints")
        for path in (folder / place).rglob("*.*")
    }
    assert left >= {
        "tokens/notes.txt",
        "checkpoints/checkpoint-9/weights.pt",
        "checkpoints/checkpoint-1-backup/weights.pt",
    }
    assert not list(folder.rglob("optimizer.safetensors"))


@pytest.mark.parametrize("existing", [False, True])
def test_a_run_that_is_refused_leaves_no_folder_and_no_lock(config, tmp_path, existing):
    folder = tmp_path / "new" / "run"
    if existing:
        folder.mkdir(parents=True)
    before = everything(tmp_path)
    for change, why in (({"block_size": 65}, "positions"), ({"corpus": str(tmp_path / "none.txt")}, "no file")):
        with pytest.raises(CurvekitError, match=why):
            train(RunConfig.from_dict(config.to_dict() | change), folder, progress="none")
        assert everything(tmp_path) == before


def test_a_folder_of_figures_keeps_another_s_picture(tmp_path):
    from matplotlib.figure import Figure

    from curvekit.figures.drawing import save

    save(Figure(), "ours", tmp_path)
    save(Figure(), "ours", tmp_path)
    (tmp_path / "figures" / "holiday.png").write_bytes(b"\x89PNG of mine")
    with pytest.raises(CurvekitError, match=r"holiday\.png is not curvekit's own"):
        save(Figure(), "holiday", tmp_path)
    assert (tmp_path / "figures" / "holiday.png").read_bytes() == b"\x89PNG of mine"


def test_a_rating_is_not_appended_to_another_s_file(tmp_path):
    from curvekit.preferences.ratings import append_rating, read_ratings

    row = {"prompt": "p", "first": "a", "second": "b", "better": "tie", "fluent": "tie", "on_topic": "first"}
    path = tmp_path / "ratings.jsonl"
    for content in (b"a diary\nits last line", b"no line end", b'{"title": "an app"}'):
        path.write_bytes(content)
        with pytest.raises(CurvekitError, match=r"ratings\.jsonl is not curvekit's own"):
            append_rating(path, row)
        assert path.read_bytes() == content
    path.write_bytes(json.dumps(row).encode() + b'\n{"prompt": "cut o')
    append_rating(path, row)
    assert len(read_ratings(path)) == 2


def test_a_comparison_is_not_saved_over_another_s_results(run, config, tmp_path):
    from dataclasses import replace

    from curvekit.experiments.comparison import compare

    other = train(replace(config, recipe="softemax"), tmp_path / "softemax", progress="none")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.md").write_text("# My results")
    with pytest.raises(CurvekitError, match=r"results\.md is not curvekit's own"):
        compare([run.folder, other.folder], "gpt2", tmp_path / "out", samples=100)
    assert everything(tmp_path / "out") == {"results.md": b"# My results"}


# Replacing


def test_a_seal_tells_what_was_changed_removed_or_added(tmp_path):
    for name in ("a", "b/c"):
        write_text(tmp_path / name, name)
    seal(tmp_path, "base")
    assert broken(tmp_path, only=True) is None
    (tmp_path / "d").write_text("later")
    assert broken(tmp_path) is None and broken(tmp_path, only=True) == "d was put there later"
    (tmp_path / "b" / "c").write_text("C")
    assert broken(tmp_path) == "b/c was changed after it was written"
    (tmp_path / "a").unlink()
    assert broken(tmp_path) == "a is missing"


KILLED = """
import os, signal, sys
from pathlib import Path
from curvekit.ownership import replaced

place, moment, seen = Path(sys.argv[1]), int(sys.argv[2]), 0

def watch(event, arguments):
    global seen
    if arguments and isinstance(arguments[0], (str, os.PathLike)) and str(place.parent) in str(arguments[0]):
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
with replaced(place, "base") as new:
    (new / "weights").write_text("new")
    (new / "deep").mkdir()
    (new / "deep" / "card").write_text("new")
"""


def killed(place: Path, moment: int) -> bool:
    return subprocess.run([sys.executable, "-c", KILLED, str(place), str(moment)], check=False).returncode == -9


def state(place: Path) -> str:
    found = {(place / name).read_text() for name in ("weights", "deep/card")}
    assert len(found) == 1, "a part of the old one and a part of the new one"
    return found.pop()


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_old_folder_or_the_new_one_and_nothing_beside(tmp_path):
    (tmp_path / ".base.old").mkdir()  # another's, as an earlier version would have called its own
    (tmp_path / ".base.0123abcd.curvekit-old").mkdir()
    (tmp_path / ".base.0123abcd.curvekit-old" / "photo").write_text("mine")
    moment, seen = 0, set()
    while True:
        moment += 1
        place = tmp_path / "base"
        shutil.rmtree(place, ignore_errors=True)
        with replaced(place, "base") as new:
            (new / "weights").write_text("old")
            (new / "deep").mkdir()
            (new / "deep" / "card").write_text("old")
        died = killed(place, moment)
        recover(place)
        seen.add(state(place))
        assert sorted(path.name for path in tmp_path.iterdir()) == [".base.0123abcd.curvekit-old", ".base.old", "base"]
        if not died:
            break
    assert moment > 25 and seen == {"old", "new"}
    assert (tmp_path / ".base.0123abcd.curvekit-old" / "photo").read_text() == "mine"


def test_an_error_while_a_folder_is_written_leaves_the_old_one_and_no_new_parents(tmp_path):
    with replaced(tmp_path / "base", "base") as new:
        (new / "weights").write_text("old")
    for place in (tmp_path / "base", tmp_path / "deep" / "er" / "base"):
        with pytest.raises(ZeroDivisionError), replaced(place, "base") as new:
            (new / "weights").write_text("new")
            1 / 0  # noqa: B018
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert (tmp_path / "base" / "weights").read_text() == "old"


def test_two_processes_do_not_replace_one_folder_at_once(tmp_path):
    with replaced(tmp_path / "base", "base") as new:
        (new / "weights").write_text("first")
        with pytest.raises(CurvekitError, match="another process is writing"), replaced(tmp_path / "base", "base"):
            raise AssertionError("never begun")
    assert (tmp_path / "base" / "weights").read_text() == "first"


def test_what_a_kill_leaves_of_a_file_goes_the_next_time_it_is_written(tmp_path):
    left, theirs = tmp_path / ".metrics.json.0123abcd.curvekit", tmp_path / ".metrics.json.mybackup"
    for path in (left, theirs):
        path.write_text("half")
    with hold(left):
        write_text(tmp_path / "metrics.json", "{}")
        assert left.exists(), "somebody is writing it now"
    write_text(tmp_path / "metrics.json", "{}")
    assert not left.exists() and theirs.read_text() == "half"


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a", lambda file: file.write(b"new") and 1 / 0)
    assert everything(tmp_path) == {"a": b"old"}


def test_a_scratch_folder_of_a_killed_process_goes_with_the_next(tmp_path):
    code = (
        "import os, signal, sys; from curvekit.ownership import Scratch; "
        "Scratch(sys.argv[1]); kept = Scratch(sys.argv[1]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (tmp_path / "curvekit-scratch-of-mine").mkdir()
    assert len(list(tmp_path.iterdir())) == 2
    with Scratch(str(tmp_path)) as mine, Scratch(str(tmp_path)):
        assert os.path.exists(mine), "one that is in use stays"
        assert len(list(tmp_path.iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["curvekit-scratch-of-mine"]


def test_a_name_that_no_file_can_have_is_told(config, tmp_path):
    for name in ("x" * 300, "caf\udce9"):
        with pytest.raises(CurvekitError, match="cannot be a folder's name"):
            train(config, tmp_path / name, progress="none")
    with pytest.raises(CurvekitError, match="corpus is .*no Unicode"):
        train(RunConfig.from_dict(config.to_dict() | {"corpus": "caf\udce9.txt"}), tmp_path / "run", progress="none")
    with pytest.raises(CurvekitError, match="seed is 20251125123000"):
        train(RunConfig.from_dict(config.to_dict() | {"seed": 20251125123000}), tmp_path / "run", progress="none")
    require_file(tmp_path / "none", lambda path: False)
    assert not list(tmp_path.iterdir())
