from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from hpo.spec.errors import InputError, OutputError
from workers.data.preparing.cache import UNUSED_SECONDS, DataCache, key_of

KEY = key_of("something")


def fill(folder: Path) -> None:
    (folder / "content").write_text("made")


def test_a_folder_is_built_once(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        fill(folder)

    cache = DataCache(tmp_path)
    assert cache.get(KEY, build) == cache.get(KEY, build) == DataCache(tmp_path).get(KEY, build)
    assert len(built) == 1
    assert (tmp_path / KEY / "content").read_text() == "made"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise InputError("no")

    cache = DataCache(tmp_path)
    with pytest.raises(InputError):
        cache.get(KEY, fail)
    assert not list(tmp_path.glob(f"{KEY}*"))
    cache.get(KEY, fill)


def build_slowly(root: Path, log: Path) -> None:
    def build(folder: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.3)
        fill(folder)

    DataCache(root).get(KEY, build)


def test_processes_that_ask_at_once_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=build_slowly, args=(tmp_path / "cache", log)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "built\n"


def build_for_ever(root: Path, begun: Path) -> None:
    def build(folder: Path) -> None:
        fill(folder)
        begun.touch()
        time.sleep(600)

    DataCache(root).get(KEY, build)


def test_a_killed_builder_is_taken_over(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    root = tmp_path / "cache"
    process = multiprocessing.get_context("spawn").Process(
        target=build_for_ever, args=(root, begun)
    )
    process.start()
    while not begun.exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert not (root / KEY).exists()
    folder = DataCache(root).get(KEY, fill)
    assert [file.name for file in folder.iterdir()] == ["content"]


def test_what_nobody_used_for_long_is_deleted(tmp_path: Path) -> None:
    cache = DataCache(tmp_path)
    old, fresh = (cache.get(key_of(name), fill) for name in ("old", "fresh"))
    long_ago = time.time() - UNUSED_SECONDS - 10
    os.utime(old, (long_ago, long_ago))
    cache.get(key_of("another"), fill)
    assert not old.exists()
    assert fresh.exists()


def test_forgotten_folders_are_built_again(tmp_path: Path) -> None:
    cache = DataCache(tmp_path)
    folder = cache.get(KEY, fill)
    (folder / "content").write_text("spoiled")
    cache.forget(KEY)
    assert (cache.get(KEY, fill) / "content").read_text() == "made"


def test_a_fingerprint_follows_the_content(tmp_path: Path) -> None:
    cache = DataCache(tmp_path / "cache")
    file = tmp_path / "data"
    file.write_text("one")
    long_ago = time.time() - 100
    os.utime(file, (long_ago, long_ago))
    first = cache.fingerprint(str(file))
    assert cache.fingerprint(str(file)) == first
    file.write_text("two")
    # The same size, and the time put back: only the inode's change tells.
    os.utime(file, (long_ago, long_ago))
    assert cache.fingerprint(str(file)) != first
    assert cache.fingerprint("a/hub-name") == "a/hub-name"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="HPO_HOME"):
        DataCache(tmp_path / "file").get(KEY, fill)
