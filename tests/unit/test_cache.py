import hashlib
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from components.core import cache
from components.core.cache import cache_folder, fetch_blobs, fetch_masks, local_file, own_folder
from components.core.errors import InputError, NotFoundError
from components.core.manifest import Manifest
from components.core.stores.open import open_store

IMAGES = [random.Random(number).randbytes(2000 + number) for number in range(30)]


def manifest_in(root, images=IMAGES):
    """A manifest whose blobs lie in a store."""
    store = open_store(root)
    rows = []
    for number, image in enumerate(images):
        sample_id = hashlib.sha256(image).hexdigest()
        key = f"blobs/{sample_id[:2]}/{sample_id}{('.jpg', '.png')[number % 2]}"
        store.write(key, image)
        rows.append({"id": sample_id, "uri": store.uri_of(key), "width": 1, "height": 1, "group": sample_id})
    return Manifest.of([{"split": "", "source": "", "round": 0, "annotations": None} | row for row in rows], ["helmet"])


@pytest.fixture(params=["file", "s3"])
def manifest(request, tmp_path):
    return manifest_in(request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "my job"))


def test_every_image_in_table_order(manifest, tmp_path):
    files = fetch_blobs(manifest, tmp_path / "cache")
    assert [file.read_bytes() for file in files] == IMAGES
    ids = manifest.table["id"].to_list()
    suffixes = [".jpg", ".png"] * 15
    assert files == [
        tmp_path / "cache" / sample_id[:2] / (sample_id + suffix)
        for sample_id, suffix in zip(ids, suffixes, strict=True)
    ]
    assert sum(path.is_file() for path in (tmp_path / "cache").rglob("*")) == len(IMAGES)


def test_what_is_there_is_kept(manifest, tmp_path):
    before = [file.stat() for file in fetch_blobs(manifest, tmp_path / "cache")]
    after = [file.stat() for file in fetch_blobs(manifest, tmp_path / "cache")]
    assert [(status.st_ino, status.st_mtime_ns) for status in before] == [
        (status.st_ino, status.st_mtime_ns) for status in after
    ]


def test_local_images_are_linked(tmp_path):
    manifest = manifest_in(str(tmp_path / "job"))
    for file, uri in zip(fetch_blobs(manifest, tmp_path / "cache"), manifest.table["uri"], strict=True):
        assert file.samefile(uri.removeprefix("file://"))
        assert not file.is_symlink()


def test_images_on_another_disk_are_linked(tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system to link across")
    manifest = manifest_in(str(tmp_path / "job"), IMAGES[:2])
    folder = other / f"edge-tests-{os.getpid()}"
    try:
        for _ in range(2):
            files = fetch_blobs(manifest, folder)
            assert [file.read_bytes() for file in files] == IMAGES[:2]
            assert all(file.is_symlink() for file in files)
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_a_stale_link_is_replaced(tmp_path):
    manifest = manifest_in(str(tmp_path / "job"), IMAGES[:1])
    sample_id = manifest.table["id"][0]
    stale = tmp_path / "cache" / sample_id[:2] / f"{sample_id}.jpg"
    stale.parent.mkdir(parents=True)
    stale.symlink_to("/no/such/blob")
    assert fetch_blobs(manifest, tmp_path / "cache")[0].read_bytes() == IMAGES[0]


def test_a_damaged_copy_is_fetched_again(s3, tmp_path):
    manifest = manifest_in(s3, IMAGES[:3])
    files = fetch_blobs(manifest, tmp_path)
    files[0].write_bytes(b"")
    files[1].write_bytes(bytes(len(IMAGES[1])))
    assert [file.read_bytes() for file in fetch_blobs(manifest, tmp_path)] == IMAGES[:3]


def test_a_blob_that_is_not_what_its_id_says(s3, tmp_path):
    manifest = manifest_in(s3, IMAGES[:3])
    uri = manifest.table["uri"][1]
    open_store(s3).write(uri.removeprefix(s3 + "/"), b"something else")
    with pytest.raises(InputError, match=f"{uri}: the content has SHA-256"):
        fetch_blobs(manifest, tmp_path)
    assert not any(path.read_bytes() == b"something else" for path in tmp_path.rglob("*") if path.is_file())


def test_a_blob_that_is_gone(manifest, tmp_path):
    root, _, key = manifest.table["uri"][7].partition("/blobs/")
    open_store(root).delete("blobs/" + key)
    with pytest.raises(NotFoundError, match=manifest.table["id"][7]):
        fetch_blobs(manifest, tmp_path / "cache")


def test_no_samples(tmp_path):
    assert fetch_blobs(Manifest.of([], []), tmp_path) == []


def test_progress_is_told(manifest, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache, "PROGRESS_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        fetch_blobs(manifest, tmp_path / "cache")
    assert "fetched 30 of 30 images" in caplog.text


FETCH = """
import sys
from pathlib import Path
from components.core.cache import fetch_blobs
from components.core.manifest import Manifest
fetch_blobs(Manifest.read(sys.argv[1]), Path(sys.argv[2]))
"""


def test_two_processes_fill_one_folder(manifest, tmp_path):
    manifest.write(tmp_path / "manifest.parquet")
    command = [sys.executable, "-c", FETCH, str(tmp_path / "manifest.parquet"), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sorted(file.read_bytes() for file in files) == sorted(IMAGES)


def test_where_the_cache_lies(tmp_path, monkeypatch, s3):
    monkeypatch.delenv("EDGE_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("/data/job") == Path("/data/job/cache")
    assert cache_folder(s3) == tmp_path / ".cache" / "edge-learning"
    monkeypatch.setenv("EDGE_CACHE_DIR", "/cache")
    assert cache_folder("/data/job") == cache_folder(s3) == Path("/cache")


def test_what_belongs_to_one_job_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path))
    assert own_folder("/data/one") == own_folder("file:///data/one")
    assert own_folder("/data/one") != own_folder("/data/two")
    assert own_folder("/data/one").is_relative_to(tmp_path)


def test_a_copy_that_is_damaged_is_fetched_again(s3, tmp_path):
    store, key = open_store(s3), f"manifests/r0001-{hashlib.sha256(b'all of it').hexdigest()[:8]}.parquet"
    store.write(key, b"all of it")
    copy = local_file(store, key, tmp_path)
    copy.write_bytes(b"half")
    assert local_file(store, key, tmp_path).read_bytes() == b"all of it"
    store.write(key, b"half")
    assert local_file(store, key, tmp_path) == copy  # what is here is whole
    copy.unlink()
    with pytest.raises(InputError, match=rf"{s3}/{key}: damaged"):
        local_file(store, key, tmp_path)
    with pytest.raises(NotFoundError, match=r"other-01234567.parquet"):
        local_file(store, "other-01234567.parquet", tmp_path)


@pytest.mark.parametrize("damage", [b"half", None])
def test_a_damaged_object_of_this_machine(tmp_path, damage):
    store, key = open_store(str(tmp_path / "job")), "feed/0123456789abcdef.parquet"
    if damage:
        store.write(key, damage)
    with pytest.raises(InputError, match=rf"job/{key}: (damaged|no such object)"):
        local_file(store, key, tmp_path / "cache")


def test_a_cache_that_may_not_be_written_is_replaced_with_one_line(tmp_path, monkeypatch, caplog):
    locked = tmp_path / "volume"
    locked.mkdir()
    monkeypatch.setenv("EDGE_CACHE_DIR", str(locked))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    first, second = cache_folder(str(tmp_path / "job")), cache_folder(str(tmp_path / "job"))
    assert first == second != locked
    (line,) = caplog.messages
    assert line.startswith(f"the cache {locked} is not writable for user")


def with_masks_in(manifest, root):
    """The manifest with a mask for each sample, which is any blob here."""
    store = open_store(root)
    uris = []
    for number in range(len(manifest)):
        data = b"mask %d" % (number // 2)  # two images may have the same mask
        digest = hashlib.sha256(data).hexdigest()
        store.write(f"blobs/{digest[:2]}/{digest}.png", data)
        uris.append(store.uri_of(f"blobs/{digest[:2]}/{digest}.png"))
    return Manifest(manifest.table.with_columns(pl.Series("mask", uris)), manifest.classes)


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_every_mask_in_table_order(kind, request, tmp_path):
    root = request.getfixturevalue("s3") if kind == "s3" else str(tmp_path / "job")
    manifest = with_masks_in(manifest_in(root), root)
    folder = tmp_path / "cache"
    images = fetch_blobs(manifest, folder)
    masks = fetch_masks(manifest, folder)
    assert [file.read_bytes() for file in masks] == [b"mask %d" % (number // 2) for number in range(30)]
    assert [file.read_bytes() for file in images] == IMAGES
    assert fetch_masks(manifest, folder) == masks


def test_a_sample_without_a_mask_is_an_error(tmp_path):
    manifest = with_masks_in(manifest_in(str(tmp_path / "job"), IMAGES[:3]), str(tmp_path / "job"))
    table = manifest.table.with_columns(mask=pl.when(pl.int_range(3) > 0).then(pl.col("mask")))
    with pytest.raises(InputError, match="1 of 3 samples have no mask"):
        fetch_masks(Manifest(table, manifest.classes), tmp_path / "cache")


def test_a_damaged_mask_is_an_error_that_names_it(tmp_path):
    manifest = with_masks_in(manifest_in(str(tmp_path / "job"), IMAGES[:3]), str(tmp_path / "job"))
    uri = manifest.table["mask"][2]
    Path(uri.removeprefix("file://")).write_bytes(b"something else")
    with pytest.raises(InputError, match=f"{uri}: damaged"):
        fetch_masks(manifest, tmp_path / "cache")


def test_a_mask_that_is_gone_is_an_error_that_names_it(tmp_path):
    manifest = with_masks_in(manifest_in(str(tmp_path / "job"), IMAGES[:1]), str(tmp_path / "job"))
    path = Path(manifest.table["mask"][0].removeprefix("file://"))
    path.unlink()
    with pytest.raises(NotFoundError, match=path.name):
        fetch_masks(manifest, tmp_path / "cache")
