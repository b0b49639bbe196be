"""Metrics against known answers: closed forms, brute force, and extractors with weights of our own."""

from itertools import permutations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from morphogen.errors import MorphogenError, UsageError
from morphogen.metrics import classifier
from morphogen.metrics.distances import (
    frechet_distance,
    frechet_error,
    kernel_distance,
    precision_recall_density_coverage,
    squared_mmd,
)
from morphogen.metrics.extractors import (
    Dinov2Features,
    InceptionFeatures,
    PointFeatures,
    RandomFeatures,
    choose_extractor,
    train_classifier,
)
from morphogen.metrics.pretrained import InceptionV3
from morphogen.metrics.toy import mixture_modes, truncated_variance


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def white(n: int, d: int, seed: int = 0) -> np.ndarray:
    """(n, d) whose sample mean is exactly 0 and whose unbiased covariance is exactly the identity."""
    x = normal(n, d, seed)
    return np.linalg.qr(x - x.mean(axis=0))[0] * np.sqrt(n - 1)


# ---------------------------------------------------------------- distances


def test_frechet_closed_form():
    """Commuting diagonal covariances: ‖m‖² + Σ (s_i − t_i)²; a rotation of both changes nothing."""
    s, t, shift = np.array([1.0, 2, 3, 0]), np.array([2.0, 2, 1, 0.5]), np.array([1.0, -2, 0, 3])
    a, b = white(50, 4, 1) * s, white(70, 4, 2) * t + shift
    expected = (shift**2).sum() + ((s - t) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    turn = np.linalg.qr(normal(4, 4))[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_full_covariances_is_the_matrix_root():
    from scipy.linalg import sqrtm

    a, b = normal(40, 6, 1) @ normal(6, 6, 2), normal(30, 6, 3) @ normal(6, 6, 4) + 1
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_frechet_identical_and_few_items():
    a = normal(10, 40)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 40, rel=1e-9)
    assert np.isfinite(frechet_distance(a, normal(7, 40, 1)))


def test_frechet_error_matches_the_spread_over_fresh_sets():
    values = [frechet_distance(normal(200, 3, 2 * i), normal(200, 3, 2 * i + 1) + 1) for i in range(60)]
    errors = [frechet_error(normal(200, 3, 2 * i), normal(200, 3, 2 * i + 1) + 1, seed=i) for i in range(20)]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35)


def test_kernel_by_brute_force():
    a, b = normal(4, 3, 1), normal(5, 3, 2)
    k = lambda x, y: (x @ y / 3 + 1) ** 3
    within = lambda x: np.mean([k(p, q) for p, q in permutations(x, 2)])
    expected = within(a) + within(b) - 2 * np.mean([k(p, q) for p in a for q in b])
    assert squared_mmd(a, b) == pytest.approx(expected, rel=1e-12)


def test_kernel_is_unbiased_and_its_error_is_honest():
    same = [kernel_distance(normal(60, 2, 2 * i), normal(60, 2, 2 * i + 1), subsets=10)[0] for i in range(150)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(len(same))
    pairs = [kernel_distance(normal(200, 2, 2 * i) + 0.5, normal(200, 2, 2 * i + 1), 50, 20) for i in range(60)]
    values, errors = np.array(pairs).T
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35)


def test_neighbours_toy_values():
    real = normal(300, 2)
    copies = precision_recall_density_coverage(real, real.copy())
    assert copies["precision"] == copies["recall"] == copies["coverage"] == 1
    apart = precision_recall_density_coverage(real, real + 100)
    assert set(apart.values()) == {0.0}
    two = np.concatenate([normal(200, 2, 1), normal(200, 2, 2) + 50])
    dropped = precision_recall_density_coverage(two, normal(400, 2, 3))
    assert dropped["precision"] > 0.9
    assert dropped["recall"] < 0.55
    assert dropped["coverage"] < 0.55


def test_neighbours_by_brute_force():
    real, fake, k = normal(20, 2, 1), normal(15, 2, 2), 3
    radius = [sorted(np.linalg.norm(real - x, axis=1))[k] for x in real]
    inside = np.array([[np.linalg.norm(y - x) <= r for y in fake] for x, r in zip(real, radius, strict=True)])
    got = precision_recall_density_coverage(real, fake, k)
    assert got["density"] == pytest.approx(inside.sum() / (k * 15))
    assert got["precision"] == pytest.approx(inside.any(axis=0).mean())
    assert got["coverage"] == pytest.approx(inside.any(axis=1).mean())


def test_neighbours_limit_is_no_first_rows():
    """Sorted by class, the first rows would hold one class only: half of the fakes would lie outside."""
    real = np.concatenate([normal(400, 2, 1), normal(400, 2, 2) + 50])
    got = precision_recall_density_coverage(real, real + 0.01, limit=300)
    assert got["precision"] > 0.9
    assert got["recall"] > 0.9


@pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((1, 3)), np.full((9, 3), np.nan), np.zeros((9, 2))])
def test_bad_features_are_refused(bad):
    with pytest.raises(MorphogenError):
        frechet_distance(bad, normal(9, 3))


# ---------------------------------------------------------------- toy

GRID = np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], dtype=float)


def grid_samples(n: int, modes: int = 25, sigma: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(0)
    return GRID[rng.integers(modes, size=n)] + sigma * rng.standard_normal((n, 2))


def test_true_mixture_is_perfect():
    got = mixture_modes(grid_samples(20_000), GRID, 0.05)
    assert got["modes"] == 25
    assert got["high_quality_share"] == pytest.approx(1 - np.exp(-4.5), abs=0.002)
    assert got["spread"] == pytest.approx(1, abs=0.01)
    assert got["reverse_kl"] < 0.01
    assert got["smallest_share"] > 0.03


def test_mixture_faults_are_seen():
    dropped = mixture_modes(grid_samples(5000, modes=20), GRID, 0.05)
    assert (dropped["modes"], dropped["smallest_share"]) == (20, 0)
    assert dropped["reverse_kl"] == pytest.approx(np.log(25 / 20), abs=0.01)
    assert mixture_modes(grid_samples(5000, sigma=0.025), GRID, 0.05)["spread"] == pytest.approx(0.5 / 0.974, abs=0.02)
    collapsed = mixture_modes(np.repeat(GRID[:1], 100, axis=0), GRID, 0.05)
    assert (collapsed["modes"], collapsed["spread"]) == (1, 0)
    assert collapsed["reverse_kl"] == pytest.approx(np.log(25))
    lost = mixture_modes(np.full((10, 2), 99.0), GRID, 0.05)
    assert (lost["modes"], lost["high_quality_share"]) == (0, 0)
    with pytest.raises(MorphogenError):
        mixture_modes(np.full((10, 2), np.nan), GRID, 0.05)


def test_truncated_variance():
    x = normal(200_000, 2)
    x = x[np.linalg.norm(x, axis=1) < 1.5]
    assert truncated_variance(1.5) == pytest.approx(x.var(), rel=0.01)
    assert truncated_variance(30) == pytest.approx(1)


# ---------------------------------------------------------------- extractors


def images(n: int, c: int = 1, h: int = 8, w: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, c, h, w), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (2, 9, 30), (3, 100, 70), (4, 8, 8)])
def test_random_features_take_any_shape_and_are_constant(shape):
    items = images(5, *shape)
    first, second = RandomFeatures(), RandomFeatures()
    assert first.identity == second.identity != RandomFeatures(seed=1).identity
    features = first.features(items)
    assert features.shape == (5, 256)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, second.features(items))


def test_random_features_refuse_other_items():
    for items in (np.zeros((2, 1, 8, 8)), images(2, h=3), images(0)):
        with pytest.raises(MorphogenError):
            RandomFeatures().features(items)


@pytest.fixture(scope="module")
def digits():
    """(train, train labels, held-out, held-out labels) of scikit-learn's 8x8 digits."""
    bunch = load_digits()
    items = (bunch.images * 15.9375).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(items))
    items, labels = items[order], bunch.target[order]
    return items[:1400], labels[:1400], items[1400:], labels[1400:]


def test_classifier_is_right_and_cached(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("MORPHOGEN_CACHE", str(tmp_path))
    train = lambda: train_classifier(*digits, fingerprint="digits")
    first = train()
    assert first.accuracy > 0.9
    assert first.classes == [str(n) for n in range(10)]
    items = digits[2][:50]
    assert first.features(items).shape == (50, 64)
    np.testing.assert_allclose(first.probabilities(items).sum(axis=1), 1, rtol=1e-5)
    (cached,) = (tmp_path / "extractors").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "_fit", None)  # a cache that is not used would fail here
        again = train()
    assert again.identity == first.identity
    np.testing.assert_array_equal(again.features(items), first.features(items))
    damaged = bytearray(cached.read_bytes())
    damaged[-1] ^= 1
    for content in (bytes(damaged), b"no weights"):
        cached.write_bytes(content)
        with monkeypatch.context() as patch:
            patch.setattr(classifier, "STEPS", (2, 2))
            retrained = train()
        assert retrained.identity != first.identity


def test_classifier_takes_rectangles_and_colour(tmp_path, monkeypatch):
    monkeypatch.setenv("MORPHOGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(classifier, "STEPS", (2, 2))
    items, labels = images(40, 3, 20, 50), np.array(["cat", "dog"] * 20)
    made = train_classifier(items, labels, items, labels, fingerprint="x", autocast=True)
    assert made.classes == ["cat", "dog"]
    assert made.features(items).shape == (40, 64)
    with pytest.raises(UsageError, match="two classes"):
        train_classifier(items, np.zeros(40), items, labels, fingerprint="x")
    with pytest.raises(UsageError, match="one label per item"):
        train_classifier(items, labels[:3], items, labels, fingerprint="x")


def test_translation_moves_and_never_mirrors():
    x = images(64, 1, 8, 8)
    moved = classifier.translated(torch.from_numpy(x), torch.Generator().manual_seed(0)).numpy()
    for before, after in zip(x[:, 0], moved[:, 0], strict=True):
        padded = np.pad(before, 1, mode="edge")
        assert any((padded[r : r + 8, c : c + 8] == after).all() for r in range(3) for c in range(3))


def test_choice_of_the_extractor(tmp_path, monkeypatch):
    monkeypatch.setenv("MORPHOGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(classifier, "STEPS", (2, 2))
    items, labels = images(60), np.arange(60) % 2

    def choose(name, items=items, labels=labels):
        given = {"train_items": items, "train_labels": labels, "heldout_items": items, "heldout_labels": labels}
        return choose_extractor(name, **given, fingerprint="x").name

    assert choose("auto") == "classifier"
    assert choose("auto", labels=None) == "random"
    assert choose("auto", labels=np.arange(60) % 4) == "random"  # 15 items per class are too few
    assert choose("auto", items=normal(60, 2).astype(np.float32)) == "points"
    assert choose("random") == "random"
    for wrong in ("inseption", "inception", "dinov2:"):
        with pytest.raises(UsageError):
            choose(wrong)
    with pytest.raises(UsageError, match="labels"):
        choose("classifier", labels=None)
    with pytest.raises(MorphogenError, match="Cannot read"):
        choose(f"dinov2:{tmp_path}/none.safetensors")


def test_point_features_see_modes_that_mean_and_covariance_hide():
    """A blob with the very mean and covariance of four modes: the coordinates cannot tell, the waves can."""
    rng = np.random.default_rng(0)
    modes = rng.choice([-1.0, 1.0], (4000, 2)) + 0.05 * rng.standard_normal((4000, 2))
    again = rng.choice([-1.0, 1.0], (4000, 2)) + 0.05 * rng.standard_normal((4000, 2))
    blob = rng.standard_normal((4000, 2)) * modes.std()
    extractor = PointFeatures(modes)
    features = [extractor.features(x) for x in (modes, again, blob)]
    np.testing.assert_allclose(features[0][:, :2], modes / modes.std(), rtol=1e-5)
    assert frechet_distance(features[0][:, :2], features[2][:, :2]) < 0.01
    assert frechet_distance(features[0], features[2]) > 20 * frechet_distance(features[0], features[1])


# ---------------------------------------------------------------- pretrained networks


def test_inception_loads_by_pytorch_fid_names(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = {key: value for key, value in InceptionV3().state_dict().items() if "num_batches" not in key}
    assert state["Mixed_6c.branch7x7dbl_2.conv.weight"].shape == (160, 160, 7, 1)
    assert state["Mixed_7c.branch3x3_2b.bn.running_mean"].shape == (384,)
    assert len(state) == 94 * 5  # torchvision's network has 94 convolutions without its auxiliary head
    assert sum(v.numel() for k, v in state.items() if "running" not in k) == 21_785_568  # and so many parameters
    save_file(state | {"fc.bias": torch.zeros(1008)}, tmp_path / "all.safetensors")
    features = InceptionFeatures(tmp_path / "all.safetensors").features(images(1, 1, 28, 28))
    assert features.shape == (1, 2048)
    assert np.isfinite(features).all()
    wrong = state | {"Conv2d_1a_3x3.bn.weight": torch.zeros(3)}
    save_file(wrong, tmp_path / "shape.safetensors")
    with pytest.raises(MorphogenError, match=r"Conv2d_1a_3x3.bn.weight.*\(3,\)"):
        InceptionFeatures(tmp_path / "shape.safetensors")
    del state["Mixed_7a.branch3x3_1.conv.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(MorphogenError, match=r"lacks the tensor 'Mixed_7a.branch3x3_1.conv.weight'"):
        InceptionFeatures(tmp_path / "less.safetensors")


def tiny_vit(width: int = 128, depth: int = 2, side: int = 37) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + side**2, width), "mask_token": (1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,)}
    linear = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for n in range(depth):
        for part, (rows, columns) in linear.items():
            shapes[f"blocks.{n}.{part}.weight"] = (rows * width, columns * width)
            shapes[f"blocks.{n}.{part}.bias"] = (rows * width,)
        for part in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{n}.{part}"] = (width,)
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    return {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}


def test_dinov2_reads_its_sizes_from_the_file(tmp_path):
    path = tmp_path / "vit.safetensors"
    weights = tiny_vit()
    save_file(weights, path)
    features = Dinov2Features(path).features(images(2, 3, 30, 20))
    assert features.shape == (2, 128)
    assert np.isfinite(features).all()
    del weights["blocks.1.ls2.gamma"]
    save_file(weights, path)
    with pytest.raises(MorphogenError, match=r"lacks the tensor 'blocks.1.ls2.gamma'"):
        Dinov2Features(path)
    save_file(tiny_vit() | {"norm.bias": torch.zeros(5)}, path)
    with pytest.raises(MorphogenError, match=r"norm.bias.*\(5,\)"):
        Dinov2Features(path)
    save_file(tiny_vit() | {"register_tokens": torch.zeros(1, 4, 128)}, path)
    with pytest.raises(MorphogenError, match="register"):
        Dinov2Features(path)


def test_dinov2_equals_torchs_transformer(tmp_path):
    """Without layer scale a pre-norm encoder of torch is the same network."""
    weights = tiny_vit(side=16)
    for n in range(2):
        weights[f"blocks.{n}.ls1.gamma"] = weights[f"blocks.{n}.ls2.gamma"] = torch.ones(128)
    save_file({key: value.clone() for key, value in weights.items()}, tmp_path / "vit.safetensors")
    from morphogen.metrics.pretrained import vit_class_token

    layer = torch.nn.TransformerEncoderLayer(128, 2, 512, 0, "gelu", 1e-6, batch_first=True, norm_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    names = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1."}
    names |= {"linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2."}
    state = {
        f"layers.{n}.{theirs}{end}": weights[f"blocks.{n}.{ours}{end}"]
        for n in range(2)
        for theirs, ours in names.items()
        for end in ("weight", "bias")
    }
    encoder.load_state_dict(state)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        patches = torch.nn.functional.conv2d(
            x, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], 14
        )
        tokens = torch.cat([weights["cls_token"].expand(2, 1, 128), patches.flatten(2).transpose(1, 2)], dim=1)
        expected = encoder(tokens + weights["pos_embed"])[:, 0]
        expected = torch.nn.functional.layer_norm(expected, (128,), weights["norm.weight"], weights["norm.bias"], 1e-6)
        torch.testing.assert_close(vit_class_token(weights, x), expected, rtol=1e-4, atol=1e-5)
