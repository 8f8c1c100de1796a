import base64
import io

import numpy as np
import torch
from PIL import Image

from noisylabels.data.examples import Examples, ImagePaths, StreamedImages, Texts
from noisylabels.data.images import Header, choose_image_spec
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
