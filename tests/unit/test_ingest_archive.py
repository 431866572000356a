"""Unpacking archives, whole and hostile."""

import io
import stat
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest

from components.core.errors import InputError
from components.ingest.archive import Limits, unpack

GENEROUS = Limits(max_files=1000, max_unpacked_gb=1, max_compression_ratio=1000)
NOISE = np.random.default_rng(0).bytes(200_000)
FILES = {"a/one.txt": b"one", "a/b/two.bin": NOISE * 6, "three.txt": b""}


def zipped(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def unpacked(path, folder, limits=GENEROUS):
    folder.mkdir()
    unpack(path, folder, limits, path.name)
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "target"


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_comes_out_as_it_went_in(tmp_path, target, compression):
    assert unpacked(zipped(tmp_path / "named.anything", FILES, compression), target) == FILES


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_comes_out_as_it_went_in(tmp_path, target, mode):
    long_name = "deep/" * 40 + "file.txt"  # needs an extended header
    assert unpacked(tarred(tmp_path / "x", FILES | {long_name: b"x"}, mode), target) == FILES | {long_name: b"x"}


def test_folders_and_leading_dots_are_fine(tmp_path, target):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in (".", "./a"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
        member = tarfile.TarInfo("./a/file")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    assert unpacked(tmp_path / "x.tar", target) == {"a/file": b"x"}


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize(
    "name", ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "..\\out.txt", "a\\b.txt", "C:/out.txt", "c:out.txt"]
)
def test_a_name_that_leads_out_is_refused(tmp_path, target, make, name):
    with pytest.raises(InputError, match="outside the target folder") as caught:
        unpacked(make(tmp_path / "x", {"good.txt": b"1", name: b"2"}), target)
    assert repr(name) in str(caught.value)
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_a_tar_with_a_link_or_device_is_refused(tmp_path, target, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("a/strange")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(InputError, match="'a/strange' is a link or device"):
        unpacked(tmp_path / "x.tar", target)


def test_a_zip_with_a_link_is_refused(tmp_path, target):
    member = zipfile.ZipInfo("strange")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(InputError, match="'strange' is a link or device"):
        unpacked(tmp_path / "x.zip", target)


def test_a_folder_of_dos_may_lack_the_slash(tmp_path, target):
    folder = zipfile.ZipInfo("images")
    folder.create_system, folder.external_attr = 0, 0x10
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(folder, "")
        archive.writestr("images/a.txt", "a")
    assert unpacked(tmp_path / "x.zip", target) == {"images/a.txt": b"a"}


@pytest.mark.parametrize("make", [zipped, tarred])
def test_too_many_files_are_refused(tmp_path, target, make):
    files = {f"{number}.txt": b"" for number in range(11)}
    with pytest.raises(InputError, match="more than 10 files: raise max_files"):
        unpacked(make(tmp_path / "x", files), target, Limits(10, 1, 1000))


def test_a_zip_bomb_is_stopped_by_what_comes_out_not_by_its_header(tmp_path, target):
    path = zipped(tmp_path / "x.zip", {"bomb": bytes(20_000_000)})
    data = bytearray(path.read_bytes())
    for place in (22, data.rfind(b"PK\x01\x02") + 24):  # the unpacked size in both headers: pretend 100 bytes
        data[place : place + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError):
        unpacked(path, target, Limits(10, 1, 200))
    assert sum(file.stat().st_size for file in target.rglob("*")) < 5_000_000


@pytest.mark.parametrize(("make", "options"), [(zipped, {}), (tarred, {"mode": "w:gz"}), (tarred, {"mode": "w:xz"})])
def test_a_bomb_is_stopped_by_its_ratio(tmp_path, target, make, options):
    path = make(tmp_path / "x", {"bomb": bytes(20_000_000)}, **options)
    with pytest.raises(InputError, match="more than 200 times its size.*max_compression_ratio"):
        unpacked(path, target, Limits(10, 1, 200))
    assert sum(file.stat().st_size for file in target.rglob("*")) <= 201 * path.stat().st_size + 2**20


@pytest.mark.parametrize("make", [zipped, tarred])
def test_too_many_bytes_are_refused(tmp_path, target, make):
    with pytest.raises(InputError, match="more than 0.001 GB: raise max_unpacked_gb"):
        unpacked(make(tmp_path / "x", {"a": NOISE, "b": bytes(1_000_000)}), target, Limits(10, 0.001, 1000))


@pytest.mark.parametrize("form", ["gnu", "posix"])
@pytest.mark.parametrize("limits", [Limits(10, 0.001, 1e6), Limits(10, 1, 100)])
def test_the_holes_of_a_sparse_file_count(tmp_path, target, form, limits):
    with (tmp_path / "hole.jpg").open("wb") as file:
        file.truncate(3_000_000)
    subprocess.run(["tar", "--sparse", f"--format={form}", "-cf", "a.tar", "hole.jpg"], cwd=tmp_path, check=True)
    assert (tmp_path / "a.tar").stat().st_size < 20_000
    with pytest.raises(InputError, match="unpacks to more than"):
        unpacked(tmp_path / "a.tar", target, limits)


def test_a_tar_header_that_claims_gigabytes_is_not_read_into_memory(tmp_path, target):
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2**33
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(InputError, match="a header of"):
        unpacked(tmp_path / "x.tar", target)


@pytest.mark.parametrize("cut", [1, 5, 1000, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("make", "options"), [(zipped, {}), (tarred, {}), (tarred, {"mode": "w:gz"})])
def test_a_truncated_archive_is_refused(tmp_path, target, make, options, cut):
    files = {f"{number}.bin": NOISE for number in range(5)}
    data = make(tmp_path / "whole", files, **options).read_bytes()
    if make is tarred and not options:
        data = data.rstrip(b"\0")  # of the zeros at its end any number will do
    (tmp_path / "cut").write_bytes(data[: -int(cut * len(data) if cut < 1 else cut)])
    with pytest.raises(InputError, match="truncated, damaged or encrypted"):
        unpacked(tmp_path / "cut", target)


def test_a_tar_cut_between_two_members_is_refused(tmp_path, target):
    data = tarred(tmp_path / "x.tar", {"one": bytes(512), "two": bytes(512)}).read_bytes()
    (tmp_path / "x.tar").write_bytes(data[:1024])
    with pytest.raises(InputError, match="the end mark is missing"):
        unpacked(tmp_path / "x.tar", target)


def test_a_tar_with_a_damaged_header_is_refused(tmp_path, target):
    data = bytearray(tarred(tmp_path / "x.tar", {"one": bytes(512), "two": bytes(512)}).read_bytes())
    data[1024:1034] = b"##########"
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(InputError, match="the end mark is missing"):
        unpacked(tmp_path / "x.tar", target)


@pytest.mark.parametrize(("make", "options"), [(zipped, {"compression": 0}), (tarred, {"mode": "w:gz"})])
def test_a_wrong_checksum_is_refused(tmp_path, target, make, options):
    path = make(tmp_path / "x", {"a.bin": NOISE}, **options)
    data = bytearray(path.read_bytes())
    place = -6 if make is tarred else 1000  # in gzip's checksum, or in the content
    data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match="(?i)crc"):
        unpacked(path, target)


def test_an_encrypted_zip_is_refused(tmp_path, target):
    path = zipped(tmp_path / "x.zip", {"a": b"secret"}, 0)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="encrypted"):
        unpacked(path, target)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_name_twice_is_refused(tmp_path, target):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", "1")
        archive.writestr("a", "2")
    with pytest.raises(InputError, match="'a' .File exists"):
        unpacked(tmp_path / "x.zip", target)


def test_what_is_no_archive_is_refused(tmp_path, target):
    (tmp_path / "page.zip").write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match="page.zip: not a zip or tar archive"):
        unpacked(tmp_path / "page.zip", target)
