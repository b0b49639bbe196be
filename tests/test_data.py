"""Sources, decoding and preparation against known answers and real damage."""

import errno
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from morphogen.data import BadItem, check_source, dataset, open_source, prepare, split
from morphogen.data.images import default_size, fit_image, image_shape, parse_size, read_image, to_channels
from morphogen.data.sources import GRID_CENTERS, GRID_SIGMA, RING_CENTERS, RING_SIGMA
from morphogen.errors import MorphogenError, UsageError

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def noise_image(i, height=12, width=12, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)


def write_images(folder, count, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(noise_image(i, **options)).save(folder / f"{i:03d}.png")
    return folder


def write_idx(folder, prefix, images, labels=None, separator="-", pack=True):
    folder.mkdir(parents=True, exist_ok=True)
    for what, x in (("images", images), ("labels", labels)):
        if x is None:
            continue
        content = bytes([0, 0, 8, x.ndim]) + np.array(x.shape, ">u4").tobytes() + x.tobytes()
        name = f"{prefix}-{what}{separator}idx{x.ndim}-ubyte"
        (folder / (name + ".gz" * pack)).write_bytes(gzip.compress(content) if pack else content)


def reason(path):
    with pytest.raises(BadItem) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and caught.value.path == str(path)
    return caught.value.reason


# --- read_image: damage


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_truncated_files_are_bad(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise_image(0, 64, 64)).save(path)
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path) in ("truncated", "damaged")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncation_is_named(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise_image(0, 64, 64)).save(path)
    whole = path.read_bytes()
    for kept in (len(whole) // 2, 12):
        path.write_bytes(whole[:kept])
        assert reason(path) == "truncated"


def test_flipped_bytes_are_bad(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(noise_image(0, 64, 64)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert reason(path) in ("damaged", "truncated")


def test_other_unreadable_files(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "dir.png").mkdir()
    Image.fromarray(noise_image(0, 20, 20)).save(tmp_path / "big.png")
    assert reason(tmp_path / "empty.png") == "empty file"
    assert reason(tmp_path / "text.png") == "not an image"
    assert reason(tmp_path / "dir.png") == "not a regular file"
    assert reason(tmp_path / "absent.png") == "file not found"
    for most in (300, 100):  # above Pillow's warning level, and above its error level
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.warns(Image.DecompressionBombWarning) if most == 300 else monkeypatch.context():
            assert reason(tmp_path / "big.png") == "too large"


# --- read_image: modes


def test_16_bit_grey_is_scaled(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    for suffix in ("png", "tiff"):
        Image.fromarray(values).save(tmp_path / f"x.{suffix}")
        assert read_image(tmp_path / f"x.{suffix}")[..., 0].tolist() == [[0, 1, 128, 255]]
        assert image_shape(tmp_path / f"x.{suffix}") == (1, 4, 1)


def test_wide_grey_is_scaled_by_its_own_range(tmp_path):
    Image.fromarray(np.array([[-1.0, 0.0, 1.0]], np.float32)).save(tmp_path / "f.tiff")
    assert read_image(tmp_path / "f.tiff")[..., 0].tolist() == [[0, 128, 255]]
    Image.fromarray(np.array([[0, 1_000_000]], np.int32)).save(tmp_path / "i.tiff")
    assert read_image(tmp_path / "i.tiff")[..., 0].tolist() == [[0, 255]]
    Image.fromarray(np.array([[0.0, np.nan]], np.float32)).save(tmp_path / "nan.tiff")
    assert "finite" in reason(tmp_path / "nan.tiff")


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    image.save(tmp_path / "p.png", transparency=0)
    assert read_image(tmp_path / "p.png").tolist() == [[[*RED, 0], [*GREEN, 255]]]
    image.save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "opaque.png").tolist() == [[list(RED), list(GREEN)]]


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        *[("1", "png", 1), ("L", "png", 1), ("LA", "png", 4), ("RGB", "bmp", 3), ("RGBA", "webp", 4)],
        *[("CMYK", "jpg", 3), ("YCbCr", "jpg", 3), ("CMYK", "tiff", 3), ("L", "ppm", 1)],
    ],
)
def test_every_mode_reads_with_the_shape_its_header_announces(tmp_path, mode, suffix, channels):
    path = tmp_path / f"x.{suffix}"
    colour = {"1": 1, "L": 200, "LA": (200, 255), "RGBA": (200, 200, 200, 100)}.get(mode, (200, 200, 200))
    image = Image.new(mode, (6, 4), colour) if mode in ("1", "L", "LA", "RGB", "RGBA") else None
    image = image or Image.new("RGB", (6, 4), colour).convert(mode)
    image.save(path)
    pixels = read_image(path)
    assert pixels.shape == (4, 6, channels) == image_shape(path) and pixels.dtype == np.uint8
    assert abs(int(pixels[0, 0, 0]) - (255 if mode == "1" else 200)) <= 3


def test_cmyk_jpeg_keeps_its_colour(tmp_path):
    Image.new("RGB", (16, 16), RED).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    red, green, blue = read_image(tmp_path / "x.jpg")[8, 8].tolist()
    assert red > 240 and green < 15 and blue < 15


def test_exif_rotation(tmp_path):
    image = Image.new("RGB", (32, 16), BLUE)
    image.paste(RED, (0, 8, 8, 16))  # bottom left; orientation 6 turns clockwise, to the top left
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif, quality=95)
    pixels = read_image(tmp_path / "x.jpg")
    assert pixels.shape == (32, 16, 3) == image_shape(tmp_path / "x.jpg")
    assert pixels[2, 2, 0] > 200 and pixels[2, 13, 2] > 200 and pixels[29, 2, 2] > 200


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert to_channels(read_image(tmp_path / "x.gif"), 3)[0, 0].tolist() == list(RED)


# --- pure functions on pixels


def test_alpha_is_composited_on_white():
    x = np.array([[[255, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 128]]], np.uint8)
    assert to_channels(x, 3).tolist() == [[[255, 255, 255], [255, 0, 0], [127, 127, 127]]]
    assert to_channels(x, 1)[..., 0].tolist() == [[255, 76, 127]]
    assert to_channels(x, 4) is x


def test_channel_conversions_work_on_batches():
    batch = np.stack([noise_image(i, 5, 7) for i in range(3)])
    grey = to_channels(batch, 1)
    assert grey.shape == (3, 5, 7, 1)
    assert np.array_equal(grey[1, ..., 0], np.array(Image.fromarray(batch[1]).convert("L")))
    assert np.array_equal(to_channels(grey, 3), np.repeat(grey, 3, axis=-1))
    assert (to_channels(batch, 4)[..., 3] == 255).all() and np.array_equal(to_channels(batch, 4)[..., :3], batch)
    with pytest.raises(UsageError, match="channels is 2"):
        to_channels(batch, 2)


def stripes():
    """(8, 16, 3): a red, two green and a blue quarter, from left to right."""
    x = np.zeros((8, 16, 3), np.uint8)
    x[:, :4], x[:, 4:12], x[:, 12:] = RED, GREEN, BLUE
    return x


def test_crop_takes_the_centre():
    assert (fit_image(stripes(), (8, 8), "crop") == GREEN).all()
    half = fit_image(stripes(), (4, 4), "crop")
    assert half.shape == (4, 4, 3) and (half.argmax(axis=2) == 1).all()


def test_pad_keeps_everything_and_adds_black():
    x = fit_image(np.full((8, 16, 1), 200, np.uint8), (16, 16), "pad")
    assert (x[4:12] == 200).all() and (x[:4] == 0).all() and (x[12:] == 0).all()
    x = fit_image(np.full((8, 16, 3), 200, np.uint8), (8, 8), "pad")
    assert (x[2:6] == 200).all() and (x[:2] == 0).all() and (x[6:] == 0).all()


def test_stretch_ignores_the_aspect():
    x = fit_image(stripes(), (8, 8), "stretch")
    assert x.shape == (8, 8, 3)
    assert x.argmax(axis=2).tolist() == [[0, 0, 1, 1, 1, 1, 2, 2]] * 8


def test_downscaling_is_antialiased_and_equal_sizes_are_untouched():
    x = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]  # a checkerboard averages to grey
    inner = fit_image(x, (8, 8), "crop")[1:-1, 1:-1]
    assert abs(inner.astype(int) - 127).max() <= 3
    assert fit_image(x, (64, 64), "pad") is x
    with pytest.raises(UsageError, match="crop, pad, stretch"):
        fit_image(x, (8, 8), "squash")


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 300, 3), (301, 2, 4), (7, 5, 3)])
def test_every_shape_fits(shape, fit):
    assert fit_image(np.zeros(shape, np.uint8), (12, 20), fit).shape == (12, 20, shape[2])


def test_sizes():
    assert parse_size("64") == parse_size(64) == (64, 64) and parse_size(None) is None
    assert parse_size("48x64") == parse_size((48, 64)) == (48, 64)
    for wrong in ("", "0", "64x", "-3", "a", "64x0", "1x2x3", 1.5):
        with pytest.raises(UsageError, match="HEIGHTxWIDTH"):
            parse_size(wrong)
    assert default_size([(28, 28, 1)]) == (28, 28)
    assert default_size([(30, 41, 3)]) == (32, 44)
    assert default_size([(10, 10), (20, 20), (90, 90)]) == (20, 20)
    assert default_size([(480, 640)]) == (96, 128)
    assert default_size([(1000, 10)]) == (128, 4)


# --- folders


def test_folder_order_names_and_labels(tmp_path):
    for name in ("b/2.png", "b/10.png", "a/1.png", "a/deep/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise_image(len(name))).save(tmp_path / name)
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").touch()
    source = open_source(str(tmp_path))
    assert source.names == ["a/1.png", "a/deep/3.png", "b/10.png", "b/2.png"]
    assert source.labels == {"label": ["a", "a", "b", "b"]}
    assert source.paths[0] == str(tmp_path / "a" / "1.png") and source.kind == "folder" and source.array() is None
    assert open_source(f"{tmp_path}#label=b").names == ["b/10.png", "b/2.png"]
    with pytest.raises(UsageError, match=r"label=c: label is a, b"):
        open_source(f"{tmp_path}#label=c")
    with pytest.raises(UsageError, match=r"attributes are label"):
        open_source(f"{tmp_path}#colour=c")


def test_other_files_are_items_that_fail(tmp_path):
    write_images(tmp_path, 40)
    (tmp_path / "notes.txt").write_text("to do")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 10)
    data = prepare(open_source(str(tmp_path)))
    assert dict(data.skipped) == {str(tmp_path / name): "not an image" for name in ("notes.txt", "Thumbs.db")}
    assert len(data) == 40 and data.labels == {}


def test_links_are_followed_without_going_round(tmp_path):
    write_images(tmp_path / "data", 2)
    write_images(tmp_path / "other", 1)
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data" / "more").symlink_to(tmp_path / "other", target_is_directory=True)
    (tmp_path / "data" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    source = open_source(str(tmp_path / "data"))
    assert source.names == ["000.png", "001.png", "gone.png", "more/000.png"]
    with pytest.raises(BadItem, match="file not found"):
        source.load(2)


def test_label_pattern_and_ranges(tmp_path):
    for digit in range(2):
        for take in range(12):
            for speaker in ("jo", "al"):
                Image.fromarray(noise_image(take)).save(tmp_path / f"{digit}_{speaker}_{take}.png")
    (tmp_path / "notes.txt").write_text("x")
    pattern = "{digit}_{speaker}_{take}"
    whole = open_source(str(tmp_path), label_pattern=pattern)
    assert set(whole.labels) == {"digit", "speaker", "take"} and len(whole) == 49
    assert whole.bad == {48: "name does not match label_pattern"}
    chosen = open_source(f"{tmp_path}#speaker=jo,take=5-10,digit=0|1", label_pattern=pattern)
    assert len(chosen) == 12 and set(chosen.labels["speaker"]) == {"jo"}
    assert {int(t) for t in chosen.labels["take"]} == set(range(5, 11)) and not chosen.bad
    for select, message in (
        ("take=50-60", "take is 0, 1"),
        ("speaker=jo|zed", "speaker=zed"),
        ("jo", "#attribute=value"),
        ("train,test", "choose one"),
    ):
        with pytest.raises(UsageError, match=message):
            open_source(f"{tmp_path}#{select}", label_pattern=pattern)
    for wrong in ("{a", "nothing", "{a}_{a}", "{}", "{a:3}", "{1a}"):
        with pytest.raises(UsageError, match="in braces"):
            open_source(str(tmp_path), label_pattern=wrong)
    with pytest.raises(UsageError, match="matches no file name"):
        open_source(str(tmp_path), label_pattern="{a}+{b}")


def test_selections_that_exclude_each_other(tmp_path):
    for name in ("1_a", "2_b"):
        Image.fromarray(noise_image(0)).save(tmp_path / f"{name}.png")
    with pytest.raises(UsageError, match="no item meets all"):
        open_source(f"{tmp_path}#n=1,l=b", label_pattern="{n}_{l}")


def test_train_and_test_folders(tmp_path):
    write_images(tmp_path / "train" / "cat", 3)
    write_images(tmp_path / "test" / "cat", 2)
    assert open_source(f"{tmp_path}#test").names == ["cat/000.png", "cat/001.png"]
    assert len(open_source(f"{tmp_path}#train")) == len(open_source(str(tmp_path))) == 3
    assert open_source(f"{tmp_path}#train").labels == {"label": ["cat"] * 3}


def test_seeded_parts_of_a_plain_folder(tmp_path):
    folder = write_images(tmp_path / "with#hash", 100)
    for i in range(0, 100, 2):  # a copy of every second file
        (folder / f"copy{i:03d}.png").write_bytes((folder / f"{i:03d}.png").read_bytes())
    whole, train, test = (open_source(f"{folder}{part}") for part in ("", "#train", "#test"))
    assert sorted(train.names + test.names) == whole.names and len(test) == 15
    content = lambda source: {Path(path).read_bytes() for path in source.paths}
    assert not content(train) & content(test)
    assert open_source(f"{folder}#test").names == test.names


def test_wrong_sources(tmp_path):
    (tmp_path / "file.xyz").touch()
    (tmp_path / "empty").mkdir()
    for spec, message in (
        (str(tmp_path / "absent"), "does not exist"),
        (str(tmp_path / "file.xyz"), "is not a source"),
        (str(tmp_path / "empty"), "has no items"),
        ("builtin:digit", "did you mean builtin:digits"),
        ("builtin:zzzzz", "builtin:ring"),
    ):
        with pytest.raises(UsageError, match=message):
            open_source(spec)


# --- IDX


@pytest.mark.parametrize(("separator", "pack"), [("-", True), (".", False)])
def test_idx_round_trip(tmp_path, separator, pack):
    images, labels = np.stack([noise_image(i, 9, 7, 1) for i in range(50)]), np.arange(50, dtype=np.uint8) % 10
    write_idx(tmp_path, "train", images, labels, separator, pack)
    write_idx(tmp_path, "t10k", images[:5] ^ 255, labels[:5], separator, pack)
    source = open_source(str(tmp_path))
    assert source.kind == "idx" and np.array_equal(source.array()[..., 0], images)
    assert source.names[12] == "000012" and source.labels["label"] == labels.astype(str).tolist()
    assert np.array_equal(open_source(f"{tmp_path}#test").array()[..., 0], images[:5] ^ 255)
    threes = open_source(f"{tmp_path}#train,label=3")
    assert threes.names == ["000003", "000013", "000023", "000033", "000043"]
    assert np.array_equal(threes.load(1)[..., 0], images[13]) and np.array_equal(threes.array()[1], threes.load(1))
    data = prepare(source, size="9x7")
    assert np.array_equal(data.data[:, 0], images) and data.labels["label"][13] == "3"


def test_damaged_idx(tmp_path):
    images = np.zeros((20, 4, 4), np.uint8)
    write_idx(tmp_path, "train", images, np.zeros(19, np.uint8), pack=False)
    with pytest.raises(MorphogenError, match="19 labels for the 20 images"):
        open_source(str(tmp_path))
    with pytest.raises(MorphogenError, match="t10k-images-idx3-ubyte"):
        open_source(f"{tmp_path}#test")
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MorphogenError, match=r"train-images-idx3-ubyte is truncated.*320 bytes of data and 319"):
        open_source(str(tmp_path))
    packed = tmp_path / "gz"
    write_idx(packed, "train", np.random.default_rng(0).integers(0, 256, (20, 9, 9), dtype=np.uint8))
    path = packed / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MorphogenError, match=r"train-images-idx3-ubyte.gz is truncated"):
        open_source(str(packed))
    path.write_bytes(b"no gzip")
    with pytest.raises(MorphogenError, match="damaged"):
        open_source(str(packed))


@pytest.mark.parametrize(("name", "side"), [("mnist", 28), ("usps", 16)])
def test_real_idx_sets(name, side):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not on this machine")
    test = open_source(f"{SHARED / name}#test")
    assert test.array().shape[1:] == (side, side, 1) and set(test.labels["label"]) == set("0123456789")
    if name == "mnist":
        data = prepare(test)
        assert data.data.shape == (10_000, 1, 28, 28) and "".join(test.labels["label"][:5]) == "72104"


# --- arrays and built-ins


def test_npy_images(tmp_path):
    x = np.stack([noise_image(i) for i in range(40)])
    for dtype, y in (("u8", x), ("i64", x.astype(np.int64)), ("unit", x / 255), ("signed", x / np.float32(127.5) - 1)):
        np.save(tmp_path / f"{dtype}.npy", y)
        source = open_source(str(tmp_path / f"{dtype}.npy"))
        assert source.space == "image" and source.paths[3] == str(tmp_path / f"{dtype}.npy")
        assert np.array_equal(source.array(), x) and np.array_equal(source.load(7), x[7])
    np.save(tmp_path / "grey.npy", x[..., 0])
    assert open_source(str(tmp_path / "grey.npy")).load(0).shape == (12, 12, 1)
    np.save(tmp_path / "mask.npy", x[..., 0] > 127)
    assert set(np.unique(open_source(str(tmp_path / "mask.npy")).array())) == {0, 255}


def test_npz_names_and_labels(tmp_path):
    x = np.stack([noise_image(i) for i in range(4)])
    np.savez(tmp_path / "a.npz", other=np.zeros(3), labels=np.array([1, 2, 1, 2]), images=x)
    source = open_source(f"{tmp_path / 'a.npz'}#label=2")
    assert source.names == ["000001", "000003"] and np.array_equal(source.array(), x[[1, 3]])
    np.savez(tmp_path / "first.npz", z=x)
    assert len(open_source(str(tmp_path / "first.npz"))) == 4
    np.savez(tmp_path / "short.npz", x=x, y=np.arange(3))
    with pytest.raises(UsageError, match="one label an item"):
        open_source(str(tmp_path / "short.npz"))


def test_points(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 3))
    x[4, 1] = np.nan
    np.save(tmp_path / "p.npy", x)
    source = open_source(str(tmp_path / "p.npy"))
    data = prepare(source)
    assert source.space == data.space == "points" and data.data.dtype == np.float32 and data.item_shape == (3,)
    assert len(data) == 49 and data.names[4] == "000005" and "finite" in data.skipped[0][1]
    with pytest.raises(BadItem, match="finite"):
        source.load(4)
    assert check_source(source)["sizes"] == {"dimensions": 3}


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(5),
        np.zeros((5, 4), np.uint8),
        np.zeros((5, 4, 4, 2), np.uint8),
        np.zeros((5, 3, 8, 8), np.uint8),
        np.full((5, 4, 4), 256),
        np.full((5, 4, 4), 1.5),
        np.full((5, 4, 4), -2.0),
        np.full((5, 4, 4), np.nan),
        np.array(["a"]),
    ],
)
def test_arrays_that_are_neither(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UsageError, match=r"x\.npy holds"):
        open_source(str(tmp_path / "x.npy"))


def test_pickles_and_damaged_arrays_are_refused(tmp_path):
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "cut.npy", np.zeros((40, 8, 8), np.uint8))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-10])
    for name in ("pickle.npy", "text.npy", "text.npz", "cut.npy"):
        with pytest.raises(MorphogenError, match="cannot be read as plain numbers"):
            open_source(str(tmp_path / name))


def test_builtins():
    digits = open_source("builtin:digits")
    assert (
        digits.array().shape == (1797, 8, 8, 1)
        and digits.array().max() == 255
        and digits.labels["label"][:3] == [*"012"]
    )
    assert open_source("builtin:noise").array().shape == (10_000, 64)
    for name, centers, sigma in (("ring", RING_CENTERS, RING_SIGMA), ("grid", GRID_CENTERS, GRID_SIGMA)):
        source = open_source(f"builtin:{name}")
        points, modes = source.array(), np.array(source.labels["label"]).astype(int)
        assert points.shape == (50_000, 2) and points.dtype == np.float32 and len(set(modes)) == len(centers)
        assert abs((points - centers[modes]).std() / sigma - 1) < 0.02
        assert np.array_equal(points, open_source(f"builtin:{name}").array())
    assert len(open_source("builtin:digits#test")) == 180 and len(open_source("builtin:digits#train")) == 1617


# --- prepare


def test_mixed_sizes_get_the_default_size(tmp_path):
    for i in range(33):
        Image.fromarray(noise_image(i, 20 + i % 3, 30)).save(tmp_path / f"{i:02d}.png")
    source = open_source(str(tmp_path))
    calls = []
    data = prepare(source, progress=lambda done, total: calls.append((done, total)))
    assert data.data.shape == (33, 3, 24, 32) and data.data.dtype == np.uint8 and calls[-1] == (33, 33)
    assert prepare(source, size="8x16", fit="pad", channels=1).item_shape == (1, 8, 16)
    assert prepare(source, channels=4).item_shape == (4, 24, 32)


def test_grey_stays_grey_and_one_colour_image_makes_three_channels(tmp_path):
    write_images(tmp_path, 40, channels=1)
    data = prepare(open_source(str(tmp_path)))
    assert data.item_shape == (1, 12, 12) and np.array_equal(data.data[5, 0], noise_image(5, channels=1))
    Image.fromarray(noise_image(9)).save(tmp_path / "zz.png")
    data = prepare(open_source(str(tmp_path)))
    assert data.item_shape == (3, 12, 12) and np.array_equal(data.data[-1], noise_image(9).transpose(2, 0, 1))


def test_too_many_bad_items_stop(tmp_path):
    write_images(tmp_path, 40)
    for i in range(5):
        (tmp_path / f"{i:03d}.png").write_bytes(b"junk")
    source = open_source(str(tmp_path))
    message = r"5 of 40 files in .* cannot be read \(the first is 000.png: not an image\); run `morphogen data check"
    with pytest.raises(MorphogenError, match=message):
        prepare(source)
    data = prepare(source, strict=False)
    assert len(data) == 35 and len(data.skipped) == 5 and data.names[0] == "005.png"
    assert np.array_equal(data.data[0], noise_image(5).transpose(2, 0, 1))
    assert len(prepare(source, max_bad=0.2)) == 35


def test_too_few_items_stop(tmp_path):
    write_images(tmp_path / "few", 31)
    with pytest.raises(MorphogenError, match="31 readable items and training needs at least 32"):
        prepare(open_source(str(tmp_path / "few")))
    assert len(prepare(open_source(str(tmp_path / "few")), minimum=31)) == 31
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "x.png").write_text("x")
    with pytest.raises(MorphogenError, match="no readable item"):
        prepare(open_source(str(tmp_path / "none")), strict=False, size=8, channels=3)


def test_wrong_options():
    source = open_source("builtin:digits")
    for options in ({"fit": "squash"}, {"channels": 2}, {"size": "big"}):
        with pytest.raises(UsageError):
            prepare(source, **options)


def test_mapped_equals_memory_and_is_found_again(tmp_path, monkeypatch):
    folder, cache = write_images(tmp_path / "data", 300), tmp_path / "cache"
    (folder / "100.png").write_bytes(b"")
    memory = prepare(open_source(str(folder)))
    mapped = prepare(open_source(str(folder)), cache_dir=cache, memory_limit=0)
    assert isinstance(mapped.data, np.memmap) and not isinstance(memory.data, np.memmap)
    assert np.array_equal(mapped.data, memory.data) and mapped.names == memory.names
    assert mapped.skipped == memory.skipped == [(str(folder / "100.png"), "empty file")]
    assert mapped.fingerprint() == memory.fingerprint()
    before = sorted(cache.iterdir())
    monkeypatch.setattr(dataset, "_decoded_block", None)  # decoding again would fail
    again = prepare(open_source(str(folder)), cache_dir=cache, memory_limit=0)
    assert np.array_equal(again.data, memory.data) and sorted(cache.iterdir()) == before and len(before) == 2
    Image.fromarray(noise_image(7, 30, 30)).save(folder / "000.png")
    with pytest.raises(TypeError):  # the source changed, so it is decoded again
        prepare(open_source(str(folder)), cache_dir=cache, memory_limit=0)
    assert sorted(cache.iterdir()) == before, "an interrupted write leaves nothing behind"


def test_mapped_arrays_and_subsets(tmp_path, monkeypatch):
    source = open_source("builtin:digits")
    mapped, memory = prepare(source, cache_dir=tmp_path, memory_limit=0), prepare(source)
    assert isinstance(mapped.data, np.memmap) and np.array_equal(mapped.data, memory.data)
    monkeypatch.setattr(dataset, "available_memory", lambda: 0)
    train, heldout = split(mapped)
    monkeypatch.undo()
    expected = split(memory)
    assert isinstance(train.data, np.memmap) and not isinstance(expected[0].data, np.memmap)
    assert train.fingerprint() == expected[0].fingerprint() and heldout.fingerprint() == expected[1].fingerprint()


def test_full_disk_is_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dataset.os, "replace", full)
    with pytest.raises(MorphogenError, match=r"the disk that holds .* is full: set MORPHOGEN_CACHE"):
        prepare(open_source("builtin:digits"), cache_dir=tmp_path, memory_limit=0)
    assert not list(tmp_path.iterdir())


def test_split_keeps_identical_items_together(tmp_path):
    x = np.stack([noise_image(i % 70, 6, 6) for i in range(200)])
    np.savez(tmp_path / "x.npz", images=x, labels=np.arange(200) % 70)
    data = prepare(open_source(str(tmp_path / "x.npz")))
    train, heldout = split(data, seed=1)
    assert len(train) + len(heldout) == 200 and 15 <= len(heldout) <= 20
    assert not {row.tobytes() for row in train.data} & {row.tobytes() for row in heldout.data}
    assert np.array_equal(train.labels["label"].astype(int), np.array(train.names).astype(int) % 70)
    assert train.names == sorted(train.names) and split(data, seed=1)[1].names == heldout.names
    assert split(data, seed=2)[1].names != heldout.names


def test_fingerprint_follows_content_and_labels(tmp_path):
    first = prepare(open_source("builtin:digits"))
    assert (
        first.fingerprint() == prepare(open_source("builtin:digits")).fingerprint() and len(first.fingerprint()) == 16
    )
    pixels, labels = (prepare(open_source("builtin:digits")) for _ in range(2))
    pixels.data[9, 0, 0, 0] ^= 1
    labels.labels["label"][9] = "x"
    assert len({first.fingerprint(), pixels.fingerprint(), labels.fingerprint()}) == 3


# --- check


def test_check_reports_planted_faults(tmp_path):
    for label in ("cat", "dog"):
        write_images(tmp_path / label, 30, height=10 if label == "cat" else 14)
    (tmp_path / "dog" / "twin.png").write_bytes((tmp_path / "dog" / "004.png").read_bytes())
    Image.fromarray(noise_image(5, 14)).save(tmp_path / "dog" / "twin.bmp")  # equal pixels in another format
    Image.new("L", (12, 14), 7).save(tmp_path / "dog" / "flat.png")
    (tmp_path / "cat" / "broken.png").write_bytes((tmp_path / "cat" / "004.png").read_bytes()[:100])
    report = check_source(open_source(str(tmp_path)))
    assert json.loads(json.dumps(report)) == report
    assert (report["total"], report["good"], report["bad"], report["constant"]) == (64, 63, 1, 1)
    assert report["bad_files"] == [[str(tmp_path / "cat" / "broken.png"), "truncated"]]
    assert report["sizes"]["height"] == {"min": 10, "median": 14.0, "max": 14}
    assert report["sizes"]["common"] == [[14, 12, 33], [10, 12, 30]]
    assert report["channels"] == {"RGB": 62, "grey": 1}
    assert report["labels"] == {"label": {"distinct": 2, "counts": {"dog": 33, "cat": 30}}}
    assert report["duplicates"]["groups"] == report["duplicates"]["items"] == 2
    assert sorted(report["duplicates"]["examples"]) == [
        ["dog/004.png", "dog/twin.png"],
        ["dog/005.png", "dog/twin.bmp"],
    ]
    assert report["would_train"] and "63 of 64" in report["why"]


def test_check_says_why_it_would_not_train(tmp_path):
    write_images(tmp_path, 10)
    source = open_source(str(tmp_path))
    report = check_source(source)
    with pytest.raises(MorphogenError) as caught:
        prepare(source)
    assert not report["would_train"] and report["why"] == str(caught.value)


def test_the_package_does_not_import_torch():
    code = "import sys, morphogen.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


def test_a_label_may_join_attributes():
    data = prepare(open_source("builtin:digits"))
    data.labels["half"] = np.array(["left", "right"] * 899)[: len(data)]
    both = data.with_label("label+half")
    assert both.labels["label+half"][:3].tolist() == [
        f"{digit}+{half}" for digit, half in zip(data.labels["label"][:3], ["left", "right", "left"], strict=True)
    ]
    assert "label+half" not in data.labels  # the data set itself stays as it was
    data.labels["sign"] = np.array(["+"] * len(data))
    with pytest.raises(UsageError, match="hold a"):
        data.with_label("label+sign")
    assert data.with_label("label") is data and data.with_label("label+colour") is data
