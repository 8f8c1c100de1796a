import numpy as np
import pytest

from noisylabels.data.decoding import Decoder
from noisylabels.data.examples import ImagePaths
from noisylabels.data.images import ImageSpec
from pictures import pixels, save


def decoder(folder, *names):
    paths = np.array([str(folder / name) for name in names])
    return Decoder(ImagePaths(folder, np.array(names), paths), ImageSpec(3, 6, 5))


def test_a_damaged_image_is_answered_with_a_reason(tmp_path):
    save(tmp_path / "good.png", pixels(0))
    save(tmp_path / "bad.png", b"\x89PNG\r\n\x1a\n")
    made = decoder(tmp_path, "good.png", "bad.png")
    assert made[0][1].shape == (3, 6, 5)
    index, reason, done = made[1]
    assert (index, done) == (1, [])
    assert reason.startswith("expected an encoded image")


def test_images_that_keep_their_size_share_channels_and_depth(tmp_path):
    array = pixels(0, (4, 7)).astype(np.uint16)
    save(tmp_path / "deep.png", array)
    paths = np.array(["deep.png"])
    images = ImagePaths(tmp_path, paths, paths)
    _, found, _ = Decoder(images, ImageSpec(3, 9, 9, depth=8), resize=False)[0]
    assert found.tolist() == [array.tolist()] * 3


def test_no_memory_stops_and_names_the_image(tmp_path, monkeypatch):
    def exhausted(*args, **options):
        raise MemoryError

    save(tmp_path / "good.png", pixels(0))
    monkeypatch.setattr("noisylabels.data.decoding.decode", exhausted)
    with pytest.raises(MemoryError) as caught:
        decoder(tmp_path, "good.png")[0]
    assert caught.value.__notes__ == [f"while decoding {tmp_path / 'good.png'}"]
