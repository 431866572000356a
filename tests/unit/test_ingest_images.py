"""What counts as a whole image, and what as a box in it."""

import hashlib
import io
import itertools
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from components.core.errors import InputError
from components.core.runtimes.letterbox import read_image
from components.core.stores.open import open_store
from components.ingest.dataset import Label, LabelError, Record
from components.ingest.images import CHUNK, ImageError, boxes_in_pixels, inspect, take_in
from tests import sites

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif"}
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8))


def encoded(image=NOISE, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_image_is_named_by_its_content(kind):
    data = encoded(kind=kind)
    image = inspect(data)
    assert (image.width, image.height, image.suffix) == (200, 120, SUFFIXES[kind])
    assert image.id == hashlib.sha256(data).hexdigest()
    assert image.key == f"blobs/{image.id[:2]}/{image.id}{SUFFIXES[kind]}"


@pytest.mark.parametrize(
    ("kind", "orientation"), list(itertools.product(["JPEG", "PNG", "WEBP", "TIFF"], [1, 3, 6, 8]))
)
def test_the_size_is_that_of_the_image_as_the_trainer_decodes_it(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(kind=kind, exif=exif)
    image = inspect(data)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert (image.height, image.width) == decoded.shape[:2]
    assert (image.width, image.height) == ((120, 200) if orientation in (6, 8) else (200, 120))


@pytest.mark.parametrize(
    "compression", ["zstd", "lzma", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"]
)
def test_a_tiff_that_is_taken_can_be_read_by_the_trainer(tmp_path, compression):
    path = tmp_path / "one.tif"
    path.write_bytes(encoded(NOISE.convert("1" if compression == "group4" else "RGB"), "TIFF", compression=compression))
    if compression in ("zstd", "lzma"):
        with pytest.raises(ImageError, match=f"^undecodable: a TIFF with {compression} compression: save it with LZW"):
            inspect(path.read_bytes())
        return
    image = inspect(path.read_bytes())
    assert read_image(path).shape == (image.height, image.width, 3)


@pytest.mark.parametrize("mode", ["L", "CMYK", "YCbCr"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_sort_of_jpeg_is_taken(mode, progressive):
    assert inspect(encoded(NOISE.convert(mode), progressive=progressive)).suffix == ".jpg"


def test_bytes_after_the_end_of_a_jpeg_are_harmless():
    assert inspect(encoded() + b"what some cameras append").width == 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_metadata_are_harmless():
    assert inspect(encoded(exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12garbage")).width == 200


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_a_truncated_image_is_found(kind, keep):
    data = encoded(kind=kind)
    with pytest.raises(ImageError, match="^(truncated|undecodable): "):
        inspect(data[: int(len(data) * keep)])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lost_its_middle_or_end_is_found(progressive):
    whole = encoded(progressive=progressive)
    half = len(whole) // 2
    for damaged in (
        whole[:-2],
        whole[:half] + b"\xff\xd9",
        whole[:half] + bytes(half),
        whole[:half] + bytes(half) + b"\xff\xd9",
        whole[:half] + whole[half + 2000 :],
    ):
        with pytest.raises(ImageError, match="^(truncated|undecodable): "):
            inspect(damaged)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image: the file is empty"),
        (b"hello, this is no image", "not an image: neither JPEG"),
        (encoded(kind="GIF"), "not an image: neither JPEG"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "undecodable: "),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "undecodable: "),
        (encoded(Image.new("F", (5, 5)), "TIFF"), "undecodable: 32 bits per value"),
    ],
)
def test_what_is_no_image_is_told_so(data, reason):
    with pytest.raises(ImageError, match=f"^{reason}"):
        inspect(data)


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_a_camera_of_few_bits_in_a_file_of_16_is_refused_as_black(format_, bits):
    """OpenCV, in training and at the edge, takes the highest 8 of 16 bits."""
    buffer = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 1 << bits, (40, 60)).astype(np.uint16)
    Image.fromarray(values).save(buffer, format_)
    with pytest.raises(ImageError, match=rf"black: 16 bits per value, but none above {values.max()}: scale the values"):
        inspect(buffer.getvalue())


@pytest.mark.parametrize(("highest", "fits"), [(4095, False), (65535, True)])
def test_colours_of_16_bits_are_taken_where_they_use_them(highest, fits):
    values = np.random.default_rng(0).integers(0, highest + 1, (40, 60, 3)).astype(np.uint16)
    data = cv2.imencode(".png", values)[1].tobytes()
    if fits:
        assert inspect(data).width == 60
    else:
        with pytest.raises(ImageError, match="black: 16 bits per value"):
            inspect(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 20_000])
def test_a_bomb_of_pixels_is_refused_before_it_is_decoded(side):
    with pytest.raises(ImageError, match="^too large: "):
        inspect(encoded(Image.new("1", (side, side)), "PNG"))


def box(*corners, normalised=False):
    return [Label("hat", corners, normalised)]


def test_boxes_come_out_in_pixels():
    assert boxes_in_pixels(box(1, 2, 3, 4), 200, 100) == (("hat", 1, 2, 3, 4),)
    assert boxes_in_pixels(box(0.25, 0.5, 0.75, 1, normalised=True), 200, 100) == (("hat", 50, 50, 150, 100),)


def test_up_to_a_pixel_outside_is_cut_off():
    assert boxes_in_pixels(box(-1, -0.5, 201, 100.25), 200, 100) == (("hat", 0, 0, 200, 100),)


@pytest.mark.parametrize("corners", [(-1.5, 0, 9, 9), (0, -1.5, 9, 9), (0, 0, 201.5, 9), (0, 0, 9, 101.5)])
def test_a_box_outside_the_image_is_refused(corners):
    with pytest.raises(LabelError, match="^box outside the image: hat .* in 200x100"):
        boxes_in_pixels(box(*corners), 200, 100)


@pytest.mark.parametrize("corners", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9), (5, 9, 9, 5), (-1, 0, 0, 9)])
def test_an_inverted_or_empty_box_is_refused(corners):
    with pytest.raises(LabelError, match="^inverted or zero-area box: hat"):
        boxes_in_pixels(box(*corners), 200, 100)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_box_that_is_not_finite_is_refused(bad):
    for place in range(4):
        corners = [1.0, 2.0, 3.0, 4.0]
        corners[place] = bad
        with pytest.raises(LabelError, match="^NaN or infinite: hat"):
            boxes_in_pixels(box(*corners), 200, 100)


@pytest.fixture
def records(tmp_path):
    """More images than one process is given at once, one of them damaged."""
    made = []
    for number in range(2 * CHUNK + 5):
        path = tmp_path / f"{number:03d}.jpg"
        path.write_bytes(encoded(Image.new("RGB", (20, 10)), comment=str(number)))
        made.append(Record(path.name, str(path), (Label("hat", (1, 1, 5, 5)),), split="train"))
    (tmp_path / "003.jpg").write_bytes(b"broken")
    return made


def test_processes_change_nothing_and_leave_whole_blobs(records, tmp_path):
    alone = list(
        itertools.chain.from_iterable(take_in([record], open_store(str(tmp_path / "a"))) for record in records)
    )
    store = open_store(str(tmp_path / "b"))
    together = list(take_in(iter(records), store, processes=2))
    assert together == alone
    assert [outcome.reason for _, outcome in together if outcome.reason] == [alone[3][1].reason] != [""]
    for _, outcome in together:
        if outcome.image:
            assert hashlib.sha256(store.read(outcome.image.key)).hexdigest() == outcome.image.id
    assert sum(path.is_file() for path in (tmp_path / "b").rglob("*")) == len(records) - 1


def test_a_blob_that_is_there_is_not_written_again_unless_it_has_another_size(records, tmp_path):
    store = open_store(str(tmp_path / "job"))
    ((_, outcome),) = take_in(records[:1], store)
    path = store.local_path(outcome.image.key)
    os.utime(path, (1, 1))
    list(take_in(records[:1], store))
    assert path.stat().st_mtime == 1
    path.write_bytes(b"half")
    list(take_in(records[:1], store))
    assert path.read_bytes() == (tmp_path / "000.jpg").read_bytes()


def test_a_store_that_cannot_be_written_is_one_clear_line(records, tmp_path):
    (tmp_path / "job").write_text("a file where a folder is needed")
    with pytest.raises(InputError, match="the image cannot be stored"):
        list(take_in(records[:1], open_store(str(tmp_path / "job"))))


def test_a_killed_process_is_one_clear_line(records, tmp_path):
    import psutil

    def killing():
        for number, record in enumerate(itertools.cycle(records)):
            if number == 20 * CHUNK:
                for child in psutil.Process().children():
                    if "spawn_main" in " ".join(child.cmdline()):
                        child.send_signal(signal.SIGKILL)
            yield record

    with pytest.raises(InputError, match="was killed.*give the step more memory"):
        list(take_in(killing(), open_store(str(tmp_path / "job")), processes=2))


def test_a_script_without_a_guard_is_told_to_have_one(tmp_path):
    sites.arrive(tmp_path / "data", "day", CHUNK, seed=1)
    script = tmp_path / "mine.py"
    script.write_text(
        "from components.ingest.ingest import ingest\n"
        f"ingest({str(tmp_path / 'data')!r}, {str(tmp_path / 'job')!r}, classes='red,blue')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, str(script)], check=False, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert 'call ingest under if __name__ == "__main__":' in done.stderr.splitlines()[-1]


def test_images_go_to_s3(records, tmp_path, s3):
    store = open_store(s3)
    outcomes = [outcome for _, outcome in take_in(records, store, processes=2)]
    stored = {info.key: info.size for info in store.list("blobs/")}
    assert stored == {outcome.image.key: outcome.bytes for outcome in outcomes if outcome.image}
    assert len(stored) == len(records) - 1
