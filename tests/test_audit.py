"""The overfitting audit: closed forms of its tests, and planted copiers that must be called so, in every modality."""

import json

import numpy as np
import pytest
from scipy import stats

from morphogen import evaluate
from morphogen.config import Config, DataConfig
from morphogen.data.text import packed
from morphogen.domains import load_data
from morphogen.evaluation import by_class, farthest
from morphogen.judges import pictures_of, plain_modality
from morphogen.metrics.audit import audit, data_copying, plain_features, smallest_share
from morphogen.metrics.distances import mean_and_error, ratio_and_error
from morphogen.scorecard import summary

SOURCES = {"image": "builtin:digits", "text": "builtin:words", "audio": "builtin:tones"}


@pytest.fixture(scope="module", params=SOURCES, ids=str)
def known(request):
    """Data of each modality, and what turns its items into plain features."""
    data = load_data(Config(modality=request.param, data=DataConfig(source=SOURCES[request.param])))
    return data, plain_features(pictures_of(plain_modality(data.train)))


def test_a_copier_is_called_one_and_its_pairs_are_the_copies(known):
    data, features = known
    rows = np.random.default_rng(1).integers(0, len(data.train), 200)
    found = audit(data.train.data[rows], data.train.data, data.heldout.data, features)
    assert found["verdict"] == "copies"
    assert found["p"] < 0.01
    assert found["near_copies"] == 1.0 > found["near_copies_heldout"]
    assert found["ct_p"] < 1e-6
    assert found["authenticity"] == 0.0
    for pair in found["closest"]:
        assert np.array_equal(data.train.data[pair["train"]], data.train.data[rows[pair["sample"]]])


def test_real_heldout_items_in_random_order_are_clean(known):
    data, features = known
    items = data.heldout.data[np.random.default_rng(2).permutation(len(data.heldout))]
    found = audit(items, data.train.data, data.heldout.data, features)
    assert found["verdict"] == "clean"
    assert found["ct"] == pytest.approx(0, abs=0.05)
    assert found["near_copies"] == found["near_copies_heldout"]
    assert found["rows"]["real held-out data"]["near_copies_p"] > 0.01


def test_a_fifth_of_copies_is_enough(known):
    data, features = known
    half, other = np.array_split(np.random.default_rng(3).permutation(len(data.heldout)), 2)
    fresh, heldout = data.heldout.data[half], data.heldout.data[other]
    mixed = np.concatenate([fresh, data.train.data[: len(fresh) // 4]])
    assert audit(mixed, data.train.data, heldout, features)["verdict"] == "copies"
    assert audit(fresh, data.train.data, heldout, features)["verdict"] == "clean"


def test_one_training_item_for_ever_is_copying():
    data = load_data(Config(data=DataConfig(source="builtin:digits")))
    items = np.repeat(data.train.data[7:8], 100, axis=0)
    found = audit(items, data.train.data, data.heldout.data, plain_features())
    assert found["verdict"] == "copies"
    assert {pair["train"] for pair in found["closest"]} == {7}


def test_short_texts_that_coincide_by_chance_are_no_copies():
    """All of 26² two-letter words are equally likely; the data hold each at most once, so no held-out item is a copy,
    yet many samples of the true distribution are: of training and held-out items alike."""
    rng = np.random.default_rng(0)
    words = np.array([a + b + "xyz" for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijklmnopqrstuvwxyz"])
    order = rng.permutation(len(words))
    train, heldout = (packed(words[part].tolist(), 8) for part in (order[:300], order[300:400]))
    samples = packed(words[rng.integers(0, len(words), 400)].tolist(), 8)
    found = audit(samples, train, heldout, plain_features())
    assert found["near_copies"] > 0.3 > found["near_copies_heldout"]
    assert (found["verdict"], found["by_chance"]) == ("clean", True)
    copier = audit(train[rng.integers(0, 300, 400)], train, heldout, plain_features())
    assert (copier["verdict"], copier["by_chance"]) == ("copies", False)


def test_c_t_of_separated_and_of_equal_sets_in_closed_form():
    n, m = 30, 50
    near, far = np.arange(n, dtype=float), 100 + np.arange(m, dtype=float)
    cells = np.zeros(n, int), np.zeros(m, int)
    ct, p = data_copying(near, far, *cells)
    expected = -(n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)
    assert ct == pytest.approx(expected)
    assert p == pytest.approx(stats.norm.cdf(expected))
    assert data_copying(far, far, cells[1], cells[1])[0] == pytest.approx(0)
    two = np.arange(m) % 2
    ct, p = data_copying(near, far, np.arange(n) % 2, two)  # two halves, of weight 1/2 each
    assert p == pytest.approx(stats.norm.cdf(ct / np.sqrt(0.5)))
    ties = data_copying(np.zeros(40), np.zeros(40), np.zeros(40, int), np.zeros(40, int))
    assert ties == (0.0, 0.5)


def test_the_smallest_share_is_where_fishers_test_turns():
    n, m, theirs = 200, 100, 3
    share = smallest_share(n, m, theirs / m)
    count = round(share * n)
    p = [stats.fisher_exact([[k, n - k], [theirs, m - theirs]], alternative="greater")[1] for k in (count - 1, count)]
    assert p[1] < 0.01 <= p[0]


def test_the_neighbours_are_those_of_all_chunks(monkeypatch):
    import torch

    from morphogen.metrics import audit as module

    monkeypatch.setattr(module, "CHUNK", 7)
    rng = np.random.default_rng(0)
    train, rows = rng.normal(size=(50, 3)).astype(np.float32), rng.normal(size=(9, 3)).astype(np.float32)
    near = module.Neighbours(train, lambda items: items, 4)(rows)
    every = torch.cdist(torch.from_numpy(rows), torch.from_numpy(train)).numpy()
    assert np.array_equal(near.nearest, every.argmin(1))
    assert np.allclose(near.distance, every.min(1), atol=1e-5)
    assert np.allclose(near.reach, np.sort(every, 1)[:, 3], atol=1e-5)


def test_errors_are_those_of_repeated_draws():
    rng = np.random.default_rng(0)
    means, ratios = [], []
    for _ in range(2000):
        a = rng.exponential(2.0, 50)
        means.append(mean_and_error(a))
        ratios.append(ratio_and_error(a, a + rng.exponential(1.0, 50)))
    for found in (np.array(means), np.array(ratios)):
        assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.08)
    assert mean_and_error(np.array([True, False, True, True])) == (0.75, pytest.approx(0.25))


class Told:
    """Items as `evaluation.Seen`, without an extractor."""

    classes: np.ndarray

    def __init__(self, features, classes):
        self.features, self.classes = features, classes


def test_the_table_by_class_shows_what_is_missing_and_what_is_off():
    rng = np.random.default_rng(0)
    make = lambda shift, count: rng.normal(size=(count, 4)) + shift
    extractor = type("Of", (), {"classes": ["cat", "dog"]})()
    reference = Told(make(0, 400), np.arange(400) % 2)
    real, ours = Told(make(0, 200), np.arange(200) % 2), Told(make(3, 200), np.zeros(200, int))
    table = by_class(ours, real, reference, extractor, 0)  # type: ignore[arg-type]
    assert table["dog"]["share"] == 0.0
    assert table["dog"]["share_real"] == 0.5
    assert "kid" not in table["dog"]
    assert table["cat"]["kid"] > 10 * abs(table["cat"]["kid_floor"]) + 5 * table["cat"]["kid_error"]


def test_the_failures_are_the_samples_far_from_all_data():
    features = np.zeros((30, 2))
    features[[4, 9]] = [[50, 0], [0, 20]]
    found = farthest(features, np.random.default_rng(0).normal(size=(100, 2)))
    assert [f["sample"] for f in found[:2]] == [4, 9]


def test_evaluating_samples_gives_the_object_of_the_contract(tmp_path, capsys):
    from morphogen.cli import app

    data = load_data(Config(data=DataConfig(source="builtin:digits")))
    rows = np.random.default_rng(0).permutation(len(data.train))[:300]
    np.save(tmp_path / "copies.npy", data.train.data[rows, 0])
    command = ["evaluate", "--samples", str(tmp_path / "copies.npy"), "--data", "builtin:digits", "--json",
               "--galleries", str(tmp_path / "g")]  # fmt: skip
    app(command, standalone_mode=False)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["audit"]["verdict"] == "copies"
    assert found["n"] == 300
    assert found["health"] == []
    assert {"fid", "kid", "precision", "recall", "density", "coverage"} <= found["scores"].keys()
    for score in found["scores"].values():
        assert {"value", "error", "floor"} == score.keys()
        assert score["error"] is not None
    assert {"fid_train", "fid_train_error", "fid_heldout", "fid_heldout_error"} == found["audit"]["gap"].keys()
    assert set(found["by_class"]) == set("0123456789")
    assert {p.name for p in (tmp_path / "g").iterdir()} == {"closest.png", "failures.png"}


def test_two_domains_give_one_object_with_the_worse_audit():
    part = {
        "rows": {"samples": {"kid": 0.5, "kid_error": 0.1}, "real held-out data": {"kid": 0.0}}, "health": [],
        "extractor": "random", "counts": {"samples": 9}, "heard": {"content_kept": 0.9, "content_kept_error": 0.01},
        "cycle": {"cycle": 0.2, "cycle_error": 0.01, "content_kept": 1.0},
    }  # fmt: skip
    there = part | {"audit": {"verdict": "clean", "p": 0.5}, "health": [{"what": "content lost"}]}
    found = summary(there | {"back": part | {"audit": {"verdict": "copies", "p": 0.001}}})
    assert found["scores"]["kid_a_to_b"] == {"value": 0.5, "error": 0.1, "floor": 0.0}
    assert found["scores"]["cycle_b_to_a"] == {"value": 0.2, "error": 0.01, "floor": None}
    assert found["scores"]["heard_content_kept_a_to_b"] == {"value": 0.9, "error": 0.01, "floor": None}
    assert found["scores"]["content_kept_a_to_b"]["value"] == 1.0
    assert found["audit"]["verdict"] == "copies"
    assert found["health"] == [{"what": "content lost", "direction": "a_to_b"}]


def test_texts_stand_in_the_result(tmp_path):
    data = load_data(Config(modality="text", data=DataConfig(source="builtin:words")))
    from morphogen.data.text import unpacked

    (tmp_path / "x.txt").write_text("\n".join(unpacked(data.train.data[:60])) + "\n", encoding="utf-8")
    found = evaluate(samples=str(tmp_path / "x.txt"), data="builtin:words", galleries=tmp_path / "g")
    assert found["audit"]["verdict"] == "copies"
    first = found["audit"]["closest"][0]["texts"]
    assert first[0] == first[1]
    assert found["failures"][0]["text"] in unpacked(data.train.data[:60])
    assert (tmp_path / "g" / "closest.txt").exists()
