import base64
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from noisylabels.data.examples import Examples, ImagePaths, StreamedImages, Texts
from noisylabels.data.images import Header, ImageSpec, choose_image_spec, decode
from noisylabels.studies import thumbnails
from pictures import pixels, save


def opened(thumbnail):
    content = base64.b64decode(thumbnail.image.removeprefix("data:image/webp;base64,"))
    return Image.open(io.BytesIO(content))


def examples(inputs):
    return Examples(inputs, torch.zeros(len(inputs), dtype=torch.int64))


def test_small_images_are_exact():
    images = torch.from_numpy(np.stack([pixels(seed, (3, 8, 10)) for seed in range(4)]))
    shown = thumbnails.draw(examples(images), torch.tensor([3, 1]))
    for number, one in zip((3, 1), shown, strict=True):
        np.testing.assert_array_equal(np.array(opened(one)), images[number].permute(1, 2, 0))


def test_faint_images_are_brightened():
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 0] = 16
    (one,) = thumbnails.draw(examples(images), torch.tensor([0]))
    assert np.array(opened(one)).max() == 16 * (255 // 16)


def test_files_become_small_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(pixels(0, (100, 300, 3)))
    wide.save(tmp_path / "a.jpg", exif=exif)
    (one,) = thumbnails.read([str(tmp_path / "a.jpg")])
    assert opened(one).size == (32, 96)
    assert thumbnails.read([str(tmp_path / "a.jpg"), ""]) is None
    (tmp_path / "b.jpg").write_bytes(b"no image")
    assert thumbnails.read([str(tmp_path / "b.jpg")]) is None


def turned_with(tag, kind, value):
    """EXIF data of an orientation, and of one tag more in a type that is not its own."""
    entries = sorted([(0x0112, 3, 1, b"\6\0\0\0"), (tag, kind, len(value), value.ljust(4, b"\0"))])
    body = b"".join(struct.pack("<HHL4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\10\0\0\0" + struct.pack("<H", 2) + body + bytes(4)


@pytest.mark.parametrize(
    ("tag", "kind", "value"), [(0x0100, 2, b"99\0"), (0x0102, 6, b"\xff"), (0x011A, 2, b"72\0")]
)
def test_odd_metadata_leaves_a_picture_upright(tmp_path, tag, kind, value):
    """An ASCII width, -1 bits, and a resolution of ASCII."""
    exif = turned_with(tag, kind, value)
    save(tmp_path / "a.jpg", pixels(0, (100, 300, 3)), kind="JPEG", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image, pytest.raises((struct.error, TypeError)):
        ImageOps.exif_transpose(image)
    (one,) = thumbnails.read([str(tmp_path / "a.jpg")])
    assert opened(one).size == (32, 96)


def test_pictures_are_as_the_network_sees_them(tmp_path):
    deep = np.full((8, 8), 128 << 8, dtype=np.uint16)
    deep[0] = 65535
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    places = [
        str(save(tmp_path / "deep.png", deep)),
        str(save(tmp_path / "clear.png", clear)),
        str(save(tmp_path / "cmyk.tif", Image.new("CMYK", (8, 8)), kind="TIFF")),
    ]
    shown = [np.array(opened(one)) for one in thumbnails.read(places)]
    for place, one in zip(places, shown, strict=True):
        seen, _ = decode(Path(place).read_bytes(), ImageSpec(3, 8, 8))
        np.testing.assert_array_equal(one, seen.permute(1, 2, 0))
    assert (shown[0][1:] == 128).all()
    assert (shown[1] == 255).all()


def test_images_of_16_bits_have_one_scale(tmp_path):
    """Of twelve bits in use, the one that is dark is shown dark."""
    dark, bright = (np.full((8, 8), value, dtype=np.uint16) for value in (40, 4000))
    places = [str(save(tmp_path / f"{n}.png", image)) for n, image in enumerate((dark, bright))]
    shades = [int(np.array(opened(one))[0, 0, 0]) for one in thumbnails.read(places)]
    assert shades == [40 >> 4, 4000 >> 4]


def test_images_that_stream_are_decoded(tmp_path):
    names = []
    for number in range(3):
        save(tmp_path / f"{number}.png", pixels(number, (20, 20, 3)))
        names.append(f"{number}.png")
    paths = ImagePaths(tmp_path, np.array(names), np.array(names))
    spec = choose_image_spec([Header(3, 20, 20)], 20)
    streamed = Examples(StreamedImages(paths, spec), torch.zeros(3, dtype=torch.int64))
    (one,) = thumbnails.draw(streamed, torch.tensor([2]))
    np.testing.assert_array_equal(np.array(opened(one)), pixels(2, (20, 20, 3)))


def test_features_are_a_line():
    (one,) = thumbnails.draw(examples(torch.arange(10.0)[None] / 4), torch.tensor([0]))
    assert one == thumbnails.Thumbnail(text="0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, ...")
    (one,) = thumbnails.draw(examples(torch.tensor([[1.0, 2.0]])), torch.tensor([0]))
    assert one.text == "1, 2"


def test_texts_are_shown_up_to_a_length():
    values = np.array(["short", "long " * 1000], dtype=object)
    texts = Examples(Texts(values), torch.zeros(2, dtype=torch.int64))
    one, other = thumbnails.draw(texts, torch.tensor([0, 1]))
    assert one == thumbnails.Thumbnail(text="short")
    assert other.text == "long " * 200 + " ..."
