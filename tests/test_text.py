"""Text: sources, vocabularies, likelihoods, metrics, and the command line, with answers known beforehand."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_cli import call

from morphogen import load
from morphogen.assessment import data_of
from morphogen.data import open_source, prepare
from morphogen.data.text import packed, unpacked, words
from morphogen.errors import UsageError
from morphogen.families.base import Turn
from morphogen.families.cycle_vae import CycleVAE, CycleVAEOptions
from morphogen.metrics.text import (
    END,
    Copies,
    NgramFeatures,
    NgramModel,
    References,
    TextScores,
    bleu,
    common_words,
    distinct,
    jackknife,
    quality,
    text_classifier,
    words_kept,
)
from morphogen.modalities import Text
from morphogen.modalities.text import text_options
from morphogen.modalities.vocabulary import FIRST, learn, vocabulary_of
from morphogen.nets import initialise
from morphogen.nets.text import GRUDecoder, PlacesDecoder
from morphogen.objectives.categorical import BLANK, Categorical
from morphogen.texts import LanguageFeatures, distances, text_rows

STRANGE = ["床前明月光，疑是地上霜。", "naïve café 🤖👩‍👩‍👧", "tab\tand  two spaces ", "\u0000\u2028", "ﬁ\u0301", "a"]
TINY_NET = ["model.encoder={kind: gru, hidden: 16, embed: 16}", "model.decoder={kind: gru, hidden: 24, embed: 16}"]
TINY = [
    *TINY_NET, "model.latent_dim=4", "train.batch_size=16", "evaluate.samples=64", "evaluate.final_samples=100",
    "evaluate.likelihood_items=20", "evaluate.importance_samples=5", "evaluate.samplers=[]",
    "train.evaluate_every=20",
]  # fmt: skip


def sets(*settings: str) -> list[str]:
    return [part for s in settings for part in ("--set", s)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    nouns, verbs, places = ["cat", "dog", "bird", "child"], ["sits", "sleeps", "plays"], ["here", "at home", "outside"]
    lines = [f"the {n} {v} {p}" for n, v, p in itertools.product(nouns, verbs, places)]
    lines += [f"a {n} {v} {p}" for n, v, p in itertools.product(nouns, verbs, places)]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


# ---- sources ------------------------------------------------------------------------------------------------------


class Items(SimpleNamespace):
    """A stand-in for a data set."""

    def __init__(self, data: np.ndarray):
        super().__init__(data=data)

    def __len__(self) -> int:
        return len(self.data)


def test_bytes_come_back():
    rows = packed(STRANGE, 64)
    assert unpacked(rows) == STRANGE
    assert unpacked(packed(["床前"], 4)) == ["床"]  # cut off at a character's end


def test_bad_lines_are_listed_with_their_number(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffone\r\n\n".encode() + b"tw\xffo\n" + b"y" * 2000 + b"\n" + b"three words here\n" * 40)
    data = prepare(open_source(str(path)))
    reasons = [reason for _, reason in data.skipped]
    assert reasons == [
        "line 2: empty",
        "line 3: not UTF-8 (byte 3)",
        "line 4: 2000 bytes, more than 64; set data.length",
    ]
    assert all(p == str(path) for p, _ in data.skipped)
    assert unpacked(data.data)[0] == "one"
    assert len(data) == 41


def test_check_lists_what_training_leaves_out_with_its_line(tmp_path, capsys):
    path = tmp_path / "x.txt"
    path.write_bytes(b"y" * 65 + b"\n" + b"bad \xff\n" + b"ok\n" * 40)
    call("data", "check", path)
    said = capsys.readouterr().out.splitlines()
    assert f"{path}: line 1: 65 bytes, more than 64; set data.length" in said
    assert f"{path}: line 2: not UTF-8 (byte 5)" in said
    call("data", "check", path, "--length", 65, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["bad_files"] == [[str(path), "line 2: not UTF-8 (byte 5)"]]
    skipped = prepare(open_source(str(path)), strict=False).skipped
    assert [reason.partition(":")[0] for _, reason in skipped] == ["line 1", "line 2"]
    call("data", "check", path, "--split", "verse", code=2)


def test_a_bad_byte_leaves_its_window_out(tmp_path, capsys):
    path = tmp_path / "x.txt"
    path.write_bytes(("é" * 128).encode() + b"a\xffb" + b"c" * 125 + b"d" * 128)
    source = open_source(str(path), split="window")
    assert source.bad == {1: "window 2: not UTF-8 (byte 2)"}
    assert unpacked(prepare(source, strict=False, length=256).data) == ["é" * 128, "d" * 128]
    call("data", "check", path, "--split", "window")
    assert f"{path}: window 2: not UTF-8 (byte 2)" in capsys.readouterr().out


def test_half_a_pair_of_json_is_a_bad_row(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "\\ud800"}\n{"text": "fine"}\n')
    assert list(open_source(str(tmp_path / "t.jsonl")).bad) == [0]


def test_text_is_selected_by_its_words(corpus, tmp_path):
    assert {len(bytes(item).split()) for item in open_source(f"{corpus}#words=5-9").block(0, 12)} == {5}
    (tmp_path / "t.csv").write_text("text,words\na b,x\nc,y\n")
    assert len(open_source(f"{tmp_path / 't.csv'}#words=y")) == 1  # a column of that name comes first
    with pytest.raises(UsageError, match="words"):
        open_source(f"{corpus}#words=50")


def test_check_tells_how_long_texts_are(tmp_path, capsys):
    (tmp_path / "x.txt").write_text("ab\nabcd\n\n")
    call("data", "check", tmp_path / "x.txt", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["sizes"] == {"bytes": {"min": 2, "median": 3.0, "max": 4}}
    assert found["bad_files"] == [[str(tmp_path / "x.txt"), "line 3: empty"]]


def test_dry_run_says_that_a_codec_comes_first(corpus, capsys):
    call("train", "gan-text", "--data", corpus, "--dry-run")
    assert "trained first" in capsys.readouterr().out


def test_empty_lines_do_not_make_a_text_unreadable(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a line\n\n" * 40)
    assert len(prepare(open_source(str(path)))) == 40


def test_paragraphs_and_windows(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a\nb\n\n\nc\n" + "d" * 300)
    assert unpacked(prepare(open_source(str(path), split="paragraph"), strict=False).data)[0] == "a\nb"
    windows = unpacked(prepare(open_source(str(path), split="window"), strict=False).data)
    assert "".join(windows) == path.read_text()


def test_folder_and_tables(tmp_path):
    for label in ("x", "y"):
        (tmp_path / "f" / label).mkdir(parents=True)
        (tmp_path / "f" / label / "1.txt").write_text(f"{label} one\n{label} two\n")
    source = open_source(str(tmp_path / "f"))
    assert source.labels["label"] == ["x", "x", "y", "y"]
    assert source.names[1] == "x/1-000001.txt"
    (tmp_path / "t.csv").write_text('n,caption\n1,"a, b"\n2,c\n')
    source = open_source(f"{tmp_path / 't.csv'}#column=caption,n=2")
    assert [bytes(source.load(i)) for i in range(len(source))] == [b"c"]
    (tmp_path / "t.jsonl").write_text('{"caption": "é", "n": 1}\n{"caption": "z"}\n')
    source = open_source(f"{tmp_path / 't.jsonl'}#column=caption")
    assert bytes(source.load(0)).decode() == "é"
    with pytest.raises(UsageError, match="has the columns n, caption"):
        open_source(str(tmp_path / "t.csv"))


def test_builtin_words_are_the_same_every_time():
    first = words()
    assert first == words()
    assert len(first) > 800
    assert open_source("builtin:words").space == "text"


# ---- vocabularies and the modality --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["character", "word", "bpe"])
def test_any_text_comes_back_through_every_vocabulary(kind):
    vocabulary = learn(["a cat sat on a mat", "a dog sat"] * 20, kind)
    again = vocabulary_of(json.loads(json.dumps(vocabulary.state())))
    for text in [*STRANGE, "a cat", " a  cat "]:
        assert vocabulary.decode(vocabulary.encode(text)) == text
        assert again.encode(text) == vocabulary.encode(text)
        assert all(FIRST <= number < len(vocabulary) for number in vocabulary.encode(text))


def test_special_tokens_never_leak():
    options = text_options(["abc", "cab"], [])
    text = Text((8,), **options)
    assert list(text.array(text.decode(torch.tensor([[18, 1, 19, 19], [0, 18, 18, 18]])))) == ["a", ""]


def test_relaxed_text_is_one_hot_and_comes_back():
    options = text_options(["abc", "cab", "a"], [])
    text = Text((3,), **options, relaxed=True)
    raw = packed(["abc", "a", ""], 3)
    x = text.encode(torch.from_numpy(text.stored(raw)))
    assert x.shape == (3, *text.space)
    assert torch.equal(x.sum(1), torch.ones(3, text.space[1]))
    assert (text.decode(x) == raw).all()


def test_vocabulary_follows_the_size():
    assert learn(["emma", "ava"] * 50).kind == "character"
    assert learn(["a long sentence of many words, said again and again"] * 8000).kind == "bpe"


# ---- likelihood ---------------------------------------------------------------------------------------------------


def test_the_likelihood_of_all_texts_sums_to_one():
    symbols, places = 4, 3  # blank, end, two letters; so items of 0, 1 or 2 letters
    decoder = GRUDecoder((symbols, places), 2, hidden=8, embed=4).eval()
    initialise(decoder, 0)
    letters = [(), *itertools.product((2, 3)), *itertools.product((2, 3), repeat=2)]
    items = torch.tensor([[*t, 1, 0, 0][:places] for t in letters])
    p = decoder.likelihood(decoder(torch.randn(1, 2).expand(len(items), -1)))
    assert p.log_prob(items).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_samples_have_the_likelihood_that_is_said_and_greedy_is_the_limit():
    decoder = GRUDecoder((5, 4), 2, hidden=8, embed=4).eval()
    initialise(decoder, 1)
    p = decoder.likelihood(decoder(torch.randn(1, 2, generator=torch.manual_seed(3)).expand(4000, -1)))
    drawn = p.sample(torch.rand(4000, 4, generator=torch.manual_seed(4)))
    first = torch.bincount(drawn[:, 0], minlength=5) / 4000
    logits, _ = decoder.step(p.context[:1], torch.zeros(1, dtype=torch.long), None)
    wanted = logits[0, 1:].softmax(0)
    assert first[0] == 0
    assert (first[1:] - wanted).abs().max() < 0.03
    cold = p.sample(torch.rand(4000, 4), temperature=1e-4)
    assert torch.equal(cold, p.mode())
    assert torch.equal(p.sample(torch.rand(4000, 4), top_p=1e-6), p.mode())


# ---- metrics ------------------------------------------------------------------------------------------------------


def test_bleu_of_a_copy_is_one_and_of_strangers_nothing():
    items = [tuple(["the", "cat", "sat", "on", "the", "mat"]), tuple(["a", "dog", "barks", "at", "the", "moon"])]
    references = References(items, 4)
    assert bleu(items[0], references) == [1.0, 1.0, 1.0]
    assert bleu(tuple(["x", "y", "z"]), references) == [0.0, 0.0, 0.0]
    assert bleu((), references) == [0.0, 0.0, 0.0]


def test_bleu_by_hand():
    references = References([tuple(["a", "b", "c", "d", "e"])], 4)
    got = bleu(tuple(["a", "b", "c", "x"]), references, orders=(2, 3, 4))
    p = [3 / 4, 2 / 3, 1 / 2, 0.1 / 1]  # clipped hits over n-grams; no 4-gram hits: 0.1
    brevity = math.exp(1 - 5 / 4)
    wanted = [brevity * math.prod(p[:n]) ** (1 / n) for n in (2, 3, 4)]
    assert got == pytest.approx(wanted)
    assert bleu(tuple(["a", "a", "a"]), references, orders=(1,)) == pytest.approx([1 / 3 * math.exp(1 - 5 / 3)])


def test_self_bleu_leaves_only_the_item_itself_out():
    twins = [tuple(["a", "b", "c", "d"])] * 2
    assert quality(twins, References(twins, 4))["self_bleu4"] == 1.0
    apart = [tuple(["a", "b", "c", "d"]), tuple(["e", "f", "g", "h"])]
    assert quality(apart, References(apart, 4))["self_bleu4"] == 0.0
    naive = [tuple(["a", "b", "c"]), tuple(["a", "b", "d"]), tuple(["c", "a", "b"])]
    fast = References(naive, 4)
    for k, item in enumerate(naive):
        slow = References([other for j, other in enumerate(naive) if j != k], 4)
        assert bleu(item, fast, number=k) == pytest.approx(bleu(item, slow))


def test_distinct_and_copies():
    assert distinct([("a", "a"), ("a", "b")], 1) == 0.5
    assert distinct([("a", "a"), ("a", "b")], 2) == 1.0
    train = [tuple(["a", "b", "c", "d", "e", "f", "g", "h", "i"])]
    found = Copies(train)([train[0], tuple(["x", "b", "c", "d", "e", "f", "g", "h", "i"])])
    assert found == {"copied": 0.5, "copied_error": 0.5, "copied_8grams": 3 / 4, "copied_8grams_error": 0.25}


def test_a_jackknifed_mean_has_the_error_of_the_mean():
    """With as many items as folds, leaving out one in turn gives the standard error of a mean exactly."""
    items = [("a",) * n for n in (1, 2, 4, 7, 11)]
    error = jackknife(lambda some: float(np.mean([len(item) for item in some])), items)
    assert error == pytest.approx(np.std([1, 2, 4, 7, 11], ddof=1) / 5**0.5)


def test_ngrams_by_hand():
    """p(a) = (2 + 2/4) / (3 + 2), p(b|a) = (1 + 2 p(b)) / (2 + 2), over a, b, the end and one more unit."""
    model = NgramModel([("a", "a")], 2, 4)
    p = {"a": (2 + 2 / 4) / 5, "b": (2 / 4) / 5}
    assert model.probability("b", ()) == pytest.approx(p["b"])
    assert model.probability("b", ("a",)) == pytest.approx((0 + 2 * p["b"]) / 4)
    assert model.probability("a", ("never seen",)) == pytest.approx(p["a"])
    every = sum(model.probability(unit, ("a",)) for unit in ("a", "b", END, "c"))
    assert every == pytest.approx(1)
    assert NgramModel([], 3, 8).perplexity([("a", "b")]) == pytest.approx(8)  # it knows nothing


def test_reverse_perplexity_wants_samples_that_are_good_and_diverse():
    train = [f"the {n} {v} {p}" for n in "abcde" for v in "fghij" for p in "klmno"]
    heldout = packed(train[::5], 16)
    scores = TextScores(packed([t for k, t in enumerate(train) if k % 5], 16), heldout)
    good = [t for k, t in enumerate(train) if k % 5][:50]
    found = {"good": good, "one": good[:1] * 50, "strange": ["x y z w"] * 50}
    found = {name: scores(packed(items, 16))["reverse_perplexity"] for name, items in found.items()}
    assert found["good"] < found["one"] < found["strange"]


def test_the_floor_is_of_items_that_are_not_their_own_references():
    train, heldout = [f"one two three {k}" for k in range(20)], [f"four five six {k}" for k in range(20)]
    data = SimpleNamespace(train=Items(packed(train, 32)), heldout=Items(packed(heldout, 32)))
    rows = text_rows(packed(train, 32), data, 20, 0)
    assert rows["samples"]["copied"] == 1
    assert rows["real held-out data"]["copied"] == 0
    assert rows["real held-out data"]["bleu4"] < 0.2


def test_words_that_are_kept():
    common = {"the", "a"}
    assert words_kept(["the red cat", "a dog", "the"], ["red bird", "dog dog", "x"], common) == (1 / 2 + 1) / 2
    assert common_words(["a b", "a c", "a b"], 2) == {"a", "b"}
    short = [f"{n} {v}" for n in ("cat", "dog", "bird") for v in ("sits", "sleeps", "plays")]
    texts = [*short, *(f"{t} at home {k}" for k, t in enumerate(short))]
    tell = text_classifier(texts, np.repeat(["short", "long"], 9))
    assert list(tell(["a cat sleeps", "a bird plays at home"])) == ["short", "long"]


def test_ngram_features_tell_languages_apart():
    english, caps = packed(["the cat"] * 3, 12), packed(["EHT TAC"] * 3, 12)
    features = NgramFeatures().features(np.concatenate([english, caps]))
    assert np.allclose(features[0], features[1])
    assert np.abs(features[0] - features[3]).max() > 0.5
    wide = packed(["the cat"], 30)
    assert np.allclose(NgramFeatures().features(wide)[0], features[0], atol=1e-5)  # the width does not matter


def test_names_are_scored_by_characters_and_sentences_by_words():
    names, sentences = packed(["emma", "ava"], 8), packed(["the cat sat on it", "a dog is here now"], 32)
    assert TextScores(names, names).single
    assert not TextScores(sentences, sentences).single


# ---- from the command line ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae(corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("text") / "vae"
    call("train", "vae-text", "--data", corpus, "--steps", 40, "--out", out, *sets(*TINY))
    return out


def test_evaluation_has_the_language_model_and_its_curve(vae):
    result = json.loads((vae / "evaluation.json").read_text())
    found, plain = result["likelihood"], result["language_model"]
    assert found["perplexity_token"] == pytest.approx(math.exp(found["nll_per_token"]))
    assert found["nll_per_character"] <= found["nll_per_token"]
    assert plain["kl"] == 0
    assert plain["iw_nll"] == pytest.approx(plain["reconstruction"], abs=1e-4)  # without z the bound is the likelihood
    assert [row["temperature"] for row in result["maximum_likelihood"]] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert {"bleu4", "self_bleu4", "copied"} <= result["text"]["samples"].keys()
    assert (vae / "curve.png").exists()
    for row in ("samples", "real held-out data"):
        names = {"language_fid", "language_fid_error", "language_kid", "language_kid_error"}
        assert names <= result["text"][row].keys()


def test_language_features_are_the_mean_state_before_each_token_whatever_stands_beside(vae):
    model = load(vae / "language_model")
    extractor, decoder = LanguageFeatures(model), model.family.decoder
    items = model.modality.raw(np.array(["the cat", "a dog is here now and there", "the cat"]))
    found = extractor.features(items)
    assert np.allclose(found[0], extractor.features(items[:1])[0], atol=1e-6)
    assert np.allclose(found[0], found[2], atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    tokens = [t for t in model.modality.stored(items[:1])[0].tolist() if t != BLANK]
    with torch.no_grad():
        context, state, states = decoder(torch.zeros(1, 1)), None, []
        for token in [BLANK, *tokens[:-1]]:
            _, state = decoder.step(context, torch.tensor([token]), state)
            states.append(state[-1, 0])
    assert np.allclose(found[0], torch.stack(states).mean(0).numpy(), atol=1e-5)


def test_distances_in_language_features_tell_text_from_noise_and_find_none_to_the_items_themselves(vae):
    model = load(vae / "language_model")
    data = data_of(model)
    noise = packed(["zq" * 5 + "x" * (k % 3) for k in range(64)], data.train.data.shape[1])
    found = distances(model, noise, data, 64, 0)
    assert found["samples"]["language_fid"] > 5 * found["real held-out data"]["language_fid"]
    assert found["samples"]["language_kid"] > 5 * abs(found["real held-out data"]["language_kid"])
    same = distances(model, data.heldout.data, data, len(data.heldout), 0)["samples"]
    assert same["language_fid"] == pytest.approx(0, abs=1e-6)


def test_samples_are_lines_and_a_function_of_the_seed(vae, tmp_path):
    call("sample", vae, "-n", 30, "--out", tmp_path / "a.txt")
    call("sample", vae, "-n", 12, "--out", tmp_path / "b.txt")
    a, b = ((tmp_path / f"{k}.txt").read_text().splitlines() for k in "ab")
    assert len(a) == 30
    assert a[:12] == b
    call("sample", vae, "-n", 30, "--out", tmp_path / "c.txt", "--temperature", 0.01)
    assert (tmp_path / "c.txt").read_text().splitlines() != a
    call("sample", vae, "-n", 3, "--out", tmp_path / "x.png", code=2)


def test_lines_keep_their_order_and_bad_ones_stay_empty(vae, tmp_path):
    (tmp_path / "in.txt").write_bytes(b"the cat sits here\n\nbad \xff line\na dog plays outside\n")
    call("reconstruct", vae, tmp_path / "in.txt", "--out", tmp_path / "out.txt")
    lines = (tmp_path / "out.txt").read_text().split("\n")
    assert len(lines) == 5
    assert lines[1] == lines[2] == lines[4] == ""
    call("score", vae, tmp_path / "in.txt", "--out", tmp_path / "s.csv")
    rows = (tmp_path / "s.csv").read_text().splitlines()
    assert len(rows) == 5
    assert rows[2].endswith(",")
    call("encode", vae, tmp_path / "in.txt", "--out", tmp_path / "z.npy", code=1)  # row i must be item i
    (tmp_path / "good.txt").write_text("the cat sits here\n")
    call("encode", vae, tmp_path / "good.txt", "--out", tmp_path / "z.npy")
    assert np.load(tmp_path / "z.npy").shape == (1, 4)
    call("interpolate", vae, "--from", "a cat", "--to", "the dog", "--frames", 7, "--out", tmp_path / "i.txt")
    assert len((tmp_path / "i.txt").read_text().split("\n")) == 8


def test_a_run_is_evaluated_again_with_the_same_data(vae, capsys):
    call("evaluate", vae, "-n", 60, "--items", 20, "--importance-samples", 5, "--json")
    result = json.loads(capsys.readouterr().out)
    stored = json.loads((vae / "evaluation.json").read_text())
    assert result["likelihood"]["iw_nll"] == pytest.approx(stored["likelihood"]["iw_nll"])


def test_one_command_makes_the_codec_and_the_gan(corpus, tmp_path):
    codec = "codec_settings={train: {steps: 20, evaluate_every: 20, batch_size: 16}, evaluate: {samples: 64, "
    codec += "final_samples: 64, likelihood_items: 20, importance_samples: 2, samplers: [], language_model: false}, "
    codec += "model: {latent_dim: 4, encoder: {kind: gru, hidden: 16}, decoder: {kind: gru, hidden: 16}}}"
    small = ["evaluate.samples=64", "evaluate.final_samples=64", "train.batch_size=16", "train.evaluate_every=20"]
    command = ["train", "gan-text", "--data", corpus, "--steps", 20, "--out", tmp_path / "g", *sets(codec, *small)]
    call(*command)
    assert (tmp_path / "g" / "codec" / "model" / "weights.safetensors").exists()
    assert (tmp_path / "g" / "model" / "codec" / "weights.safetensors").exists()
    before = load(tmp_path / "g").sample(5)
    assert before.dtype.kind == "U"
    call(*command)  # going on where nothing is left to do
    assert list(load(tmp_path / "g").sample(5)) == list(before)


def test_killed_and_resumed_is_never_killed(corpus, tmp_path):
    more = sets(*TINY, "evaluate.language_model=false", "train.checkpoint_every=10", "train.schedule=constant",
                "train.ema=0")  # fmt: skip
    for out, stages in (("whole", [20]), ("halves", [10, 20])):
        for steps in stages:
            call("train", "vae-text", "--data", corpus, "--steps", steps, "--out", tmp_path / out, *more)
    states = [tmp_path / out / "checkpoints" / "step-00000020" / "state.safetensors" for out in ("whole", "halves")]
    assert states[0].read_bytes() == states[1].read_bytes()


# ---- two domains --------------------------------------------------------------------------------------------------

TWO = [
    "evaluate.samples=32", "evaluate.final_samples=64", "train.evaluate_every=5", "evaluate.samplers=[]",
    "evaluate.likelihood_items=20", "evaluate.importance_samples=2", "train.batch_size=8",
]  # fmt: skip


def test_squash_samples_while_learning_and_gives_probabilities_after():
    text = Text((3,), **text_options(["abc", "cab", "a"], []), relaxed=True)
    logits = torch.randn(5, *text.space, generator=torch.manual_seed(0))
    torch.manual_seed(0)
    assert torch.equal(text.squash(logits), logits.softmax(1))
    learning = logits.clone().requires_grad_()
    hard = text.squash(learning)
    assert torch.allclose(hard.max(1).values, torch.ones(5, text.space[1]), atol=1e-6)
    assert torch.allclose(hard.sum(1), torch.ones(5, text.space[1]), atol=1e-5)
    (hard * torch.randn_like(hard)).sum().backward()
    assert learning.grad is not None
    assert learning.grad.abs().sum() > 0
    sure = (100 * torch.nn.functional.one_hot(torch.tensor([[2, 3]]), 5).transpose(1, 2).float()).requires_grad_()
    assert torch.equal(text.squash(sure).argmax(1), torch.tensor([[2, 3]]))


def test_the_categorical_likelihood_is_that_of_each_place():
    logits = torch.randn(2, 5, 3, generator=torch.manual_seed(0))
    x = torch.nn.functional.one_hot(torch.tensor([[0, 1, 4], [2, 2, 2]]), 5).transpose(1, 2).float()
    p = Categorical(logits, lambda t: t, torch.ones(()))
    wanted = sum(logits[0].log_softmax(0)[k, t] for t, k in enumerate([0, 1, 4]))
    assert p.log_prob(x)[0] == pytest.approx(float(wanted), rel=1e-5)
    assert torch.allclose(p.mode().sum(1), torch.ones(2, 3))


@pytest.fixture(scope="module")
def shouted(corpus, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "shouted.txt"
    path.write_text(corpus.read_text().upper())
    return path


@pytest.mark.parametrize("recipe", ["cyclegan-text", "cyclevae-text"])
def test_translations_keep_the_order_of_lines(recipe, corpus, shouted, tmp_path):
    small = [*TWO, "model.latent_dim=60"] if recipe == "cyclevae-text" else TWO
    call("train", recipe, "--data", corpus, "--data-b", shouted, "--steps", 5, "--out", tmp_path / "r", *sets(*small))
    (tmp_path / "in.txt").write_bytes(b"the cat sits here\n\na dog plays outside\n")
    call("translate", tmp_path / "r", tmp_path / "in.txt", "--to", "b", "--out", tmp_path / "out.txt")
    lines = (tmp_path / "out.txt").read_text().split("\n")
    assert len(lines) == 4
    assert lines[1] == ""
    result = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    if recipe == "cyclegan-text":
        assert result["cycle"]["copy"] + result["back"]["cycle"]["copy"] < 1
        assert 0 <= result["cycle"]["cycle_quantised"] <= 1
        for rows in (result["text"], result["back"]["text"]):  # of each translation against its own target
            assert {"bleu4", "reverse_perplexity"} <= rows["samples"].keys()
        assert any("BLEU is against" in note for note in result["notes"])


def test_sentences_are_rewritten_between_labels(corpus, tmp_path):
    lines = corpus.read_text().splitlines()
    table = tmp_path / "t.csv"
    rows = [f"{t},{'loud' if k % 2 else 'low'}\n" for k, t in enumerate(lines) for t in [t.upper() if k % 2 else t]]
    table.write_text("caption,voice\n" + "".join(rows))
    small = [*TWO, *TINY_NET, "model.latent_dim=4", "data.label=voice", "data.vocabulary=character"]
    call("train", "cyclevae-sentences", "--data", f"{table}#column=caption", "--steps", 5, "--out", tmp_path / "r",
         *sets(*small))  # fmt: skip
    found = json.loads((tmp_path / "r" / "evaluation.json").read_text())["conversions"]
    assert {"domain_right", "before", "real_right", "words_kept", "words_chance", "words_back"} <= found.keys()
    assert all(0 <= found[name] <= 1 for name in ("domain_right", "words_kept", "back"))
    (tmp_path / "in.txt").write_text("the cat sits here\n")
    call("translate", tmp_path / "r", tmp_path / "in.txt", "--to", "loud", "--out", tmp_path / "out.txt")
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 1
    call("train", "cyclevae-sentences", "--data", f"{table}#column=caption", "--steps", 5, "--out", tmp_path / "x",
         *sets(*small, "terms.critic.weight=1"), code=2)  # fmt: skip


def test_places_keep_their_places():
    """A code's variables of one place make that place's symbol, and no other."""
    decoder = PlacesDecoder((5, 4), 12, hidden=8).eval()
    initialise(decoder, 0)
    z = torch.randn(1, 12, generator=torch.manual_seed(0))
    other = z.clone().view(1, 3, 4)
    other[:, :, 2] += 1
    changed = (decoder(z) != decoder(other.view(1, 12))).any(1)[0]
    assert changed.tolist() == [False, False, True, False]


def between_texts() -> tuple[CycleVAE, Text]:
    """A cycle VAE between two domains of eight places, as it begins."""
    text = Text((8,), **text_options(["abcdefgh", "hgfedcba"], []), relaxed=True)
    places = {"kind": "places"}
    options = CycleVAEOptions(
        latent_dim=36, likelihood="categorical", encoder=places, decoder=places, critic=places, probe={"hidden": [8]}
    )
    family = CycleVAE(text, options, 2)
    for name, module in family.named_children():
        initialise(module, 0, name)
    return family, text


def relaxed(text: Text, *items: str) -> torch.Tensor:
    return text.encode(torch.from_numpy(text.stored(text.raw(np.array(items)))))


def test_what_a_symbol_means_depends_on_the_company_it_keeps():
    """The encoder sees no domain: the code of one place tells what stands at others, far from the kernel."""
    family, text = between_texts()
    x = relaxed(text, "aaaaabbb", "aaaaaccc", "cbcbcbca", "hfhfhgge").float()
    code = family.encode(x, None, 0).view(4, -1, text.length)
    assert (code[0, :, 0] - code[1, :, 0]).norm() > 0.1 * code[0, :, 0].norm()


def test_a_conversion_does_not_begin_as_a_copy():
    """Each domain reads the code in its own way before anything is learned: else to copy is what is learned first."""
    family, _ = between_texts()
    z = torch.randn(64, 36, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = torch.stack([family.decoder(z, torch.full((64,), k)) for k in range(2)])
    said = (logits - logits.mean(1, keepdim=True)).flatten(1)  # what the code makes of it, without the biases
    assert abs(float(torch.corrcoef(said)[0, 1])) < 0.5


def test_text_does_not_learn_from_the_way_back_how_it_should_be_drawn():
    """All items are of domain 0, so domain 1 only decodes what is encoded again: the cycle leaves its code alone, and
    the critic moves it."""
    for term, moved in (("cycle", False), ("adversarial", True)):
        family, text = between_texts()
        turn = Turn("autoencoder", 0, 0, {term: 1.0}, 0, {})
        batch = {"a": relaxed(text, *["abcdefgh", "hgfedcba"] * 4).float(), "label": torch.zeros(8, dtype=torch.long)}
        family.losses(turn, batch)[term].mean().backward()
        grad = family.decoder.noise.embedding.weight.grad[1]
        assert bool(grad.abs().max() > 0) == moved, term
