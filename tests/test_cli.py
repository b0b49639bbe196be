"""The command line, as a person types it: outputs, orders, exit codes, and one sentence for every mistake."""

from __future__ import annotations

import ast
import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, TINY_OF
from PIL import Image

from morphogen import cli, load, open_source
from morphogen.model import along

SOURCE = Path(cli.__file__).parent


def call(*arguments: object, code: int = 0) -> None:
    """Run the command line in this process; it must end with `code`."""
    old, sys.argv = sys.argv, ["morphogen", *map(str, arguments)]
    try:
        cli.main()
        ended = 0
    except SystemExit as stop:
        ended = int(stop.code or 0)
    finally:
        sys.argv = old
    assert ended == code


def sets(*more: str) -> list[str]:
    return [part for s in (*TINY, *more) for part in ("--set", s)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    call("train", "gan-image", "--data", "builtin:digits", "--steps", 30, "--out", out, *sets("data.label=label"))
    return out


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "vae"
    call("train", "vae-image", "--data", "builtin:digits", "--steps", 60, "--out", out,
         *[part for s in TINY_OF["vae-image"] for part in ("--set", s)])  # fmt: skip
    return out


@pytest.fixture
def photos(tmp_path) -> Path:
    """48 colour pictures in two sub-folders and one broken file."""
    rng = np.random.default_rng(0)
    for i in range(48):
        folder = tmp_path / "photos" / ("cats" if i % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20 + i % 5, 18, 3), np.uint8)).save(folder / f"{i:02d}.jpg")
    (tmp_path / "photos" / "cats" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot much")
    return tmp_path / "photos"


def test_help_is_quick_and_imports_no_torch():
    code = """import sys, morphogen.cli
sys.argv = ['morphogen', '--help']
try: morphogen.cli.main()
except SystemExit: print('torch' in sys.modules)"""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("False")
    assert "train" in done.stdout
    assert time.perf_counter() - begin < 5  # the target is 0.5 s; `make bench` measures it


def test_sample_to_npy_is_by_seed_and_overwrites(trained, tmp_path):
    for n in (12, 7):
        call("sample", trained, "-n", n, "--seed", 3, "--label", "all", "--out", tmp_path / "x.npy")
        items = np.load(tmp_path / "x.npy")
        assert items.shape == (n, 8, 8)
        assert items.dtype == np.uint8
    call("sample", trained / "model", "-n", 12, "--seed", 3, "--label", "all", "--out", tmp_path / "y.npy")
    assert (np.load(tmp_path / "y.npy")[:7] == items).all()


def test_sample_to_a_folder(trained, tmp_path):
    call("sample", trained, "-n", 5, "--out", tmp_path / "s")
    call("sample", trained, "-n", 3, "--out", tmp_path / "s")
    files = sorted((tmp_path / "s").iterdir())
    assert [f.name for f in files] == ["000000.png", "000001.png", "000002.png"]
    assert Image.open(files[0]).size == (8, 8)


def test_labels_cycle_sorted(trained, tmp_path):
    call("sample", trained, "-n", 12, "--label", "all", "--out", tmp_path / "all.npy")
    call("sample", trained, "-n", 12, "--label", "1", "--out", tmp_path / "one.npy")
    cycle, ones = np.load(tmp_path / "all.npy"), np.load(tmp_path / "one.npy")
    assert [bool((cycle[i] == ones[i]).all()) for i in (1, 11)] == [True, True]
    assert (cycle[2] != ones[2]).any()


def test_encode_reconstruct_interpolate_and_score(trained, tmp_path):
    from sklearn.datasets import load_digits

    x = (load_digits().images[:6] * 15.9).astype(np.uint8)
    np.savez(tmp_path / "x.npz", images=x, labels=load_digits().target[:6])
    source = tmp_path / "x.npz"
    call("encode", trained, source, "--out", tmp_path / "z.npz")
    with np.load(tmp_path / "z.npz") as codes:
        assert codes["codes"].shape == (6, 8)
        assert list(codes["names"]) == [f"{i:06d}" for i in range(6)]
    call("reconstruct", trained, source, "--out", tmp_path / "r.npy")
    again = np.load(tmp_path / "r.npy")
    assert again.shape == x.shape
    from morphogen.model import load

    random = load(trained).sample(6, label=[str(t) for t in load_digits().target[:6]])
    assert np.abs(again.astype(float) - x).mean() < np.abs(random.astype(float) - x).mean()
    call("interpolate", trained, "--out", tmp_path / "walk.gif", "--frames", 10)
    assert Image.open(tmp_path / "walk.gif").n_frames == 10
    call("score", trained, source, "--out", tmp_path / "s.csv", "--sort")
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    values = [float(r["score"]) for r in rows]
    assert values == sorted(values)
    assert {r["name"] for r in rows} == {f"{i:06d}" for i in range(6)}
    assert all(0 <= v <= 1 for v in values)


def test_a_vae_from_training_to_every_use(vae, tmp_path, capsys):
    found = json.loads((vae / "evaluation.json").read_text())
    assert set(found["priors"]) == {"trained", "gmm"}
    likelihood = found["likelihood"]
    assert likelihood["nelbo"] == pytest.approx(likelihood["reconstruction"] + likelihood["kl"])
    assert likelihood["iw_nll"] <= likelihood["nelbo"] + 3 * likelihood["iw_nll_error"]
    assert likelihood["samples"] == 5
    assert "bits_per_dim" not in likelihood  # a density has none
    call("encode", vae, "builtin:digits#test", "--out", tmp_path / "means.npy")
    call("encode", vae, "builtin:digits#test", "--out", tmp_path / "draws.npz", "--sampled", "--seed", 4)
    means, draws = np.load(tmp_path / "means.npy"), np.load(tmp_path / "draws.npz")["codes"]
    assert means.shape == draws.shape
    assert (means != draws).any()
    call("reconstruct", vae, "builtin:digits#test", "--out", tmp_path / "plain.npy")
    call("reconstruct", vae, "builtin:digits#test", "--out", tmp_path / "moved.npy", "--attribute", "3=2.0")
    call("reconstruct", vae, "builtin:digits#test", "--out", tmp_path / "still.npy", "--attribute", "3=0")
    plain, moved, still = (np.load(tmp_path / f"{n}.npy") for n in ("plain", "moved", "still"))
    assert (plain == still).all()
    assert (plain != moved).any()
    model = load(vae)
    vector = np.asarray(model.description.attributes["3"])
    assert np.allclose(model.moved(means, {"3": 2.0}) - means, 2 * vector, atol=1e-5)
    call("interpolate", vae, "--out", tmp_path / "round", "--frames", 8, "--linear")
    assert len(list((tmp_path / "round").iterdir())) == 8
    call("interpolate", vae, "--out", tmp_path / "sheet.png", "--frames", 20)
    assert Image.open(tmp_path / "sheet.png").size == (10 * 56, 2 * 56)  # 8x8 items, seven times enlarged
    call("score", vae, "builtin:digits#test", "--out", tmp_path / "scores.csv", "--sort")
    scores = [float(line.split(",")[1]) for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]]
    assert scores == sorted(scores)
    call("evaluate", vae, "--json", "--items", 30, "--importance-samples", 7, "-n", 64)
    assert json.loads(capsys.readouterr().out)["likelihood"]["samples"] == 7


def test_straight_and_round_ways_between_codes():
    a, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    straight, round_ = (along(np.stack([a, b]), 3, closed=False, linear=flag) for flag in (True, False))
    assert np.allclose(straight[1], [0.5, 0.5])
    assert np.allclose(round_[1], [0.5**0.5, 0.5**0.5])


def test_a_gan_in_the_latent_space_of_a_vae(vae, tmp_path, capsys):
    out = tmp_path / "run"
    settings = ["codec=" + str(vae), *[s for s in TINY if "model." not in s], "model.latent_dim=8"]
    call("train", "gan-codes", "--data", "builtin:digits", "--steps", 30, "--out", out,
         *[part for s in settings for part in ("--set", s)])  # fmt: skip
    call("sample", out, "-n", 5, "--out", tmp_path / "s.npy")
    assert np.load(tmp_path / "s.npy").shape == (5, 8, 8)
    model, codec = load(out), load(out / "model" / "codec")  # the finished model holds its codec
    assert model.modality.space == (codec.family.latent_dim,)
    items = open_source("builtin:digits#test").array()[:4, :, :, 0]
    standardised = model.tensor(items).numpy() * model.modality.std.numpy() + model.modality.mean.numpy()
    assert np.allclose(standardised, codec.encode(items), atol=1e-4)
    capsys.readouterr()
    call("evaluate", out, "--json", "-n", 64)
    assert "samples" in json.loads(capsys.readouterr().out)["rows"]
    call("train", "gan-codes", "--data", "builtin:digits", "--set", f"codec={vae}", "--dry-run")
    facts = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(facts | {"codec": "another"}))
    call("train", "gan-codes", "--data", "builtin:digits", "--steps", 40, "--out", out,
         *[part for s in settings for part in ("--set", s)], code=1)  # fmt: skip
    assert "have changed" in capsys.readouterr().err
    call("train", "gan-codes", "--data", "builtin:digits", "--set", f"codec={out}", "--out", tmp_path / "no", code=2)
    assert "must be a VAE" in capsys.readouterr().err


def test_bernoulli_on_grey_levels_claims_no_likelihood(tmp_path):
    out = tmp_path / "run"
    settings = [*TINY_OF["vae-image"], "model.likelihood=bernoulli", "evaluate.samplers=[]"]
    call("train", "vae-image", "--data", "builtin:digits", "--steps", 10, "--out", out,
         *[part for s in settings for part in ("--set", s)])  # fmt: skip
    found = json.loads((out / "evaluation.json").read_text())["likelihood"]
    assert "iw_nll" not in found
    assert "no probability" in found["note"]


def test_init_keeps_what_the_other_model_learned_of_its_pseudo_items(vae, tmp_path):
    settings = [part for s in TINY_OF["vae-image"] for part in ("--set", s)]
    call("train", "vae-image", "--data", "builtin:digits", "--steps", 1, "--out", tmp_path / "run", "--init", vae,
         *settings)  # fmt: skip
    one, two = (load(path).family.state_dict()["prior.items"] for path in (vae, tmp_path / "run"))
    assert (one - two).abs().max() < 0.01  # one step of Adam at 1e-3


def test_an_autoencoder_is_a_vae_without_the_random_part(tmp_path):
    out = tmp_path / "run"
    settings = [*TINY_OF["vae-image"], "model.posterior=point", "model.prior={kind: normal}", "terms.kl.weight=0"]
    call("train", "vae-image", "--data", "builtin:digits", "--steps", 40, "--out", out,
         *[part for s in settings for part in ("--set", s)])  # fmt: skip
    found = json.loads((out / "evaluation.json").read_text())
    assert set(found["priors"]) == {"gmm"}  # there is no trained one
    assert "iw_nll" not in found["likelihood"]
    assert load(out).sample(3).shape == (3, 8, 8)


def test_evaluate_a_run_and_anybodys_samples(trained, tmp_path, capsys):
    call("evaluate", trained, "--json", "-n", 100, "--extractor", "random")
    result = json.loads(capsys.readouterr().out)
    assert set(result["rows"]) == {"samples", "real held-out data"}
    call("sample", trained, "-n", 100, "--out", tmp_path / "s.npy")
    capsys.readouterr()
    call("evaluate", "--samples", tmp_path / "s.npy", "--data", "builtin:digits", "--json", "--extractor", "random")
    theirs = json.loads(capsys.readouterr().out)
    real = theirs["rows"]["real held-out data"]["fid"]
    assert theirs["rows"]["samples"]["fid"] > 2 * real  # thirty steps do not make digits


def test_samples_of_another_size_with_a_broken_first_file_are_scored_and_said(tmp_path, capsys):
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "00.png").write_bytes(b"\x89PNG\r\n\x1a\nnot much")
    for i in range(1, 40):
        Image.fromarray(np.full((16, 12), 6 * i, np.uint8)).save(folder / f"{i:02d}.png")
    call("evaluate", "--samples", folder, "--data", "builtin:digits", "--json", "--extractor", "random")
    notes = " ".join(json.loads(capsys.readouterr().out)["notes"])
    assert "1 samples could not be read" in notes
    assert "16x12 to the data's 8x8" in notes


def test_training_on_a_users_folder(photos, tmp_path, capsys):
    out = tmp_path / "run"
    call("train", "gan-image", "--data", photos, "--steps", 4, "--out", out, *sets("data.label=label"))
    skipped = (out / "skipped.txt").read_text().splitlines()
    assert len(skipped) == 1
    path, reason = skipped[0].split("\t")
    assert Path(path).is_absolute()
    assert path.endswith("broken.png") and reason
    assert "1 unreadable" in capsys.readouterr().err
    call("sample", out, "-n", 2, "--label", "cats", "--out", tmp_path / "cats.npy")
    assert np.load(tmp_path / "cats.npy").shape == (2, 24, 20, 3)  # the median 22x18, up to multiples of 4
    call("reconstruct", out, photos, "--out", tmp_path / "again")
    names = sorted(str(p.relative_to(tmp_path / "again")) for p in (tmp_path / "again").rglob("*.png"))
    assert len(names) == 48
    assert names[0] == "cats/01.png"
    call("encode", out, photos, "--out", tmp_path / "z.npy", code=1)  # row i is item i, so a broken file stops it
    assert "broken.png" in capsys.readouterr().err


def test_data_check_names_bad_files(photos, capsys):
    call("data", "check", photos, "--json")
    result = json.loads(capsys.readouterr().out)
    assert result["good"] == 48
    assert any("broken.png" in str(entry) for entry in result["bad_files"])
    call("data", "check", photos)
    assert "broken.png" in capsys.readouterr().out


def test_dry_run_writes_nothing(tmp_path, capsys):
    call("train", "gan-image", "--data", "builtin:digits", "--out", tmp_path / "run", "--dry-run")
    shown = capsys.readouterr().out
    assert "batch_size" in shown and "1617 items" in shown
    assert not (tmp_path / "run").exists()


def test_a_config_file_is_a_recipe(tmp_path, capsys):
    call("recipes", "gan-image")
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    out = tmp_path / "run"
    call("train", tmp_path / "mine.yaml", "--data", "builtin:digits", "--steps", 2, "--out", out, *sets())
    assert (out / "model" / "weights.safetensors").exists()


MISTAKES = [
    (["train", "gan-imag"], 2, "Did you mean 'gan-image'?"),
    (["train", "gan-image", "--set", "train.batchsize=3"], 2, "Did you mean 'batch_size'?"),
    (["train", "gan-image", "--set", "train.batch_size=many"], 2, "train.batch_size"),
    (["train", "gan-image", "--set", "model.generator.kind=cnv", "--steps", "1"], 2, "Did you mean 'conv'?"),
    (["train", "gan-image", "--set", "model.generator.widht=3", "--steps", "1"], 2, "Did you mean 'width'?"),
    (["train", "gan-image", "--set", "nonsense"], 2, "KEY=VALUE"),
    (["train", "gan-image", "--data", "builtin:digit"], 2, "digits"),
    (["train", "gan-image", "--data", "/nowhere/at/all"], 2, "/nowhere/at/all"),
    (["train", "gan-image", "--set", "data.label=colour"], 2, "label"),
    (["train", "gan-points", "--data", "builtin:digits"], 2, "image"),
    (["train", "missing.yaml"], 2, "missing.yaml"),
    (["sample", "/no/run", "--out", "x.npy"], 2, "no run"),
    (["sample", "RUN", "-n", "0", "--out", "x.npy"], 2, "at least 1"),
    (["sample", "RUN", "--label", "eleven", "--out", "x.npy"], 2, "no label 'eleven'"),
    (["sample", "RUN", "--out", "x.jpg"], 2, "a folder"),
    (["encode", "RUN", "builtin:digits", "--out", "codes.txt"], 2, ".npy"),
    (["interpolate", "RUN", "--from", "a.png", "--out", "x.gif"], 2, "both"),
    (["evaluate"], 2, "--samples"),
    (["evaluate", "--samples", "x.npy"], 2, "--data"),
    (["recipes", "gan-sed"], 2, "Did you mean 'gan-seed'?"),
    (["frobnicate"], 2, "frobnicate"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_mistakes_get_one_sentence(trained, tmp_path, monkeypatch, capsys, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    call(*[trained if a == "RUN" else a for a in arguments], code=code)
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("runs/*/config.yaml"))


def test_a_damaged_model_is_one_sentence(trained, tmp_path, capsys):
    import shutil

    shutil.copytree(trained / "model", tmp_path / "model")
    weights = tmp_path / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    call("sample", tmp_path, "--out", tmp_path / "x.npy", code=1)
    assert "cannot be read" in capsys.readouterr().err


def test_imports_point_one_way():
    """{modalities, nets, objectives} ← families ← loop ← model ← api ← {output, cli}: nobody imports upwards."""
    order = ["errors progress", "config", "modalities nets objectives data metrics precision run watch",
             "families recipes health", "evaluation posthoc optim vocoding", "scorecard loop", "model", "texts",
             "domains", "description judges", "assessment", "report", "api", "output", "cli"]  # fmt: skip
    level = {name: i for i, names in enumerate(order) for name in names.split()}
    for path in SOURCE.rglob("*.py"):
        here = path.relative_to(SOURCE).with_suffix("").parts[0]
        if here.startswith("__"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [n.name for n in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module == "morphogen":
                modules = [f"morphogen.{n.name}" for n in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                there = module.split(".")[1] if module.startswith("morphogen.") else ""
                if there in level:
                    assert level[there] <= level[here], f"{path.name} imports {module}"


def test_nothing_loads_a_pickle():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        for word in ("torch.load(", "pickle.load", "allow_pickle=True", "joblib"):
            assert word not in text, f"{path.name}: {word}"


def test_weights_hold_no_time_path_or_config(trained):
    from safetensors import safe_open

    with safe_open(trained / "model" / "weights.safetensors", "pt") as file:
        assert file.metadata() in (None, {})


def test_readme_code_runs(tmp_path, monkeypatch):
    """Every Python block of README.md runs as it stands, on built-in data in a few steps."""
    readme = Path(__file__).parents[1] / "README.md"
    blocks = [b.split("```")[0] for b in readme.read_text(encoding="utf-8").split("```python\n")[1:]]
    assert blocks
    monkeypatch.chdir(tmp_path)
    import morphogen

    original = morphogen.train

    def quick(recipe="gan-image", data=None, **options):
        options |= {"steps": 3, "minutes": None, "settings": ["evaluate.samples=64", "evaluate.final_samples=64"]}
        return original(recipe, "builtin:digits", **options)

    monkeypatch.setattr(morphogen, "train", quick, raising=False)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
