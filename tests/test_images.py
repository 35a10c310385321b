"""Any usual kind of image becomes the same uint8 RGB 3x32x32; anything else is refused."""

import io
import itertools
import os
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from allcnn_zoo import images as module
from allcnn_zoo.errors import ImageError
from allcnn_zoo.images import find_images, is_single, to_batch

from .conftest import EXAMPLES, ROOT

CAT = EXAMPLES / "cat.png"
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (32, 32, 3), np.uint8)


def first_channel(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.uint8))


def test_every_kind_of_the_same_image_gives_the_same_batch() -> None:
    array = np.array(Image.open(CAT))
    expected = torch.from_numpy(array).permute(2, 0, 1)[None]
    content = CAT.read_bytes()
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    with CAT.open("rb") as file, os.fdopen(reading, "rb") as pipe:
        kinds = [
            CAT, str(CAT), content, bytearray(content), io.BytesIO(content), file, pipe,
            Image.open(CAT), array, torch.from_numpy(array).permute(2, 0, 1),
            array.transpose(2, 0, 1), torch.from_numpy(array),
        ]  # fmt: skip
        batches = [to_batch(kind) for kind in kinds]
    assert all(torch.equal(batch, expected) for batch in batches)
    assert all(is_single(kind) for kind in kinds)
    assert torch.equal(to_batch([CAT, content, array]), expected.expand(3, -1, -1, -1))


def test_batches_may_have_the_colors_first_or_last() -> None:
    array = np.stack([NOISE] * 4)
    first = torch.from_numpy(array).permute(0, 3, 1, 2)
    array.flags.writeable = False
    for batch in (array, first, first.numpy(), torch.from_numpy(array.copy())):
        assert torch.equal(to_batch(batch), first)
        assert not is_single(batch)


# Formats and modes.

FORMATS = {  # what Pillow calls it, and how to write it without loss
    "PNG": {}, "BMP": {}, "TIFF": {}, "PPM": {}, "GIF": {}, "JPEG": {"quality": 100},
    "WEBP": {"lossless": True}, "AVIF": {"quality": 100},
}  # fmt: skip


def written(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **{**FORMATS.get(kind, {}), **options})
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_named_formats_are_opened_by_content_and_truncated_files_refused(kind, tmp_path) -> None:
    picture = Image.open(CAT).convert("RGB")
    content = written(picture, kind)
    path = tmp_path / "image.txt"
    path.write_bytes(content)
    difference = to_batch(path).float() - to_batch(picture).float()
    assert difference.abs().mean() < 12  # GIF has 256 colors
    for part in (0.2, 0.5, 0.9):
        with pytest.raises(ImageError, match="bytes"):
            to_batch(content[: int(len(content) * part)])


@pytest.mark.parametrize("kind", ["EPS", "JPEG2000", "PCX", "SGI", "TGA", "DDS", "MSP", "ICO"])
def test_other_formats_are_not_opened_whatever_the_file_is_called(kind, tmp_path) -> None:
    picture = Image.open(CAT).convert("1" if kind == "MSP" else "RGB").resize((32, 32))
    (tmp_path / "image.png").write_bytes(written(picture, kind))
    with pytest.raises(ImageError, match="in none of the formats PNG, JPEG"):
        to_batch(tmp_path / "image.png")


def test_no_program_in_a_picture_is_started(tmp_path, monkeypatch) -> None:
    """Not even in a PIL image, which reads its file when its pixels are asked for."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # else it may remember that none is
    path = tmp_path / "image.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n")
    with Image.open(path) as opened:
        for image in (path, path.read_bytes(), opened):
            with pytest.raises(ImageError):
                to_batch(image)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_other_color_modes_become_rgb(mode: str) -> None:
    picture = Image.open(CAT).convert("RGB").convert(mode)
    expected = np.array(picture.convert("RGB"))
    assert torch.equal(to_batch(picture)[0].movedim(0, -1), torch.from_numpy(expected))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("most", "shift"), [(65535, 8), (256, 8), (255, 0), (100, 0)])
def test_gray_of_16_bits_is_scaled_unless_it_holds_8(tmp_path, suffix, most, shift) -> None:
    gray = np.linspace(0, most, 1024).astype(np.uint16).reshape(32, 32)
    Image.fromarray(gray).save(tmp_path / f"deep{suffix}")
    for image in (tmp_path / f"deep{suffix}", Image.fromarray(gray.astype(np.int32))):
        assert torch.equal(to_batch(image)[0, 1], first_channel(gray >> shift))


def deep_png(colors: np.ndarray) -> bytes:
    """A PNG of 16 bits, which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        named = name + content
        return struct.pack(">I", len(content)) + named + struct.pack(">I", zlib.crc32(named))

    height, width, channels = colors.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colors)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(itertools.starmap(chunk, chunks))


def deep_tiff(values: np.ndarray, order: bytes, **tags: int) -> bytes:
    """A TIFF of 16 bits a value, which Pillow writes only in gray."""
    height, width, channels = values.shape
    entries = TiffImagePlugin.ImageFileDirectory_v2(prefix=order)
    entries.update({256: width, 257: height, 258: (16,) * channels, 259: 1})
    entries.update({262: 1 if channels == 1 else 2, 273: 0, 277: channels, 278: height})
    entries.update({279: values.nbytes, **{int(tag[1:]): value for tag, value in tags.items()}})
    if entries[262] == 2 and channels == 4:
        entries[338] = 2  # the fourth is transparency
    file = io.BytesIO()
    entries.save(file)
    return file.getvalue() + values.astype({b"II": "<u2", b"MM": ">u2"}[order]).tobytes()


@pytest.mark.parametrize("channels", [3, 4])
def test_colors_of_16_bits_are_scaled(channels) -> None:
    colors = NOISE.astype(np.uint16) << 8
    if channels == 4:
        colors = np.concatenate([colors, np.full((32, 32, 1), 65535, np.uint16)], axis=2)
    content = deep_png(colors)
    for image in (content, io.BytesIO(content)):
        assert torch.equal(to_batch(image)[0].movedim(0, -1), torch.from_numpy(NOISE))


@pytest.mark.parametrize("order", [b"II", b"MM"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_of_16_bits_is_scaled(channels, order) -> None:
    values = RANDOM.integers(0, 2**16, (32, 32, channels))
    batch = to_batch(deep_tiff(values, order))
    expected = (values >> 8)[..., : min(channels, 3)]
    assert torch.equal(batch, to_batch(expected.astype(np.uint8)))


EIGHT_IN_16 = {
    "TIFF": deep_tiff(NOISE, b"II"),
    "TIFF, big-endian": deep_tiff(NOISE, b"MM"),
    "TIFF, opaque": deep_tiff(np.dstack([NOISE, np.full((32, 32), 65535)]), b"II"),
    "TIFF for print": deep_tiff(np.dstack([NOISE, NOISE[..., 0]]), b"II", t262=5),
    "PNG": deep_png(NOISE),
    "PNG, gray and opaque": deep_png(np.dstack([NOISE[..., 0], np.full((32, 32), 65535)])),
    "PPM": b"P6 32 32 65535\n" + NOISE.astype(">u2").tobytes(),
}  # fmt: skip


@pytest.mark.parametrize("kind", EIGHT_IN_16)
def test_colors_of_8_bits_in_16_are_refused(kind) -> None:
    for image in (EIGHT_IN_16[kind], Image.open(io.BytesIO(EIGHT_IN_16[kind]))):
        with pytest.raises(ImageError, match="16 bits and are all below 256; save it with 8 bits"):
            to_batch(image)


@pytest.mark.parametrize("most", [256, 65535])
def test_dark_colors_of_16_bits_are_no_8_bits(most) -> None:
    """Even if they are only outside the center square."""
    wide = np.zeros((32, 40, 3), np.uint16)
    wide[5, 1, 2] = most
    for content in (deep_png(wide), deep_tiff(wide, b"MM")):
        assert not to_batch(content).any()


@pytest.mark.parametrize(
    ("channels", "tags"),
    [(3, {"t284": 2}), (4, {"t284": 2}), (1, {"t262": 0}), (1, {"t339": 2}), (1, {"t258": 12})],
)
@pytest.mark.parametrize("opened", [False, True])
def test_tiff_that_pillow_misreads_is_refused(channels, tags, opened) -> None:
    content = deep_tiff(np.full((32, 32, channels), 1000), b"II", **tags)
    with pytest.raises(ImageError, match=r"12 bits, or of 16 .*; save it"):
        to_batch(Image.open(io.BytesIO(content)) if opened else content)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RANDOM.random((32, 32), np.float32), "floating point"),
        (70000 * np.eye(32, dtype=np.int32), r"values 0\.\.\.70000; scale it"),
        (-np.eye(32, dtype=np.int32), r"values -1\.\.\.0; scale it"),
    ],
)
def test_gray_of_other_ranges_is_refused_and_the_file_named(tmp_path, values, message) -> None:
    Image.fromarray(np.asarray(values)).save(tmp_path / "gray.tif")
    with pytest.raises(ImageError, match=rf"gray\.tif: .*{message}"):
        to_batch(tmp_path / "gray.tif")


def test_gray_arrays_become_rgb() -> None:
    gray = np.arange(1024, dtype=np.uint8).reshape(32, 32)
    for array in (gray, gray[..., None], torch.from_numpy(gray)[None]):
        batch = to_batch(array)
        assert batch.shape == (1, 3, 32, 32)
        assert all(torch.equal(batch[0, c], first_channel(gray)) for c in range(3))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_used(kind) -> None:
    red, *others = (Image.new("RGB", (32, 32), color) for color in ("red", "lime", "blue"))
    content = written(red, kind, save_all=True, append_images=others)
    assert to_batch(content)[0, :, 7, 7].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_recorded_is_applied(tmp_path, orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(RANDOM.integers(0, 256, (40, 61, 3), np.uint8))
    stored.save(tmp_path / "photo.png", exif=exif)
    turned = np.array(stored)
    turned = turned[::-1] if orientation in (3, 4, 6, 7) else turned
    turned = turned[:, ::-1] if orientation in (2, 3, 7, 8) else turned
    if orientation in (6, 8):
        turned = np.array(stored.rotate(-90 if orientation == 6 else 90, expand=True))
    elif orientation >= 5:
        turned = turned.transpose(1, 0, 2)
    expected = to_batch(turned)
    opened = Image.open(tmp_path / "photo.png")
    for image in (tmp_path / "photo.png", opened):
        assert torch.equal(to_batch(image), expected)
    assert opened.size == stored.size, "the user's image is left as it is"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_picture_with_damaged_metadata_is_read(kind) -> None:
    content = io.BytesIO()
    Image.open(CAT).save(content, kind, exif=b"Exif\0\0no TIFF", lossless=True)
    for image in (content, Image.open(content)):
        assert torch.equal(to_batch(image), to_batch(CAT))


@pytest.mark.parametrize("transparency", [3, bytes(range(256))], ids=["a color", "a table"])
@pytest.mark.filterwarnings("error")
def test_transparency_is_dropped_without_a_word(transparency) -> None:
    content, palette = io.BytesIO(), Image.open(CAT).quantize()
    palette.save(content, "PNG", transparency=transparency)
    assert torch.equal(to_batch(content), to_batch(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_one_damaged_entry_does_not_lose_the_orientation(kind) -> None:
    entries = struct.pack("<HHIIHHI4s", 274, 3, 1, 6, 256, 2, 4, b"abc")  # a width that is text
    content, stored = io.BytesIO(), Image.fromarray(NOISE)
    stored.save(content, kind, exif=b"Exif\0\0II*\0\x08\0\0\0\2\0" + entries + bytes(4))
    expected = to_batch(np.rot90(np.array(Image.open(content)), -1))
    for image in (content, Image.open(content)):
        assert torch.equal(to_batch(image), expected)


# Sizes.


@given(st.integers(1, 100), st.integers(1, 100))
@settings(max_examples=25, deadline=None)
def test_any_size_becomes_32x32(height: int, width: int) -> None:
    batch = to_batch(np.full((height, width, 3), (10, 200, 30), np.uint8))
    assert batch.shape == (1, 3, 32, 32)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[0, :, 7, 7], torch.tensor([10, 200, 30], dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(64, 200), (200, 64), (64, 65)])
def test_only_the_center_square_counts(shape) -> None:
    height, width = shape
    large = np.zeros((*shape, 3), np.uint8)
    top, left = (height - 64) // 2, (width - 64) // 2
    large[top : top + 64, left : left + 64] = NOISE.repeat(2, 0).repeat(2, 1)
    expected = to_batch(NOISE.repeat(2, 0).repeat(2, 1))
    assert torch.equal(to_batch(large), expected)
    assert torch.equal(to_batch(Image.fromarray(large)), expected)


@pytest.mark.parametrize("size", [47, 100, 20, 33])
def test_resizing_is_bicubic_with_antialiasing_as_pillow_does_it(size) -> None:
    array = RANDOM.integers(100, 156, (size, size, 3), np.uint8)
    resized = np.array(Image.fromarray(array).resize((32, 32), Image.Resampling.BICUBIC))
    found = to_batch(array)[0].movedim(0, -1).numpy()
    assert np.abs(found.astype(int) - resized).max() <= 1


def test_what_resizing_overshoots_stays_black_and_white() -> None:
    halves = np.zeros((48, 48, 3), np.uint8)
    halves[:, 24:] = 255
    batch = to_batch(halves)
    assert (batch[..., :16] < 128).all()
    assert (batch[..., 16:] > 127).all()


def test_the_number_of_pixels_is_bounded_before_any_is_decoded(monkeypatch, tmp_path) -> None:
    side = int(module.MOST_PIXELS**0.5) + 1
    picture = Image.new("1", (side, side))
    picture.save(tmp_path / "large.png")
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it is decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it is decoded"))
    for image in (tmp_path / "large.png", picture):
        with pytest.raises(ImageError, match=rf"{side} x {side} pixels, and at most 80,000,000"):
            to_batch(image)


MEMORY = """
import resource, sys
from allcnn_zoo.images import to_batch
to_batch("examples/images/cat.png")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
to_batch(sys.argv[1])
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_memory_is_bounded_by_the_number_of_pixels(tmp_path) -> None:
    Image.new("RGBA", (2500, 2500)).save(tmp_path / "large.webp", lossless=True, quality=0)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "large.webp")]
    grown = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=100).stdout
    assert int(grown) < 20 * 2500**2


SHRINKING = """
import os, sys
from PIL import Image, ImageOps
from allcnn_zoo.images import to_batch
upright = ImageOps.exif_transpose

def shrink(image, **options):
    upright(image, **options)  # which has its pixels decoded, or mapped
    os.truncate(path, 100)

ImageOps.exif_transpose = shrink
for suffix in ("pgm", "bmp", "tif"):
    path = f"{sys.argv[1]}/gray.{suffix}"
    for opener in (str, lambda path: open(path, "rb")):
        Image.new("L", (2000, 2000), 77).save(path)
        assert (to_batch(opener(path)) == 77).all()
"""


def test_a_picture_that_shrinks_while_it_is_read_does_not_end_the_process(tmp_path) -> None:
    command = [sys.executable, "-c", SHRINKING, str(tmp_path)]
    subprocess.run(command, check=True, timeout=100)


def test_nothing_that_decodes_a_picture_could_map_its_file(tmp_path, monkeypatch) -> None:
    real = Image.open

    def look(source, **options):
        assert not hasattr(source, "fileno")
        return real(source, **options)

    monkeypatch.setattr(Image, "open", look)
    real(CAT).save(tmp_path / "cat.tif", compression="tiff_lzw")  # libtiff maps by itself
    with (tmp_path / "cat.tif").open("rb") as file:
        assert torch.equal(to_batch(file), to_batch(tmp_path / "cat.tif"))


# What is refused.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((32, 32, 3)), r"float64.*\* 255"),
        (np.zeros((32, 32, 5), np.uint8), r"\(32, 32, 5\)"),
        (np.zeros((0, 32, 3), np.uint8), r"\(0, 32, 3\)"),
        (np.zeros(7, np.uint8), r"\(7,\)"),
        (np.zeros((0, 5), np.uint8), r"\(0, 5\)"),
        ("a\0b.png", r"a\\x00b\.png"),
        ("a\x1b[2J\nb.png", r"a\\x1b\[2J\\nb\.png"),
        (torch.zeros(3, 32, 32), "float32"),
        (Image.new("RGB", (0, 0)), "it has no pixels"),
        (Image.new("I;16", (5, 0)), "it has no pixels"),
        (42, "int is not an image"),
        (["cat.png", None], "cat.png"),
        ([], "no images"),
        (b"\x89PNG", "bytes: it is damaged"),
        (io.StringIO("text"), "Binary data"),
        (EXAMPLES, "not a regular file"),
    ],
)
def test_what_is_not_an_image_is_named(wrong: object, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        to_batch(wrong)  # type: ignore[arg-type]
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 30, b"P6 x", b"qoif" + b"\0" * 30]
)
def test_a_file_that_is_no_image_is_named(tmp_path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.png"):
        to_batch(path)


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(CAT, tmp_path / "cat.png")
    assert torch.equal(to_batch("~/cat.png"), to_batch(CAT))
    with pytest.raises(ImageError, match=r"~nosuchuser/cat\.png: No such file"):
        to_batch("~nosuchuser/cat.png")


def test_what_would_block_is_refused_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for path in ("fifo", "socket", "/dev/zero", "/dev/tty"):
            with pytest.raises(ImageError, match=f"{path}: .*(not a regular file|No such)"):
                to_batch(path)


def test_folders_are_searched_by_suffix_in_order(tmp_path) -> None:
    for name in ("b/2.PNG", "b/1.jpeg", "a.webp", "notes.txt", "b/.DS_Store"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "b.png").mkdir()
    (tmp_path / "c.jpg").symlink_to(tmp_path / "b")
    names = [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)]
    assert names == ["a.webp", "b/1.jpeg", "b/2.PNG"]
    assert not find_images(Path(__file__).parent)
