"""Drafts of checkpoints, and how much room everything takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.checkpoints import CheckpointStore


def put(store: CheckpointStore, address: str, size: int = 10) -> None:
    def fill(folder: Path) -> None:
        (folder / "weights").write_bytes(b"x" * size)

    store.write(address, fill, kind="full", step=1, examples=8)


def test_a_draft_is_seen_once_it_is_published(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    draft = store.draft("trial-1/attempt-1/step-1", reserved=500)
    (draft.directory / "weights").write_bytes(b"x" * 10)
    assert store.addresses() == []
    (found,) = store.stored()
    assert (found.bytes, found.draft) == (500, True)
    draft.publish(kind="lora", step=7, examples=56)
    assert store.addresses() == ["trial-1/attempt-1/step-1"]
    (found,) = store.stored()
    assert (found.bytes, found.draft) == (10, False)
    checkpoint = store.open("trial-1/attempt-1/step-1")
    assert (checkpoint.kind, checkpoint.step, checkpoint.examples) == ("lora", 7, 56)
    draft.discard()
    assert store.exists("trial-1/attempt-1/step-1")


def test_a_discarded_draft_leaves_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    draft = store.draft("trial-1/step-1")
    (draft.directory / "weights").write_bytes(b"x")
    draft.discard()
    assert store.stored() == []


def test_a_draft_of_a_killed_writer_can_be_deleted_by_its_address(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.draft("trial-1/step-1", reserved=5)
    (found,) = store.stored()
    store.delete(found.address)
    assert store.stored() == []


def test_what_is_stored_is_listed_from_old_to_young_with_the_manifests_sizes(
    tmp_path: Path,
) -> None:
    store = CheckpointStore(tmp_path)
    for age, address in enumerate(("c", "a/b", "a/c")):
        put(store, address, size=10 + age)
        os.utime(tmp_path / address / "checkpoint.json", (1000 - age, 1000 - age))
    assert [(one.address, one.bytes) for one in store.stored()] == [
        ("a/c", 12),
        ("a/b", 11),
        ("c", 10),
    ]


@pytest.mark.parametrize("content", ["", "{}", '{"files": 3}'])
def test_a_damaged_manifest_hides_no_other_checkpoint(tmp_path: Path, content: str) -> None:
    store = CheckpointStore(tmp_path)
    for address in ("a", "b"):
        put(store, address)
    (tmp_path / "a" / "checkpoint.json").write_text(content)
    assert [one.address for one in store.stored() if one.bytes] == ["b"]


def test_an_empty_root_holds_nothing(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "nowhere").stored() == []
