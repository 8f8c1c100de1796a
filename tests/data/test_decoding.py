import threading
import time
import warnings

import numpy as np
import pytest
import torch

from noisylabels.data import decoding
from noisylabels.data.decoding import Decoder, decode_all, decode_for
from noisylabels.data.examples import ImagePaths
from noisylabels.data.images import ImageSpec
from pictures import pixels, save


def decoder(folder, *names):
    return Decoder(image_paths(folder, names), ImageSpec(3, 6, 5))


def image_paths(folder, names):
    return ImagePaths(folder, np.array(names), np.array([str(folder / name) for name in names]))


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


def test_beside_a_network_on_the_cpu_images_are_decoded_alike(tmp_path, monkeypatch):
    """By threads, between two of its batches: in order, with all that was to be said of each."""
    names = [f"{number:03}.png" for number in range(150)]
    for number, name in enumerate(names):
        save(tmp_path / name, pixels(number, (7, 9)))
    save(tmp_path / names[70], b"\x89PNG\r\n\x1a\n")
    names[140] = "gone.png"
    images, spec = image_paths(tmp_path, names), ImageSpec(3, 100, 120)
    threads = []
    decode = decoding.decode

    def watched(*args, **options):
        threads.append(threading.current_thread())
        return decode(*args, **options)

    monkeypatch.setattr(decoding, "decode", watched)
    filters = list(warnings.filters)
    found = list(decode_for(torch.device("cpu"), images, spec, workers=2))
    assert warnings.filters == filters
    assert threading.main_thread() not in threads
    assert len(threads) == 149
    expected = list(decode_all(images, spec, workers=0))
    assert [index for index, _, _ in found] == list(range(150))
    for (_, one, said), (_, other, also_said) in zip(found, expected, strict=True):
        assert said == also_said
        assert one == other if isinstance(one, str) else torch.equal(one, other)
    assert [found[i][1].split("(")[0] for i in (70, 140)] == [
        "expected an encoded image ",
        "cannot be read ",
    ]


def test_threads_read_one_at_a_time(tmp_path, monkeypatch):
    """A Parquet file that several read at once gives rubbish, or ends the process."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for number in range(20):
        save(tmp_path / f"{number:02}.png", pixels(number, (7, 9)))
    images = image_paths(tmp_path, [f"{number:02}.png" for number in range(20)])
    reading, most = [], []

    class Watched:
        place = staticmethod(images.place)

        def __len__(self):
            return len(images)

        def read(self, index):
            reading.append(index)
            most.append(len(reading))
            time.sleep(0.005)
            reading.remove(index)
            return images.read(index)

    found = list(decode_for(torch.device("cpu"), Watched(), ImageSpec(3, 100, 120), workers=2))
    assert len(found) == 20
    assert max(most) == 1


def test_a_bomb_is_refused_by_threads_too(tmp_path, monkeypatch):
    """Pillow only warns of some; that a warning is an error must hold in every thread."""
    names = [f"{number:03}.png" for number in range(200)]
    for name in names:
        save(tmp_path / name, pixels(0, (30, 30)))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 600)
    found = decode_for(torch.device("cpu"), image_paths(tmp_path, names), ImageSpec(3, 97, 97), 2)
    reasons = {reason.partition(" (")[0] for _, reason, _ in found}
    assert reasons == {"refused as a decompression bomb"}
