# SPDX-License-Identifier: Apache-2.0
"""Image files of every kind, and lists of them."""

import contextlib
import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from deeplab_infer import images
from deeplab_infer.errors import ImageError
from deeplab_infer.images import as_rgb, list_images, read_image


def save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options)
    return path


def test_modes(tmp_path, rng):
    rgb = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    grey = rng.integers(0, 256, (6, 9), dtype=np.uint8)
    three = np.repeat(grey[..., None], 3, 2)
    assert np.array_equal(read_image(save(tmp_path / "rgb.png", rgb)), rgb)
    assert np.array_equal(read_image(save(tmp_path / "grey.png", grey)), three)
    alpha = np.dstack([rgb, np.zeros((6, 9), np.uint8)])
    assert np.array_equal(read_image(save(tmp_path / "rgba.png", alpha)), rgb)
    deep = grey.astype(np.uint16) * 256 + 77
    assert np.array_equal(read_image(save(tmp_path / "deep.png", deep)), three)
    assert np.array_equal(read_image(save(tmp_path / "deep.tif", deep)), three)
    assert np.array_equal(
        read_image(save(tmp_path / "bool.png", grey > 127)), np.repeat((grey > 127)[..., None] * 255, 3, 2)
    )
    palette = Image.fromarray(grey % 3, "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(
        read_image(tmp_path / "palette.png"), np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])[grey % 3]
    )
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert read_image(tmp_path / "cmyk.jpg").shape == (6, 9, 3)


def test_floating_grey(tmp_path):
    values = np.array([[0, 100.7], [255, 3]], np.float32)
    assert read_image(save(tmp_path / "f.tif", values))[0, 1].tolist() == [100, 100, 100]
    with pytest.raises(ImageError, match=r"outside 0\.\.255"):
        read_image(save(tmp_path / "g.tif", values * 2))


def test_orientation_of_cameras_is_applied(tmp_path, rng):
    picture = rng.integers(0, 256, (4, 7, 3), dtype=np.uint8)
    image = Image.fromarray(picture)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(picture, -1))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_files_that_are_no_images(tmp_path, rng):
    whole = save(tmp_path / "a.png", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for name, content, message in (
        ("empty.png", b"", "not an image"),
        ("text.jpg", b"hello", "not an image"),
        ("cut.png", whole.read_bytes()[:3000], "damaged or truncated"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=message) as error:
            read_image(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="64 x 64 pixels are more than the limit of 4000"):
        read_image(whole, max_pixels=4000)


def test_arrays(rng):
    rgb = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    assert np.array_equal(as_rgb(rgb), rgb)
    assert np.array_equal(as_rgb(rgb[..., ::-1], "bgr"), rgb)
    assert np.array_equal(as_rgb(rgb.astype(np.float64) / 255), rgb)
    assert as_rgb(rgb[..., :1]).shape == as_rgb(rgb[..., 0]).shape == (5, 4, 3)
    assert as_rgb(rgb[..., 0] > 100).max() == 255
    with pytest.raises(ImageError, match="color 'gbr'"):
        as_rgb(rgb, "gbr")


def test_lists_of_files(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "sub/c.png", "sub/deeper/d.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = lambda paths: [p.relative_to(tmp_path).as_posix() for p in paths]  # noqa: E731
    assert names(list_images([tmp_path])) == ["a.JPG", "b.png"]
    assert names(list_images([tmp_path], recursive=True)) == ["a.JPG", "b.png", "sub/c.png", "sub/deeper/d.tif"]
    assert names(list_images([tmp_path / "sub/c.png", tmp_path / "b.png", tmp_path])) == ["sub/c.png", "b.png", "a.JPG"]
    assert names(list_images([f"{tmp_path}/**/*.png"])) == ["b.png", "sub/c.png"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ImageError, match="holds no image.*--recursive"):
        list_images([tmp_path / "none"])
    with pytest.raises(ImageError, match="no such file, folder or pattern"):
        list_images([tmp_path / "*.gif"])


def test_large_pictures_up_to_our_own_limit(tmp_path, recwarn):
    # Pillow warns from 89 million pixels on and refuses from 179 million; the limit that counts is ours.
    before = Image.MAX_IMAGE_PIXELS
    Image.new("1", (12000, 8000)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match="more pixels than the limit of 1000"):
        read_image(tmp_path / "large.png", max_pixels=1000)
    assert read_image(tmp_path / "large.png").shape == (8000, 12000, 3)
    assert before == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


def test_damaged_files_never_raise_anything_else(rng):
    picture = Image.fromarray(rng.integers(0, 256, (24, 31, 3), dtype=np.uint8))
    exif = picture.getexif()
    exif[0x0112], exif[0x010E] = 6, "text"
    for kind in ("PNG", "JPEG", "BMP"):
        stream = io.BytesIO()
        picture.save(stream, kind, **({} if kind == "BMP" else {"exif": exif}))
        for _ in range(400):
            content = bytearray(stream.getvalue())
            for place in rng.integers(0, min(200, len(content)), rng.integers(1, 6)):
                content[place] = rng.integers(256)
            with contextlib.suppress(ImageError), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow says of some files what it thinks of them
                as_rgb(bytes(content), max_pixels=10**6)


def test_damaged_orientation_is_a_damaged_image(tmp_path, rng, monkeypatch):
    path = save(tmp_path / "a.png", rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))

    def damaged(image):
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr(images.ImageOps, "exif_transpose", damaged)
    with pytest.raises(ImageError, match=r"a\.png: damaged or truncated"):
        read_image(path)
