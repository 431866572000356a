import cv2
import numpy as np
import pytest
from PIL import Image

from components.core.errors import InputError
from components.core.runtimes.letterbox import letterbox, read_image, undo

SHAPES = [(480, 640), (640, 480), (1, 3000), (3000, 1), (333, 517), (31, 17), (640, 640), (720, 1281), (97, 97)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(640, 640), (352, 640), (96, 160)])
def test_canvas_equals_that_of_training(shape, size, ultralytics):
    image = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    canvas, _ = letterbox(image, size)
    expected = ultralytics.data.augment.LetterBox(size, auto=False, scaleup=True)(image=image)
    assert canvas.shape == (*size, 3)
    np.testing.assert_array_equal(canvas, expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(640, 640), (352, 640)])
def test_boxes_come_back_as_from_ultralytics(shape, size, ultralytics):
    rng = np.random.default_rng(sum(shape))
    boxes = rng.uniform(-20, 660, (50, 4)).astype(np.float32)
    _, placement = letterbox(np.zeros((*shape, 3), np.uint8), size)
    expected = ultralytics.utils.ops.scale_boxes(size, boxes.copy(), shape)
    np.testing.assert_allclose(undo(boxes, placement), expected, atol=1e-2 * max(shape) / 640, rtol=1e-6)


def test_a_box_goes_there_and_back():
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:40, 60:120] = 255
    canvas, placement = letterbox(image, (320, 320), pad=0)
    rows, columns = np.nonzero(canvas[:, :, 0] > 127)
    on_canvas = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_allclose(undo(on_canvas, placement), [[60, 20, 120, 40]], atol=1)


def test_boxes_are_clipped_to_the_image():
    _, placement = letterbox(np.zeros((100, 200, 3), np.uint8), (320, 320))
    clipped = undo(np.array([[-50, -50, 900, 900]], np.float32), placement)
    np.testing.assert_array_equal(clipped, [[0, 0, 200, 100]])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_read_as_they_are_displayed(suffix, tmp_path):
    pixels = np.full((20, 40, 3), 10, np.uint8)
    pixels[:10, :20] = (250, 120, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(pixels).save(tmp_path / f"turned.{suffix}", exif=exif, quality=95)
    image = read_image(tmp_path / f"turned.{suffix}")
    assert (image.shape, image.dtype) == ((40, 20, 3), np.uint8)
    assert np.abs(image[5, 15].astype(int) - (250, 120, 0)).max() < 12
    assert image[35, 5].max() < 30


def test_grey_transparent_and_deep_images_have_three_channels_of_eight_bits(tmp_path):
    for name, pixels in {
        "grey": np.full((8, 9), 77, np.uint8),
        "transparent": np.full((8, 9, 4), 77, np.uint8),
        "deep": np.full((8, 9, 3), 77 * 257, np.uint16),
    }.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), np.full((8, 9, 3), 77, np.uint8))


@pytest.mark.parametrize("content", [None, b"", b"not an image"])
def test_an_unreadable_image_is_named(content, tmp_path):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.jpg: cannot be read"):
        read_image(path)
