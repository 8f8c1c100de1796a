import io
import re
import resource
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noisylabels.data.images import Header, ImageSpec, choose_image_spec, decode, peek
from noisylabels.data.metadata import PIXEL_TAGS, without_metadata
from noisylabels.errors import DataError
from pictures import ICC, XMP, bomb, encode, exif, pixels, with_metadata


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
    assert decode(encode(array), ImageSpec(3, 9, 9), resize=False)[0].shape == (3, 6, 5)
    assert decode(encode(array), ImageSpec(1, 9, 9), resize=False)[0].shape == (1, 6, 5)


def test_sixteen_bits_are_reduced_and_not_clipped():
    array = np.array([[0, 255, 256], [4096, 32768, 65535]], dtype=np.uint16)
    found, done = decode(encode(Image.fromarray(array)))
    assert found[0].tolist() == [[0, 0, 1], [16, 128, 255]]
    assert done == ["16-bit values reduced to 8 bits"]


@pytest.mark.parametrize(
    ("greatest", "depth"),
    [(0, 16), (1, 8), (255, 8), (256, 12), (4095, 12), (4096, 16), (65535, 16)],
)
def test_sixteen_bit_images_of_a_set_share_the_least_depth_that_holds_them(greatest, depth):
    headers = [Header(1, 9, 9, greatest), Header(3, 9, 9), Header(1, 9, 9, greatest // 3)]
    assert choose_image_spec(headers, None) == ImageSpec(3, 9, 9, depth)
    assert choose_image_spec(headers, 200) == ImageSpec(3, 200, 200, depth)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("depth", "said"),
    [
        (8, "16-bit values of 0..255 taken as they are"),
        (12, "16-bit values of 0..4095 reduced to 8 bits"),
        (16, "16-bit values reduced to 8 bits"),
    ],
)
def test_sixteen_bits_are_reduced_by_what_their_set_holds(kind, depth, said):
    array = np.random.default_rng(0).integers(0, 2**depth, (6, 5), dtype=np.uint16)
    content = encode(Image.fromarray(array), kind)
    assert peek(content) == Header(1, 6, 5, int(array.max()))
    spec = choose_image_spec([peek(content)], None)
    for resize in (True, False):
        found, done = decode(content, spec, resize=resize)
        assert found[0].tolist() == (array >> (depth - 8)).tolist()
        assert done == [said]


def test_more_than_the_set_was_seen_to_hold_is_refused():
    content = encode(Image.fromarray(np.array([[256]], dtype=np.uint16)))
    with pytest.raises(DataError, match="16-bit value 256, above 255: the images looked at"):
        decode(content, ImageSpec(1, 1, 1, depth=8))


def deep_png(array: np.ndarray, colour: int) -> bytes:
    """A PNG file of 16 bits, (height, width, channels): Pillow writes none but gray ones."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def deep_tiff(array: np.ndarray, order: str) -> bytes:
    """An uncompressed TIFF file of 16-bit RGB, in either byte order."""
    height, width, _ = array.shape
    body = array.astype(f"{order}u2").tobytes()
    place = 8 + 2 + 9 * 12 + 4
    short, long = 3, 4
    entries = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, 3, place),
        (259, long, 1, 1),
        (262, long, 1, 2),
        (273, long, 1, place + 6),
        (277, long, 1, 3),
        (278, long, 1, height),
        (279, long, 1, len(body)),
    ]
    directory = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    bits = struct.pack(f"{order}HHH", 16, 16, 16)
    return head + struct.pack(f"{order}H", 9) + directory + bytes(4) + bits + body


@pytest.mark.parametrize("depth", [8, 12, 16])
@pytest.mark.parametrize(
    "make", [lambda a: deep_png(a, 2), lambda a: deep_tiff(a, "<"), lambda a: deep_tiff(a, ">")]
)
def test_sixteen_bit_colours_are_reduced_by_what_their_set_holds(make, depth):
    array = np.random.default_rng(0).integers(0, 2**depth, (6, 5, 3), dtype=np.uint16)
    content = make(array)
    assert peek(content) == Header(3, 6, 5, int(array.max()))
    found, done = decode(content, choose_image_spec([peek(content)], None))
    assert torch.equal(
        found.permute(1, 2, 0), torch.from_numpy((array >> (depth - 8)).astype("u1"))
    )
    assert len(done) == 1
    assert done[0].startswith("16-bit values")


@pytest.mark.parametrize(("colour", "channels"), [(4, 2), (6, 4)])
@pytest.mark.parametrize("opaque", [255, 65535])
def test_sixteen_bit_transparency_may_use_more_bits_than_colours(colour, channels, opaque):
    array = np.random.default_rng(0).integers(0, 256, (6, 5, channels), dtype=np.uint16)
    array[..., -1] = opaque
    content = deep_png(array, colour)
    assert peek(content) == Header(3, 6, 5, int(array[..., :-1].max()))
    found, done = decode(content, ImageSpec(3, 6, 5, depth=8))
    right = torch.from_numpy(array[..., :-1].astype("u1")).expand(6, 5, 3)
    assert torch.equal(found.permute(1, 2, 0), right)
    assert done == ["16-bit values of 0..255 taken as they are", "transparency laid on white"]
    found, _ = decode(content, ImageSpec(3, 6, 5))
    assert found.eq(0 if opaque == 65535 else 255).all()


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


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_colour_may_be_the_transparent_one(mode):
    array = np.array([[0, 9], [9, 0]], dtype=np.uint8)
    image = Image.fromarray(array).convert(mode)
    hidden = (0, 0, 0) if mode == "RGB" else 0
    found, done = decode(encode(image, transparency=hidden))
    assert found[0].tolist() == [[255, 9], [9, 255]]
    assert done == ["transparency laid on white"]
    assert decode(encode(image))[1] == []


def test_a_gray_of_sixteen_bits_may_be_the_transparent_one():
    array = np.array([[4096, 4097], [8192, 4096]], dtype=np.uint16)
    content = encode(Image.fromarray(array), transparency=4096)
    found, done = decode(content)
    # 4097 is of the same 8 bits, and there to be seen.
    assert found[0].tolist() == [[255, 16], [32, 255]]
    assert "transparency laid on white" in done


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


# What Pillow both writes and reads here; the last four hold no pixels, or are never opened.
Image.init()
FORMATS = ({*Image.SAVE} & {*Image.OPEN} | {"MPO", "APNG"}) - {"BUFR", "GRIB", "HDF5", "WMF", "EPS"}
READ_ONLY = [
    b"8BPS\0\1" + bytes(6) + b"\0\3" + struct.pack(">II", 8, 8) + b"\0\x08\0\3",
    b"\x59\xa6\x6a\x95" + struct.pack(">7I", 8, 8, 24, 192, 1, 0, 0),
    b'/* XPM */\nstatic char *a[] = {\n"2 2 2 1",\n"a c #000000",\n"b c #ffffff",\n',
    b"FTU:" + struct.pack("<9I", 1, 8, 8, 1, 1, 0, 32, 0, 0),
    b"P7 332\n8 8 255\n",
    b"\0\0\2\0\1\0\x10\x10\0\0\0\0\0\0" + struct.pack("<II", 40, 22),
    struct.pack("<III", 987654321, 12, 0),
    struct.pack("<IHHHHH", 200, 0xAF11, 1, 8, 8, 8),
    struct.pack(">IIII", 28, 1, 8, 8) + struct.pack(">I4s", 3, b"GIMP"),
    b"\x80\xe8\0\0" + bytes(412) + struct.pack("<HH", 8, 8),
]


@pytest.fixture
def bounded(capfd):
    """Two GiB above what is mapped, no matter what a header claims; and not a word."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + 2 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_AS, before)
    else:
        yield
    said = capfd.readouterr()
    # The library for TIFF says by itself, past Pillow and Python, at what it fails.
    own = [line for line in said.err.splitlines() if not re.match(r"\w+: ", line)]
    assert (said.out, own) == ("", [])


def mutations(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Overwrite some bytes: of the header, of the first third, of all; or cut the end off."""
    random = np.random.default_rng(seed)
    for number in range(count):
        changed = bytearray(content)
        end = min(len(content), (64, len(content) // 3 + 1, len(content))[number % 3])
        for place in random.integers(0, end, random.integers(1, 4)):
            changed[place] = random.choice([0, 1, 127, 128, 255, random.integers(256)])
        yield bytes(changed[: random.integers(end)] if number % 10 == 9 else changed)


def check_ends(content: bytes) -> None:
    """An image of the right shape, or a clear error of one line."""
    header = peek(content)
    for spec in (None, ImageSpec(3, 8, 8)):
        found, reason = None, ""
        try:
            found, _ = decode(content, spec)
        except DataError as error:
            reason = str(error)
        assert "\n" not in reason
        assert len(reason) < 300
        if found is None:
            continue
        assert found.dtype == torch.uint8
        if spec is not None:
            assert found.shape == spec.shape
        else:
            assert found.shape[0] in (1, 3)
            assert header is not None
            assert found.shape[1:] == header[1:3]


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_mutated_files_are_an_image_or_a_clear_error(kind, count):
    content = with_metadata(kind)
    if kind != "SPIDER":
        decode(content)
    for changed in mutations(content, count, seed=0):
        check_ends(changed)


@pytest.mark.usefixtures("bounded")
def test_mutated_files_of_sixteen_bits_are_an_image_or_a_clear_error(monkeypatch):
    # What a header claims up to there is decoded, which takes long and tells nothing.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2**20)
    array = np.random.default_rng(0).integers(0, 4096, (9, 7, 4), dtype=np.uint16)
    gray = Image.fromarray(array[..., 0])
    files = [encode(gray), encode(gray, "TIFF"), encode(gray, "TIFF", compression="tiff_deflate")]
    files += [deep_png(array[..., :2], 4), deep_png(array, 6)]
    files += [deep_tiff(array[..., :3], order) for order in "<>"]
    for content in files:
        for changed in mutations(content, 300, seed=2):
            check_ends(changed)


@pytest.mark.usefixtures("bounded")
def test_formats_that_are_only_read_give_an_image_or_a_clear_error():
    random = np.random.default_rng(0)
    for header in READ_ONLY:
        for changed in mutations(header, 60, seed=1):
            check_ends(header + random.bytes(600))
            check_ends(changed + random.bytes(random.integers(4000)))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "APNG", "WEBP", "AVIF"])
def test_pixels_are_used_where_only_metadata_are_damaged(kind):
    content = with_metadata(kind)
    whole, done = decode(content)
    assert done == ["turned as its EXIF data says"]
    plain = exif().tobytes().removeprefix(b"Exif\0\0")
    random = np.random.default_rng(0)
    for part, spared in ((plain, 10 + 12 * 8), (ICC, 0), (XMP, 0)):
        start = content.find(part)
        if start < 0:
            continue
        for _ in range(100):
            changed = bytearray(content)
            for place in random.integers(start + spared, start + len(part), 3):
                changed[place] = random.integers(256)
            found, done = decode(bytes(changed))
            assert torch.equal(found, whole)
            assert "turned as its EXIF data says" in done
            assert peek(bytes(changed)) == Header(3, 24, 20)


def test_pixels_of_a_tiff_file_are_used_where_only_other_tags_are_damaged():
    content = with_metadata("TIFF")
    whole, _ = decode(content)
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    others = [
        place
        for place in range(start + 2, start + 2 + 12 * count, 12)
        if struct.unpack_from("<H", content, place)[0] not in PIXEL_TAGS
    ]
    assert len(others) >= 4
    random = np.random.default_rng(0)
    for _ in range(500):
        changed = bytearray(content)
        for place in random.choice(others, 2):
            changed[place + random.integers(2, 12)] = random.integers(256)
        found, done = decode(bytes(changed))
        assert torch.equal(found, whole)
        assert "turned as its EXIF data says" in done


def test_what_was_left_out_is_said():
    content = bytearray(with_metadata("PNG"))
    content[content.index(b"bbb")] ^= 1
    assert "damaged metadata left out" in decode(bytes(content))[1]
    for kind in FORMATS:
        bare = without_metadata(with_metadata(kind))
        if bare is not None:
            assert torch.equal(decode(bare)[0], decode(with_metadata(kind))[0])
            assert without_metadata(bare) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_their_exif_data_says(kind, orientation):
    found, done = decode(with_metadata(kind, orientation))
    upright, _ = decode(with_metadata(kind, 1))
    turn = {
        1: lambda x: x,
        2: lambda x: x.flip(2),
        3: lambda x: x.flip(1, 2),
        4: lambda x: x.flip(1),
        5: lambda x: x.transpose(1, 2),
        6: lambda x: x.rot90(-1, (1, 2)),
        7: lambda x: x.flip(1, 2).transpose(1, 2),
        8: lambda x: x.rot90(1, (1, 2)),
    }[orientation]
    assert torch.equal(found, turn(upright))
    assert done == ([] if orientation == 1 else ["turned as its EXIF data says"])
    assert peek(with_metadata(kind, orientation)) == Header(*found.shape)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_tags_of_any_type_leave_the_orientation(kind):
    content = with_metadata(kind)
    right, _ = decode(content)
    tags = exif().tobytes().removeprefix(b"Exif\0\0")
    start = content.index(tags) + 10
    for entry in range(start, start + 12 * tags[8], 12):
        if content[entry : entry + 2] == b"\x12\x01":
            continue
        for kind_of_tag in range(1, 20):
            changed = bytearray(content)
            changed[entry + 2] = kind_of_tag
            found, done = decode(bytes(changed))
            assert torch.equal(found, right)
            assert "turned as its EXIF data says" in done
            assert peek(bytes(changed)) == Header(3, 24, 20)


def test_no_memory_is_the_machines_fault_and_skips_no_image(monkeypatch):
    def exhausted(*arguments):
        raise MemoryError

    content = encode(pixels(0))
    monkeypatch.setattr("noisylabels.data.images._tidy", exhausted)
    monkeypatch.setattr("noisylabels.data.images._orientation", exhausted)
    for read in (decode, peek):
        with pytest.raises(MemoryError):
            read(content)


def test_programs_are_not_run():
    with pytest.raises(DataError, match="no image format is recognised"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")


def test_headers_without_decoding():
    assert peek(encode(pixels(0))) == Header(3, 6, 5)
    assert peek(encode(pixels(0, (6, 5)))) == Header(1, 6, 5)
    assert peek(b"nothing") is None
    assert peek(None) is None
    assert peek(bomb()) is None


def test_the_form_follows_the_commonest_small_size():
    small, tall = Header(3, 32, 32), Header(3, 40, 30)
    gray = Header(1, 28, 28)
    assert choose_image_spec([small, tall, small], None) == ImageSpec(3, 32, 32)
    assert choose_image_spec([gray] * 3, None) == ImageSpec(1, 28, 28)
    assert choose_image_spec([gray, Header(3, 28, 28)], None) == ImageSpec(3, 28, 28)
    assert choose_image_spec([Header(3, 97, 32)], None) == ImageSpec(3, 224, 224)
    assert choose_image_spec([Header(3, 480, 640)], 64) == ImageSpec(3, 64, 64)


def test_an_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((4, 4), value, dtype=np.uint8)) for value in (7, 200)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert decode(file.getvalue())[0].eq(7).all()


def test_a_jpeg_file_is_decoded_no_larger_than_enough():
    content = encode(pixels(0, (400, 800, 3)), "JPEG", exif=exif(6))
    assert decode(content, enough=100)[0].shape == (3, 200, 100)
    assert decode(content, enough=101)[0].shape == (3, 400, 200)
    assert decode(content)[0].shape == (3, 800, 400)
    assert decode(encode(pixels(0, (400, 800, 3))), enough=100)[0].shape == (3, 400, 800)
