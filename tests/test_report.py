"""Reports and comparisons: one file without anything outside it, whatever is missing, and nothing in it unescaped."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import TINY, TINY_OF
from PIL import Image
from test_cli import call, sets

from morphogen import api
from morphogen.errors import UsageError
from morphogen.report import comparison, write_report
from morphogen.report.charts import Axis, Chart, Line, Scatter, number, thinned
from morphogen.report.page import LIMIT, Page, Picture, Sound, Sounds, Strip, Texts, html_of
from morphogen.report.records import read_records
from morphogen.report.show import grouped, projected

ROOT = Path(__file__).resolve().parents[1]
VOID = {"meta", "img", "link", "br"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> & \x00"


class Outline(HTMLParser):
    """What a page holds; it fails where tags do not close in order."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open and self.open[-1] != "style" else ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def checked(path: Path) -> Outline:
    """A page that keeps the promises: small, whole, nothing outside it, readable by all."""
    html = path.read_text(encoding="utf-8")
    assert path.stat().st_size <= LIMIT
    page = Outline(html)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert "url(" not in html and "@import" not in html
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs), attrs
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            assert (attrs.get(name) or "data:").startswith(("data:", "#")), attrs
        if tag == "img":
            assert attrs["alt"]
            assert Image.open(io.BytesIO(base64.b64decode(attrs["src"].partition(",")[2]))).size > (0, 0)
        if tag == "svg":
            assert attrs["role"] == "img" and attrs["aria-label"]
        if tag == "audio":
            assert attrs["aria-label"]
            soundfile.info(io.BytesIO(base64.b64decode(attrs["src"].partition(",")[2])))
        if tag == "th":
            assert attrs["scope"] in ("row", "col")
    assert page.all("html") == [{"lang": "en"}] and len(page.all("h1")) == 1
    assert any(m.get("name") == "viewport" for m in page.all("meta")) and "@media print" in html
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and {a["href"][1:] for a in page.all("a")} == set(ids)
    return page


def headings(page: Outline, path: Path) -> list[str]:
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def gan(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report") / "gan"
    call("train", "gan-image", "--data", "builtin:digits", "--steps", 20, "--out", out,
         *sets("data.label=label", "train.evaluate_every=10", "evaluate.report=true"))  # fmt: skip
    return out


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report") / "vae"
    api.train("vae-image", "builtin:digits", out=out, steps=20, settings=TINY_OF["vae-image"])
    return out


def test_a_training_ends_with_a_report(gan):
    page = checked(gan / "report.html")
    assert "A GAN for images, trained on builtin:digits" in page.text and "20 steps" in page.text
    assert "conditioned on the label “label” (10 values)" in page.text
    assert "morphogen train gan-image" in page.text and "torch 2." in page.text and "latent_dim: 8" in page.text
    names = ["Health", "Samples", "Scores", "Interpolations", "Map of samples", "Curves", "Previews over the training",
             "Audit", "Failures", "How it was made"]  # fmt: skip
    assert headings(page, gan / "report.html") == names
    assert "real held-out data" in page.text and "±" in page.text
    assert len(page.all("svg")) >= 5 and len(page.all("img")) >= 4
    assert json.loads((gan / "model" / "config.json").read_text())["training"]["versions"]["torch"]


def test_an_encoder_has_a_map_of_its_codes(vae):
    assert not (vae / "report.html").exists(), "evaluate.report=false"
    call("report", vae)
    path = vae / "report.html"
    page = checked(path)
    assert {"Reconstructions", "Latent map"} <= set(headings(page, path))
    (drawn,) = [svg for svg in page.all("svg") if "dimensions" in (svg["aria-label"] or "")]
    assert "coloured by label" in drawn["aria-label"] and "(PCA)" in drawn["aria-label"]
    names = re.findall(r'<text class="name"[^>]*>(\d)</text>', path.read_text())
    assert sorted(names) == list("0123456789")
    assert "Likelihood of held-out items" in page.text and "mutual information" in page.text


def test_two_domains(tmp_path):
    api.train("cyclegan-image", "builtin:digits#label=1|7", out=tmp_path / "r", steps=4,
              settings=[*TINY_OF["cyclegan-image"], "evaluate.report=true"])  # fmt: skip
    path = tmp_path / "r" / "report.html"
    page = checked(path)
    assert "Samples" not in headings(page, path) and "Translations" in headings(page, path)
    assert any("as b, back in a" in (img["alt"] or "") for img in page.all("img"))
    parts = re.findall(r"<h[23][^>]*>([^<]*)</h", path.read_text(encoding="utf-8"))
    at = parts.index("Scores")
    assert parts[at + 1 : at + 3] == ["a to b", "b to a"]


def test_what_is_missing_is_left_out(gan, tmp_path):
    """A model alone, as in zoo/; a training that has not been evaluated; data that are gone; garbage in the files."""
    zoo = tmp_path / "zoo"
    shutil.copytree(gan / "model", zoo / "model")
    shutil.copy(gan / "evaluation.json", zoo)
    about = json.loads((zoo / "model" / "config.json").read_text())
    about["training"]["data_config"]["source"] = "/nowhere/at/all"
    (zoo / "model" / "config.json").write_text(json.dumps(about))
    path = write_report(zoo / "model", tmp_path / "out" / "zoo.html")
    page = checked(path)
    assert "The data cannot be read here" in page.text
    assert {"Samples", "Scores"} <= set(headings(page, path)) and "Curves" not in headings(page, path)

    begun = tmp_path / "begun"
    begun.mkdir()
    rows = [{"step": k, "generator": 1 / k, "discriminator": None if k == 2 else 0.5} for k in (1, 2, 3)]
    found = {"what": "D wins", "evidence": "0.1 against 0.9", "remedy": "lower players.discriminator.lr", "since": 2}
    rows += [
        {"step": 3, "health": [found]},
        {"step": 4, "health": [found | {"since": 4}]},
        {"step": 4, "rollback": "it"},
    ]
    (begun / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 5, "gen')
    call("report", begun, "--out", tmp_path / "begun.html")
    page = checked(tmp_path / "begun.html")
    assert "Not evaluated yet" in page.text and "There is no model to show yet" in page.text
    assert page.text.count("D wins") == 1 and "since step 2" in page.text
    assert "What to do: lower players.discriminator.lr." in page.text
    (begun / "evaluation.json").write_text('{"rows": {"samples": {"fid": ')
    checked(write_report(begun))

    (tmp_path / "empty").mkdir()
    for bad in (tmp_path / "empty", tmp_path / "absent"):
        call("report", bad, code=2)
    call("report", gan, "--out", tmp_path / "x.pdf", code=2)


def test_nothing_is_taken_for_html(tmp_path):
    """Texts, labels, names, commands and findings may be HTML; they are shown and never obeyed."""
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "step-00000001.txt").write_text(EVIL + "\n")
    row = {"fid": 1.0, "fid_error": 0.1}
    evaluation = {
        "extractor": EVIL, "rows": {"samples": row, EVIL: row}, "counts": {"samples": 5}, "notes": [EVIL],
        "health": [{"what": EVIL, "evidence": EVIL, "remedy": EVIL, "since": None}], "failures": [EVIL, {"text": EVIL}],
        "audit": {"verdict": "copies", "p": 1e-5, "near_copies": 0.3, "near_copies_heldout": 0.01, "gap": {"fid": 1.5},
                  "rows": {"samples": {"ct": -3.0}}, "closest": [{"sample": 1, "train": 2, "texts": [EVIL, EVIL]}]},
        "by_class": {EVIL: {"share": 0.5, "share_real": 0.5}},
    }  # fmt: skip
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "config.yaml").write_text(json.dumps({"family": "gan", "modality": "text", "recipe": EVIL}))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": k, EVIL: k}) + "\n" for k in range(1, 4)))
    (tmp_path / "skipped.txt").write_text(f"/a/{EVIL}\tbroken\n")
    page = checked(write_report(tmp_path))
    assert page.text.count("<script>alert(1)</script>") >= 12
    assert "the samples look like copies of training items (p = 1e-05)" in page.text
    assert "30 % of the samples, 1 % of held-out data" in page.text
    assert not page.all("img")


def test_a_page_is_never_too_large():
    """Noise cannot be compressed: the media become smaller and fewer until the page fits; the words stay."""
    rng = np.random.default_rng(0)
    noise = [
        Picture(Image.fromarray(rng.integers(0, 255, (700, 700, 3), np.uint8)), "noise", f"n{k}") for k in range(12)
    ]
    waves = [Sound(rng.integers(-9999, 9999, (44100, 1)).astype(np.int16), 44100, f"w{k}") for k in range(12)]
    texts = Texts([("ab " * 3000) + str(k) for k in range(30)])
    html = html_of(Page("t", ["lead"], {"Media": [Strip(noise), Sounds(waves), texts]}))
    assert 100_000 < len(html.encode()) <= LIMIT
    page = Outline(html)
    assert page.all("img") and page.all("audio") and page.text.count("ab ab") > 100
    small = html_of(Page("t", ["lead"], {"Media": [Strip(noise)]}), limit=40_000)
    assert len(small.encode()) <= 40_000 and "lead" in small


def test_charts():
    chart = Chart(
        "FID", [Line("a", [0, 10, 20], [1000.0, 10.0, 1.0]), Line("b", [5], [7.0]), Line("c", [], [])], {10.0: "best"}
    )
    svg = str(chart.svg())
    points = re.search(r'points="([^"]*)"', svg)[1].split()
    x, y = zip(*(map(float, p.split(",")) for p in points), strict=True)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)
    assert (y[1] - y[0]) / (y[2] - y[1]) == pytest.approx(2, rel=0.01), "two decades, and one: logarithmic"
    assert "FID by step. a: 1,000 at first, 1 at step 20, lowest 1; b: 7" in svg and "<circle" in svg
    assert Axis([0, 1], 0, 100).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis([3, 3], 0, 100)(3) == 50
    assert Axis([0.5, 200], 0, 1, log=True).ticks() == [1, 10, 100]
    assert thinned([2.0] * 1000) == [2.0] * 240
    assert [number(v) for v in (None, 0.12345, 12345, 3.0, -0.0018, 12345.6)] == [
        "–", "0.123", "12,345", "3", "-0.0018", "12,346"]  # fmt: skip
    drawn = str(Scatter({"<b>": np.eye(2), "c": np.zeros((1, 2)), "d": np.ones((1, 2))}, "map").svg())
    assert drawn.count("h0") == 4 and "&lt;b&gt;" in drawn


def test_projections():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(60, 2)) * [5, 1]
    turned = np.pad(flat, ((0, 0), (0, 6))) @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    found, how = projected(turned)
    expected = flat - flat.mean(0)
    assert "PCA" in how
    between = lambda p: np.linalg.norm(p[:, None] - p[None], axis=2)
    assert np.allclose(between(found), between(expected))
    assert "own" in projected(flat)[1] and projected(flat[:, :1])[0].shape == (60, 2)
    groups = grouped(flat, np.repeat([f"{k:02d}" for k in range(20)], 3))
    assert len(groups) == 13 and len(groups["others"]) == 24


def test_compare(gan, vae, tmp_path, capsys):
    """Side by side, the best marked by its error, and a warning for all that forbids comparing."""
    other = tmp_path / "other"
    shutil.copytree(gan, other)
    result = json.loads((gan / "evaluation.json").read_text())
    row = result["rows"]["samples"]
    row |= {"fid": row["fid"] + 1e-9, "precision": 0.0, "kid": row["kid"] + 100}
    (other / "evaluation.json").write_text(json.dumps(result))
    found = comparison([gan, other])
    assert found["warnings"] == []
    assert found["best"]["fid"] == ["gan", "other"] and found["best"]["kid"] == ["gan"]
    assert [run["parameters"] for run in found["runs"]] == [found["runs"][0]["parameters"]] * 2
    assert found["runs"][0]["scores"]["fid"]["floor"] == result["rows"]["real held-out data"]["fid"]

    result["extractor"], result["counts"]["heldout"], result["split"] = "another", 7, "otherwise"
    (other / "evaluation.json").write_text(json.dumps(result))
    out = tmp_path / "page.html"
    call("compare", gan, other, vae, "--out", out)
    shown = capsys.readouterr().out
    assert "Not comparable: The features differ" in shown and "another: other" in shown.replace("\n", "")
    assert "★" not in shown.replace("★ the best", "")
    page = checked(out)
    assert {"Not comparable", "Runs", "Curves", "Samples"} <= set(headings(page, out))
    assert sum("c1" in str(t[1].get("class")) for t in page.tags) >= 2, "curves of the second run"
    call("compare", gan, other, "--json")
    words = json.loads(capsys.readouterr().out)["warnings"]
    assert [w.split(" ")[0] for w in words] == ["The", "Training", "They"]
    call("compare", gan, code=2)
    call("compare", gan, gan, code=2)
    with pytest.raises(UsageError):
        comparison([gan, tmp_path / "absent"])


def test_sound_and_text_of_the_zoo(tmp_path):
    """The models that are shared, with or without the data they learned from."""
    for name, tag in (("cyclegan-fsdd", None), ("gan-fsdd", "audio"), ("vae-names", "ol")):
        page = checked(write_report(ROOT / "zoo" / name, tmp_path / f"{name}.html"))
        assert tag is None or page.all(tag)
        assert "could not be made" not in page.text
    records = read_records(ROOT / "zoo" / "gan-coco")
    assert (records.modality, records.family) == ("text", "GAN")


def test_a_report_that_fails_is_a_note(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr(api, "write_report", broken)
    notes = []
    display = type("Notes", (), {"step": lambda *_: None, "note": lambda _, text: notes.append(text)})()
    settings = [*TINY, "evaluate.report=true"]
    run = api.train("gan-image", "builtin:digits", out=tmp_path / "r", steps=2, settings=settings, display=display)
    assert run.evaluation and any("no report was written (OSError: no space)" in note for note in notes)


def test_results_md_holds_what_the_zoo_says():
    spec = importlib.util.spec_from_file_location("results_table", ROOT / "bench" / "results_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert module.results(text) == text, "make results-table"
    parts = module.tables().split("### ")[1:]
    assert [part.partition("\n")[0] for part in parts] == list(module.MODALITIES.values())
    assert all(f"\n| {family}<br>" in part for part in parts for family in module.FAMILIES.values())
    models = [path.parent.name for path in (ROOT / "zoo").glob("*/evaluation.json")]
    assert all(f"<br>`{name}`, " in text for name in models) and set(models) <= module.TARGETS.keys()
    with pytest.raises(SystemExit):
        module.results("no place for it")
