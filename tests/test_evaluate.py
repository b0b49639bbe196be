"""Evaluation on data with a known order: noise is far away, real data at the floor, and the table says so."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from sklearn.datasets import load_digits

from morphogen.errors import MorphogenError
from morphogen.evaluation import FLOOR, SAMPLES, HeldoutScore, class_balance, evaluate_items
from morphogen.metrics import classifier
from morphogen.metrics.distances import frechet_distance
from morphogen.metrics.extractors import PointFeatures, RandomFeatures, train_classifier
from morphogen.metrics.toy import mixture_modes
from morphogen.scorecard import table


@pytest.fixture(scope="module")
def digits():
    """Three disjoint sets of 8x8 digits (599, 1, 8, 8) and their labels."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    items = (bunch.images * 15.9375).astype(np.uint8)[order, None]
    return np.split(items, 3), np.split(bunch.target[order], 3)


@pytest.fixture(scope="module")
def extractor(digits, tmp_path_factory):
    (_, train, heldout), (_, labels, heldout_labels) = digits
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MORPHOGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return train_classifier(train, labels, heldout, heldout_labels, fingerprint="digits")


def printed(result: dict) -> str:
    console = Console(width=250, file=io.StringIO())
    console.print(table(result))
    return console.file.getvalue()


@pytest.mark.parametrize("kind", ["random", "classifier"])
def test_noise_is_far_and_real_data_is_at_the_floor(kind, digits, extractor):
    extractor = RandomFeatures() if kind == "random" else extractor
    (real, train, heldout), _ = digits
    noise = np.random.default_rng(0).integers(0, 256, (599, 1, 8, 8), dtype=np.uint8)
    good = evaluate_items(real, train, heldout, extractor)["rows"]
    bad = evaluate_items(noise, train, heldout, extractor)["rows"]
    assert good[FLOOR] == bad[FLOOR]
    assert good[SAMPLES]["fid"] < 2 * good[FLOOR]["fid"]
    assert abs(good[SAMPLES]["kid"]) < 5 * good[SAMPLES]["kid_error"]
    assert bad[SAMPLES]["fid"] > 10 * bad[FLOOR]["fid"]
    assert bad[SAMPLES]["kid"] > 10 * bad[SAMPLES]["kid_error"]
    assert good[SAMPLES]["coverage"] > 0.8 > 0.1 > bad[SAMPLES]["coverage"]


def test_one_class_is_seen_by_recall_and_class_entropy(digits, extractor):
    (real, train, heldout), (labels, _, _) = digits
    rows = evaluate_items(real[labels == 3], train, heldout, extractor)["rows"]
    assert rows[SAMPLES]["class_entropy"] < 0.5 < 2 < rows[FLOOR]["class_entropy"]
    assert rows[SAMPLES]["class_shares"]["3"] > 0.9
    assert rows[SAMPLES]["coverage"] < 0.3
    assert rows[SAMPLES]["precision"] > 0.7


def test_counts_are_equal_and_the_notes_say_what_was_used(digits, extractor):
    (real, train, heldout), _ = digits
    result = evaluate_items(real, train[:100], heldout, extractor, split="by hand")
    assert result["counts"] == {"samples": 100, "train": 100, "heldout": 599}
    assert any("100 of the 599" in note and "training items" in note for note in result["notes"])
    assert any("biased" in note for note in result["notes"])
    assert result == json.loads(json.dumps(result))
    assert result == evaluate_items(real, train[:100], heldout, extractor, split="by hand")
    few = evaluate_items(real, train, heldout[:200], extractor, sample_count=50)
    assert few["counts"]["samples"] == 50
    assert any("200 held-out items are few for 64" in note for note in few["notes"])


def test_the_table_has_both_rows_and_says_how(digits, extractor):
    (real, train, heldout), _ = digits
    result = evaluate_items(real, train, heldout, extractor, split="seeded third")
    text = " ".join(printed(result).split())  # the caption is broken into lines
    for words in (
        SAMPLES.split()[0],
        "real",
        "FID",
        "±",
        extractor.identity,
        "599 held-out",
        "seeded third",
        "resize",
        "biased",
    ):
        assert words in text
    assert "class shares" not in text


def test_points_with_known_modes(digits):
    rng = np.random.default_rng(0)
    centers = np.array([[0.0, 0], [5, 0], [0, 5]])
    samples, train, heldout = (
        (centers[rng.integers(3, size=2500)] + 0.1 * rng.standard_normal((2500, 2))).astype(np.float32) for _ in "abc"
    )
    result = evaluate_items(samples, train, heldout, PointFeatures(train))
    assert result["notes"] == []
    assert result["rows"][SAMPLES]["fid"] < 2 * result["rows"]["real held-out data"]["fid"] + 0.1
    result["modes"] = mixture_modes(samples, centers, 0.1)
    assert "reverse_kl" in printed(result)


def test_heldout_score_is_the_frechet_distance(digits):
    (real, _, heldout), _ = digits
    extractor = RandomFeatures()
    got = HeldoutScore(extractor, heldout)(real)
    assert got["fid"] == pytest.approx(frechet_distance(extractor.features(real), extractor.features(heldout)))
    assert abs(got["kid"]) < 1


def test_class_balance_values():
    got = class_balance(np.array([[0.95, 0.05], [0.2, 0.8]]), ["a", "b"])
    assert got["class_entropy"] == pytest.approx(np.log(2))
    assert got["confident"] == 0.5
    assert got["class_shares"] == {"a": 0.5, "b": 0.5}


def test_a_poor_classifier_is_named(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("MORPHOGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(classifier, "STEPS", (1, 1))
    (real, train, heldout), (_, labels, heldout_labels) = digits
    poor = train_classifier(train, labels, heldout, heldout_labels, fingerprint="digits")
    assert any("often wrong" in note for note in evaluate_items(real, train, heldout, poor)["notes"])


def test_other_shapes_are_refused(digits):
    (real, train, heldout), _ = digits
    with pytest.raises(MorphogenError, match="differ in shape"):
        evaluate_items(real[..., :6], train, heldout, RandomFeatures())
