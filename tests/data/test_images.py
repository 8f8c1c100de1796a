import io

import numpy as np
import pytest
import torch
from PIL import Image

from noisylabels.data.images import ImageSpec, choose_image_spec, decode, peek
from noisylabels.errors import DataError
from pictures import bomb, encode, pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF"])
def test_lossless_formats_give_the_pixels(kind):
    array = pixels(0) if kind != "GIF" else pixels(0, (6, 5))
    options = {"lossless": True} if kind == "WEBP" else {}
    found, done = decode(encode(array, kind, **options))
    if kind == "GIF":
        assert found.shape[1:] == (6, 5)
        assert torch.equal(found[0], torch.from_numpy(array))
    else:
        assert torch.equal(found, torch.from_numpy(array).permute(2, 0, 1))
        assert done == []


def test_gray_stays_gray_unless_the_form_has_colour():
    array = pixels(1, (6, 5))
    found, done = decode(encode(array))
    assert found.shape == (1, 6, 5)
    assert done == []
    found, done = decode(encode(array), ImageSpec(3, 6, 5))
    assert torch.equal(found, torch.from_numpy(array).expand(3, -1, -1))
    assert done == ["gray shown as RGB"]
    found, done = decode(encode(pixels(2)), ImageSpec(1, 6, 5))
    assert found.shape == (1, 6, 5)
    assert done == ["colour shown as gray"]
    assert decode(encode(array), channels=3)[0].shape == (3, 6, 5)
    assert decode(encode(array), channels=1)[0].shape == (1, 6, 5)


def test_sixteen_bits_are_reduced_and_not_clipped():
    array = np.array([[0, 255, 256], [4096, 32768, 65535]], dtype=np.uint16)
    found, done = decode(encode(Image.fromarray(array)))
    assert found[0].tolist() == [[0, 0, 1], [16, 128, 255]]
    assert done == ["16-bit values reduced to 8 bits"]


def test_transparency_is_laid_on_white():
    array = np.zeros((2, 2, 4), dtype=np.uint8)
    array[0, :, 3] = 255
    found, done = decode(encode(array))
    assert found[:, 0].eq(0).all()
    assert found[:, 1].eq(255).all()
    assert done == ["transparency laid on white"]
    palette = Image.fromarray(pixels(0, (4, 4)) % 2, "P")
    palette.putpalette([0, 0, 0, 9, 9, 9])
    found, done = decode(encode(palette, transparency=0))
    assert set(found.flatten().tolist()) == {9, 255}
    assert done == ["transparency laid on white"]


def test_cmyk_is_converted_and_said():
    found, done = decode(encode(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "JPEG", quality=100))
    assert found[:, 0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)
    assert done == ["CMYK converted to RGB"]


def test_bits_and_palettes_are_plain_images():
    assert decode(encode(Image.new("1", (3, 2), 1)))[0].tolist() == [[[255] * 3] * 2]
    palette = Image.fromarray(pixels(0)).quantize(8)
    found, done = decode(encode(palette))
    assert torch.equal(found, torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1))
    assert done == []


def test_photographs_are_turned_as_their_exif_data_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(pixels(0, (40, 20, 3)), "JPEG", exif=exif)
    found, done = decode(content)
    assert found.shape == (3, 20, 40)
    assert done == ["turned as its EXIF data says"]
    assert peek(content) == (3, 20, 40)


def test_other_sizes_are_covered_and_cropped_at_the_centre():
    array = np.zeros((8, 16, 3), dtype=np.uint8)
    array[:, 4:12] = 200
    found, done = decode(encode(array), ImageSpec(3, 4, 4))
    assert found.shape == (3, 4, 4)
    assert found[:, :, 1:3].eq(200).all()
    assert done == ["resized to 4x4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got 0 bytes"),
        (None, "got 0 bytes"),
        (b"GIF89a", "expected an encoded image"),
        (b"%PDF-1.7 not a picture", r"expected an encoded image \(no image format"),
        (encode(pixels(0, (60, 60, 3)))[:400], "expected an encoded image .*truncated"),
        (encode(pixels(0, (60, 60, 3)), "JPEG")[:1500], "expected an encoded image .*truncated"),
        (encode(Image.fromarray(np.ones((3, 3), dtype=np.float32)), "TIFF"), "floating-point"),
        (bomb(), "refused as a decompression bomb"),
        (bomb(10_000), "refused as a decompression bomb"),
    ],
)
def test_what_is_no_image_is_refused(content, message):
    with pytest.raises(DataError, match=message):
        decode(content)


def test_every_cut_of_a_file_is_an_image_or_a_clear_error():
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        content = encode(pixels(3, (20, 20, 3)), kind)
        for end in range(0, len(content), 7):
            peek(content[:end])
            try:
                found, _ = decode(content[:end])
            except DataError:
                continue
            assert found.shape[1:] == (20, 20)


def test_flipped_bytes_are_an_image_or_a_clear_error():
    random = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        for _ in range(40):
            content = bytearray(encode(pixels(3, (20, 20, 3)), kind))
            for place in random.integers(0, len(content), 3):
                content[place] = random.integers(256)
            try:
                found, _ = decode(bytes(content), ImageSpec(3, 8, 8))
            except DataError:
                continue
            assert found.shape == (3, 8, 8)


def test_headers_without_decoding():
    assert peek(encode(pixels(0))) == (3, 6, 5)
    assert peek(encode(pixels(0, (6, 5)))) == (1, 6, 5)
    assert peek(b"nothing") is None
    assert peek(None) is None
    assert peek(bomb()) is None


def test_the_form_follows_the_commonest_small_size():
    small, tall = (3, 32, 32), (3, 40, 30)
    assert choose_image_spec([small, tall, small], None) == ImageSpec(3, 32, 32)
    assert choose_image_spec([(1, 28, 28)] * 3, None) == ImageSpec(1, 28, 28)
    assert choose_image_spec([(1, 28, 28), (3, 28, 28)], None) == ImageSpec(3, 28, 28)
    assert choose_image_spec([(3, 97, 32)], None) == ImageSpec(3, 224, 224)
    assert choose_image_spec([(3, 480, 640)], 64) == ImageSpec(3, 64, 64)


def test_an_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((4, 4), value, dtype=np.uint8)) for value in (7, 200)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert decode(file.getvalue())[0].eq(7).all()
