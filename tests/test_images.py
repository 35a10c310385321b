"""Any usual kind of image becomes the same uint8 RGB 3x32x32."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from allcnn_zoo.errors import ImageError
from allcnn_zoo.images import is_single, to_batch

from .conftest import EXAMPLES

CAT = EXAMPLES / "cat.png"


def cat() -> np.ndarray:
    return np.array(Image.open(CAT))


def test_every_kind_of_the_same_image_gives_the_same_batch() -> None:
    array = cat()
    expected = torch.from_numpy(array).permute(2, 0, 1)[None]
    kinds = [
        CAT,
        str(CAT),
        Image.open(CAT),
        array,
        torch.from_numpy(array).permute(2, 0, 1),
        array.transpose(2, 0, 1),
        torch.from_numpy(array),
    ]
    for kind in kinds:
        assert torch.equal(to_batch(kind), expected)
        assert is_single(kind)
    assert torch.equal(to_batch(kinds), expected.expand(len(kinds), -1, -1, -1))


def test_batches_may_have_the_colours_first_or_last() -> None:
    array = np.stack([cat()] * 4)
    first = torch.from_numpy(array).permute(0, 3, 1, 2)
    for batch in (array, first, first.numpy(), torch.from_numpy(array)):
        assert torch.equal(to_batch(batch), first)
        assert not is_single(batch)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    assert to_batch(Image.open(CAT).convert("RGB").convert(mode)).shape == (1, 3, 32, 32)


def test_grey_of_16_bits_is_scaled_and_not_cut_off(tmp_path) -> None:
    grey = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    batch = to_batch(tmp_path / "deep.png")
    assert torch.equal(batch[0, 1], torch.from_numpy((grey >> 8).astype(np.uint8)))


def test_grey_integers_of_8_bits_stay_as_they_are() -> None:
    grey = np.arange(0, 256, dtype=np.int32).repeat(4).reshape(32, 32)
    batch = to_batch(Image.fromarray(grey, mode="I"))
    assert torch.equal(batch[0, 1], torch.from_numpy(grey.astype(np.uint8)))


def test_grey_of_floating_point_is_refused() -> None:
    with pytest.raises(ImageError, match="floating point"):
        to_batch(Image.fromarray(np.random.default_rng(0).random((32, 32), np.float32)))


def test_grey_of_32_bits_is_refused() -> None:
    with pytest.raises(ImageError, match=r"values 0\.\.\.70000; scale it"):
        to_batch(Image.fromarray(np.full((32, 32), 70000, np.int32) * np.eye(32, dtype=np.int32)))


def test_grey_arrays_become_rgb() -> None:
    grey = np.arange(1024, dtype=np.uint8).reshape(32, 32)
    for array in (grey, grey[..., None], torch.from_numpy(grey)[None]):
        batch = to_batch(array)
        assert batch.shape == (1, 3, 32, 32)
        assert all(torch.equal(batch[0, c], torch.from_numpy(grey)) for c in range(3))


@given(st.integers(1, 100), st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_any_size_becomes_32x32(height: int, width: int) -> None:
    batch = to_batch(np.full((height, width, 3), (10, 200, 30), np.uint8))
    assert batch.shape == (1, 3, 32, 32)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[0, :, 7, 7], torch.tensor([10, 200, 30], dtype=torch.uint8))


def test_only_the_centre_square_counts() -> None:
    wide = np.zeros((64, 200, 3), np.uint8)
    wide[:, 68:132] = 255
    assert (to_batch(wide) == 255).all()


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = to_batch(stripes)[..., 2:-2, 2:-2].float()
    assert inner.sub(127.5).abs().max() < 16


def test_the_cameras_orientation_is_applied(tmp_path) -> None:
    picture = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    picture.save(tmp_path / "upright.png", exif=exif)
    turned = picture.transpose(Image.Transpose.ROTATE_270)
    assert torch.equal(to_batch(tmp_path / "upright.png"), to_batch(turned))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((32, 32, 3)), r"float64.*\* 255"),
        (np.zeros((32, 32, 5), np.uint8), r"\(32, 32, 5\)"),
        (np.zeros((0, 32, 3), np.uint8), r"\(0, 32, 3\)"),
        (np.zeros(7, np.uint8), r"\(7,\)"),
        (np.zeros((0, 5), np.uint8), r"\(0, 5\)"),
        ("a\0b.png", "cannot read"),
        (torch.zeros(3, 32, 32), "float32"),
        (42, "int is not an image"),
        (["cat.png", None], "cat.png"),
        ([], "no images"),
        (b"\x89PNG", "int is not an image"),
    ],
)
def test_what_is_not_an_image_is_named(wrong: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        to_batch(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 30, b"P6 x", b"qoif" + b"\0" * 30]
)
def test_a_file_that_is_no_image_is_named(tmp_path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.png"):
        to_batch(path)


def test_a_truncated_file_is_an_error_and_not_a_grey_image(tmp_path) -> None:
    path = tmp_path / "half.png"
    path.write_bytes(CAT.read_bytes()[:1200])
    with pytest.raises(ImageError, match=r"half\.png"):
        to_batch(path)


def test_an_array_that_must_not_be_written_to_is_an_image_as_well() -> None:
    array = np.zeros((2, 32, 32, 3), np.uint8)
    array.flags.writeable = False
    assert to_batch(array).shape == (2, 3, 32, 32)
