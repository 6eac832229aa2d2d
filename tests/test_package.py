"""The package: what the archive and the wheel hold, and that an installed curvekit does what a checkout does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("curvekit", "notebooks", "benchmarks", "tests", "docs", ".ci")
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "MANIFEST.in", "pyproject.toml",
         "setup.py", "constraints.txt", "environment.yml")  # fmt: skip
PUBLISHED = (
    "reports/wikitext-2/results.json",
    "reports/which-curve/results.json",
    "reports/benchmarks/cpu.json",
    "reports/zoo/results.json",
)
UNWANTED = (
    "curvekit/__pycache__/old.cpython-311.pyc",
    "reports/mine/index.html",
    "reports/wikitext-2/runs/config.json",
    "reports/zoo/rows/mini.json",
)

pytestmark = pytest.mark.slow


def called(*argv: object, **options) -> str:
    """Standard output of a command that works.

    A library on PYTHONPATH would stand before the installed one. The templates of nbconvert lie beside the packages of
    this environment, where one that borrows its packages does not look by itself.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["JUPYTER_PATH"] = str(Path(sysconfig.get_path("data"), "share", "jupyter"))
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the repository, so that building leaves nothing in it, with files that are nobody else's business."""
    copy = tmp_path_factory.mktemp("source")
    leave = shutil.ignore_patterns(
        "__pycache__", "*.pyc", ".*_cache", ".ipynb_checkpoints", ".hypothesis", "*.egg-info"
    )
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=leave)
    for name in PAGES:
        shutil.copy(ROOT / name, copy / name)
    for name in (*PUBLISHED, *UNWANTED):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("{}")
    return copy


@pytest.fixture(scope="module")
def files(source) -> set[str]:
    """The repository's files, by their paths in it."""
    found = (path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    return set(found) - set(UNWANTED)


def built(what: str, source: Path, out: Path) -> Path:
    """An ``sdist``, ``wheel`` or ``editable``, by the hook that pip would call, with this environment's setuptools."""
    out.mkdir()
    called(sys.executable, "-c", f"from setuptools.build_meta import *; build_{what}({str(out)!r})", cwd=source)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def archive(source, files, tmp_path_factory) -> Path:
    return built("sdist", source, tmp_path_factory.mktemp("archive") / "out")


@pytest.fixture(scope="module")
def wheel(archive, tmp_path_factory) -> Path:
    """Built from the archive, as it is where no wheel is to be had."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.unpack_archive(archive, folder)
    (unpacked,) = folder.iterdir()
    return built("wheel", unpacked, folder / "out")


def environment(folder: Path, wheel: Path) -> Path:
    """The Python of a new environment with curvekit installed, whose other packages are those of this one.

    They are found through a line with their folder, which hides no package of the new environment and runs none of
    this one's ``.pth`` files: curvekit, which this one may hold too, is the one installed here.
    """
    called(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    called(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    own = called(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    theirs = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    Path(own, "packages.pth").write_text("\n".join(theirs) + "\n")
    return python


def test_the_archive_holds_the_whole_repository_and_nothing_of_its_user(archive, files):
    with tarfile.open(archive) as opened:
        held = {PurePosixPath(*PurePosixPath(each.name).parts[1:]).as_posix() for each in opened if each.isfile()}
    assert not files - held
    extra = {name for name in held - files if ".egg-info/" not in name}
    assert extra == {"PKG-INFO", "setup.cfg"}


def test_the_wheel_holds_the_library_its_assets_and_the_notebooks_and_nothing_else(wheel, files):
    expected = {name for name in files if name.startswith("curvekit/")}
    expected |= {f"curvekit/{name}" for name in files if name.startswith("notebooks/")}
    assert len(expected) > 60
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert held == expected


def test_an_installed_curvekit_writes_its_report_from_an_empty_folder(wheel, tiny_base, tiny_corpus, tmp_path):
    python = environment(tmp_path / "environment", wheel)
    here = tmp_path / "empty"
    here.mkdir()
    imported = called(python, "-c", "import curvekit; print(curvekit.__file__)", cwd=here)
    assert Path(imported.strip()).is_relative_to(tmp_path / "environment")
    flags = ["--base", tiny_base, "--corpus", tiny_corpus, "--recipes", "gpt2", "softemax", "--steps", 2]
    flags += ["--block-size", 16, "--batch-size", 4, "--eval-every", 1, "--save-every", 2, "--context-eval", 16]
    flags += ["--sample-prompts", 1, "--prompt-tokens", 8, "--sample-tokens", 8]
    flags += ["--parameter", "leak_steps=2"]
    shown = called(python.with_name("curvekit"), "report", "--out", "report", *flags, cwd=here)
    assert shown == f"{Path('report', 'index.html')}\n"
    page = (here / "report" / "index.html").read_text(encoding="utf-8")
    notebooks = sorted(path.stem for path in (ROOT / "notebooks").glob("0[1-4]_*.ipynb"))
    assert len(notebooks) == 4 and all(f'href="{name}.html"' in page for name in notebooks)


def test_an_editable_installation_finds_the_notebooks_of_the_checkout(source, files, tmp_path):
    python = environment(tmp_path / "environment", built("editable", source, tmp_path / "out"))
    told = called(python, "-c", "from curvekit.reports import execution; print(execution.NOTEBOOKS)", cwd=tmp_path)
    assert Path(told.strip()).resolve() == (source / "notebooks").resolve()
