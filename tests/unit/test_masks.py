"""Masks as files: what is written is read again, and nothing else is taken for a mask."""

import io

import numpy as np
import pytest
from PIL import Image

from components.core.errors import InputError
from components.core.masks import VOID, encode_mask, read_mask

MASK = np.array([[0, 1, 2], [VOID, 254, 7]], dtype=np.uint8)


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_mask_is_read_as_it_was_written(tmp_path):
    (tmp_path / "m.png").write_bytes(encode_mask(MASK))
    read = read_mask(tmp_path / "m.png")
    assert read.dtype == np.uint8
    assert np.array_equal(read, MASK)
    assert encode_mask(np.asfortranarray(MASK)) == encode_mask(MASK), "the layout in memory changes no byte"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (png(Image.fromarray(MASK).convert("RGB")), "must have one channel of 8 bits, not RGB"),
        (png(Image.fromarray(MASK).convert("P")), "must have one channel of 8 bits, not P"),
        (png(Image.fromarray(MASK.astype(np.uint16))), "must have one channel of 8 bits, not I;16"),
        (encode_mask(MASK)[:45], "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path, data, complaint):
    (tmp_path / "m.png").write_bytes(data)
    with pytest.raises(InputError, match=complaint) as error:
        read_mask(tmp_path / "m.png")
    assert "\n" not in str(error.value)


def test_no_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png"):
        read_mask(tmp_path / "gone.png")
