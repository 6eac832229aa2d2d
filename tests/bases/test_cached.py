"""A folder in the cache is whole or not there, made once, checked at each opening, and mended after any kill."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from curvekit.bases import cached
from curvekit.errors import CurvekitError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "curvekit" / "bases"


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "source.gguf"
    path.write_bytes(b"what the folder is made from")
    return path


def fill(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)


def refuse(folder: Path) -> None:
    raise AssertionError("a whole folder was made again")


def holds_all(place: Path) -> bool:
    return (place / "config.json").read_text() == "{}" and (place / "model.safetensors").stat().st_size == 25_600


def in_a_child(work) -> int:
    """The wait status of a forked process that does ``work``."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def killed(*args, **named):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_folder_is_made_once(cache, source):
    place = cached.folder("a-1", source, 1, fill)
    assert place == cache / "a-1" and holds_all(place)
    assert cached.folder("a-1", source, 1, refuse) == place
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["a-1"]


@pytest.mark.parametrize("moment", ["in the first file", "before the record", "before the rename", "clearing the old"])
def test_after_a_kill_at_any_moment_the_next_process_makes_it_whole(cache, source, monkeypatch, moment):
    def work():
        if moment == "before the record":
            cached.write_json = killed
        elif moment == "before the rename":
            Path.rename = killed
        elif moment == "clearing the old":
            shutil.rmtree = killed
        cached.folder("a-1", source, 2, half if moment == "in the first file" else fill)

    def half(folder: Path) -> None:
        (folder / "config.json").write_text("{")
        killed()

    if moment == "clearing the old":
        cached.folder("a-1", source, 1, fill)
    assert in_a_child(work) == signal.SIGKILL
    left = [path.name for path in cache.iterdir() if path.is_dir()]
    assert any(name.startswith(".a-1.") for name in left)
    assert moment == "clearing the old" or "a-1" not in left

    assert holds_all(cached.folder("a-1", source, 2, refuse if moment == "clearing the old" else fill))
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["a-1"]


def test_two_processes_at_once_both_get_the_folder_and_one_makes_it(cache, source, tmp_path, capfd):
    def slowly(folder: Path) -> None:
        with (tmp_path / "makers").open("a") as file:
            file.write("made\n")
        time.sleep(0.5)
        fill(folder)

    def work():
        assert holds_all(cached.folder("a-1", source, 1, slowly))

    child = os.fork()
    if child == 0:
        os._exit(0 if in_a_child(work) == 0 else 1)
    until = time.monotonic() + 30
    while not (tmp_path / "makers").exists() and time.monotonic() < until:
        time.sleep(0.01)
    work()
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "makers").read_text() == "made\n"
    assert "another process makes" in capfd.readouterr().err


@pytest.mark.parametrize(
    "change", ["shorter", "other bytes", "no file", "no record", "half a record", "another version"]
)
def test_a_folder_that_is_no_longer_as_it_was_made_is_made_anew(cache, source, change, capfd):
    place = cached.folder("a-1", source, 1, fill)
    weights, record = place / "model.safetensors", place / cached.RECORD
    if change == "shorter":
        before = weights.stat().st_mtime_ns
        weights.write_bytes(weights.read_bytes()[:-1])
        os.utime(weights, ns=(before, before))
    elif change == "other bytes":
        weights.write_bytes(b"x" + weights.read_bytes()[1:])
        os.utime(weights, ns=(1, 1))
    elif change == "no file":
        weights.unlink()
    elif change == "no record":
        record.unlink()
    elif change == "half a record":
        record.write_text(record.read_text()[:50])
    made = []
    cached.folder("a-1", source, 2 if change == "another version" else 1, lambda folder: (fill(folder), made.append(1)))
    assert made and weights.read_bytes() == bytes(range(256)) * 100
    assert f"{place} is not whole" in capfd.readouterr().err
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["a-1"]


def test_a_copied_cache_is_digested_once_and_used(cache, source, monkeypatch):
    place = cached.folder("a-1", source, 1, fill)
    os.utime(place / "model.safetensors", ns=(1, 1))
    assert cached.folder("a-1", source, 1, refuse) == place
    monkeypatch.setattr(cached, "sha256", refuse)
    assert cached.folder("a-1", source, 1, refuse) == place


def test_a_known_source_is_not_read_again_and_a_changed_one_is(cache, source, monkeypatch):
    key = cached.digest(source)
    cached.folder("a-1", source, 1, fill)
    with monkeypatch.context() as context:
        context.setattr(cached, "sha256", refuse)
        assert cached.digest(source) == key
    source.write_bytes(b"what another folder is made from")
    assert cached.digest(source) != key
    twin = source.with_name("twin.gguf")
    twin.write_bytes(b"WHAT another folder is made from")
    os.utime(twin, ns=(source.stat().st_mtime_ns,) * 2)
    assert cached.digest(twin) == cached.sha256(twin)


@pytest.mark.parametrize("blocked", ["cache", "cache/curvekit", "cache/curvekit/bases"])
def test_a_cache_that_cannot_be_written_is_one_sentence(source, tmp_path, blocked):
    path = tmp_path / blocked  # a file in the place of a folder
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    with pytest.raises(
        CurvekitError, match="cannot write .*bases.a-1 .*set XDG_CACHE_HOME to another folder"
    ) as caught:
        cached.folder("a-1", source, 1, fill)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(cache, source, monkeypatch):
    def full(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with pytest.raises(CurvekitError, match="No space left on device.; free some space there"):
        cached.folder("a-1", source, 1, full)
    assert not [path for path in cache.iterdir() if path.is_dir()]

    monkeypatch.setattr(
        cached.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6)
    )
    with pytest.raises(CurvekitError, match="has 1 MB free, and 600 MB are needed"):
        cached.folder("a-1", source, 1, lambda folder: cached.require_space(folder, 600_000_000))
    assert not [path for path in cache.iterdir() if path.is_dir()]
