"""The command line: one verb, one call of the API.

torch is imported inside the verbs, so that --help answers at once. An error is one sentence on stderr: exit code 2 for
wrong use, 1 for a failure, 128 + n after signal n; a traceback only with --debug.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from morphogen import __version__
from morphogen.errors import MorphogenError, UsageError

app = typer.Typer(
    help="Train deep generative models on your own data, measure honestly what came out, and use it.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
data_app = typer.Typer(help="Look at data before training on them.", no_args_is_help=True)
app.add_typer(data_app, name="data")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="a run folder, its model/ folder, or zoo/NAME")]
SourceArgument = Annotated[str, typer.Argument(metavar="SRC", help="builtin:NAME, a folder, IDX, .npy/.npz; #SELECT")]
OutOption = Annotated[Path, typer.Option("--out", help="a folder, FILE.npy, FILE.txt, or FILE.png for one sheet")]
LabelOption = Annotated[str | None, typer.Option("--label", help="condition on this label, or 'all' for a cycle")]
AttributeOption = Annotated[
    list[str] | None, typer.Option("--attribute", help="LABEL=AMOUNT: move codes towards a label's, 1 the whole way")
]
SeedOption = Annotated[int, typer.Option("--seed", help="what comes out is a function of it")]


def _version(show: bool) -> None:
    if show:
        print(f"morphogen {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Options before the verb; --debug is read in `main`, and may stand anywhere."""


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|FILE.yaml", help="`morphogen recipes` lists them")],
    data: Annotated[str | None, typer.Option("--data", help="SRC to train on")] = None,
    data_b: Annotated[str | None, typer.Option("--data-b", help="SRC of the second domain")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="the run folder; runs/RECIPE by default")] = None,
    init: Annotated[str | None, typer.Option("--init", help="start from this run's weights")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="a.b=c, any key of the config")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="how many steps")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="how long; fixes the steps by a trial")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the config and the data, and stop")] = False,
) -> None:
    """Train a model; the same command again goes on where it stopped."""
    from morphogen import api
    from morphogen.progress import TerminalDisplay

    settings = setting or []
    config = api.resolve_config(recipe, settings, data=data, data_b=data_b, steps=steps, minutes=minutes)
    if dry_run:
        _dry_run(config)
        return
    with TerminalDisplay(config.train.batch_size) as terminal:
        out = out or Path("runs") / (config.recipe or Path(recipe).stem)
        run = api.train(
            recipe, data, data_b, out=out, settings=settings, steps=steps, minutes=minutes, init=init, display=terminal,
            command=shlex.join(["morphogen", *[a for a in sys.argv[1:] if a != "--debug"]]),
        )  # fmt: skip
    _print_evaluation(run.evaluation)
    use = f"translate {run.path} SRC --to b" if "back" in run.evaluation else f"sample {run.path} -n 64"
    typer.echo(f"The model is in {run.path / 'model'}; use it: morphogen {use} --out samples")


def _dry_run(config: Any) -> None:
    from morphogen import api
    from morphogen.config import dump_yaml
    from morphogen.description import describe
    from morphogen.domains import load_data
    from morphogen.model import build_family
    from morphogen.precision import choose

    if config.codec in api.RECIPES:
        typer.echo(f"{dump_yaml(config)}# the codec is trained first, into RUN/codec, by the recipe {config.codec}")
        return
    data = load_data(config)
    description = describe(config, data)
    family = build_family(description, config.augment, codec=data.codec)
    api.check_terms(config, family)
    typer.echo(dump_yaml(config))
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in family.named_children()}
    precision = choose(config.train.precision)
    typer.echo(
        f"# {len(data.train)} items to train on, {len(data.heldout)} held out, {len(data.train.skipped)} unreadable; "
        f"shape {tuple(description.space)}; classes {data.classes or 'none'}\n"
        f"# parameters: {', '.join(f'{k} {v:,}' for k, v in sizes.items())}; {precision.dtype} on {precision.why}"
    )


@app.command()
def sample(
    run: RunArgument,
    out: OutOption,
    n: Annotated[int, typer.Option("-n", "--count", help="how many")] = 64,
    seed: SeedOption = 0,
    label: LabelOption = None,
    domain: Annotated[str | None, typer.Option("--domain", help="for models of several domains")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="factor on the noise; of text, its symbols'")
    ] = None,
    truncation: Annotated[float | None, typer.Option("--truncation", help="draw noise beyond this anew")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="of text: only the likeliest symbols")] = None,
    tries: Annotated[int | None, typer.Option("--tries", help="of a GAN: each is chosen among so many")] = None,
) -> None:
    """Make new items."""
    from morphogen.model import load
    from morphogen.output import check_out, write_items

    if n < 1:
        raise UsageError("-n takes a number of at least 1.")
    check_out(out)
    model = load(run)
    if model.domains:
        label = label or domain
    elif domain not in (None, "a") and model.family.other is None:
        raise UsageError(f"This model has one domain, 'a', and not '{domain}'.")
    write_items(model, model.sample(n, seed, label, temperature, truncation, top_p, tries), out)


@app.command()
def reconstruct(
    run: RunArgument, source: SourceArgument, out: OutOption, label: LabelOption = None, seed: SeedOption = 0,
    attribute: AttributeOption = None,
) -> None:  # fmt: skip
    """What the model makes of its codes of the items: how near it can come to them, or to an attribute's."""
    from morphogen.domains import labels_for, names_of, read_for
    from morphogen.model import load
    from morphogen.output import attributes_of, check_out, require_all, whole_files, write_items

    moves = attributes_of(attribute)

    check_out(out)
    model = load(run)
    items = read_for(model, source, whole=whole_files(out))
    require_all(items, out)
    array = model.modality.array(items.data)
    made = model.reconstruct(array, labels_for(model, items, label), seed, moves)
    write_items(model, made, out, items.names, spans=items.spans, lines=names_of(model, source))


@app.command()
def translate(
    run: RunArgument, source: SourceArgument, out: OutOption,
    to: Annotated[str, typer.Option("--to", help="the domain to go to: a or b, or a label that is a domain")],
    seed: SeedOption = 0,
) -> None:  # fmt: skip
    """Bring the items of one domain to another."""
    from morphogen.domains import names_of, read_for
    from morphogen.loop import modality_of
    from morphogen.model import load
    from morphogen.output import check_out, require_all, whole_files, write_items

    check_out(out)
    model = load(run)
    known = model.domains or (["a", "b"] if model.family.other is not None else [])
    if to not in known:
        if not known:
            raise UsageError("This model has one domain and cannot translate.")
        raise UsageError(f"This model has the domains {', '.join(known)}, and not '{to}'.")
    here, to_modality = ("a", model.modality) if model.domains else ("ab"[to == "a"], modality_of(model.family, to))
    items = read_for(model, source, here, whole=whole_files(out))
    require_all(items, out)
    made = model.translate(modality_of(model.family, here).array(items.data), to, seed)
    write_items(model, made, out, items.names, to_modality, items.spans, names_of(model, source))


@app.command()
def encode(
    run: RunArgument, source: SourceArgument,
    out: Annotated[Path, typer.Option("--out", help="FILE.npy or FILE.npz")],
    label: LabelOption = None, seed: SeedOption = 0,
    sampled: Annotated[bool, typer.Option("--sampled", help="a random draw of each posterior, not its mean")] = False,
) -> None:  # fmt: skip
    """Latent codes of items, one row each: a VAE's posterior means, or draws; a GAN finds them by search. Of a model
    that converts between domains this is the content; FILE.npz holds the domain's code beside it."""
    from morphogen.domains import labels_for, read_for
    from morphogen.model import load
    from morphogen.output import require_all, write_arrays

    if out.suffix not in (".npy", ".npz"):
        raise UsageError("encode writes numbers: --out FILE.npy or FILE.npz.")
    model = load(run)
    items = read_for(model, source)
    require_all(items, out)
    labels = labels_for(model, items, label, needed=not model.domains)
    codes = model.encode(model.modality.array(items.data), labels, seed, sampled)
    arrays = {"codes": codes, "names": items.names}
    if model.domains and out.suffix == ".npz":
        arrays |= {"content": codes} | model.domain_codes(labels, len(codes))
    write_arrays(out, arrays)


@app.command()
def interpolate(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="a folder, FILE.gif, or FILE.png")],
    start: Annotated[str | None, typer.Option("--from", help="an item's file")] = None,
    end: Annotated[str | None, typer.Option("--to", help="an item's file")] = None,
    frames: Annotated[int, typer.Option("--frames", help="how many items on the way")] = 60,
    linear: Annotated[bool, typer.Option("--linear", help="straight, not along the sphere")] = False,
    label: LabelOption = None,
    seed: SeedOption = 0,
) -> None:
    """Walk through the latent space: between two items, or round through random ones."""
    from morphogen.model import load
    from morphogen.output import check_out, ends_of, write_items

    check_out(out)
    if (start is None) != (end is None):
        raise UsageError("Give both --from and --to, or neither.")
    model = load(run)
    ends = None if start is None or end is None else ends_of(model, start, end, label, seed)
    write_items(model, model.interpolate(frames, seed, ends, label, linear=linear), out)


@app.command()
def score(
    run: RunArgument, source: SourceArgument,
    out: Annotated[Path, typer.Option("--out", help="FILE.csv")],
    sort: Annotated[bool, typer.Option("--sort", help="anomalies first")] = False,
    label: LabelOption = None,
) -> None:  # fmt: skip
    """Judge items one by one: a GAN's probability of being real, a VAE's likelihood bound, a cycle GAN's logit."""
    from morphogen.domains import labels_for, names_of, read_for
    from morphogen.model import load
    from morphogen.output import report_skipped, write_csv

    model = load(run)
    items = read_for(model, source)
    report_skipped(items)
    values = model.score(model.modality.array(items.data), labels_for(model, items, label))
    known = dict(zip(items.names, (float(v) for v in values), strict=True))
    rows = [(name, known.get(name, "")) for name in names_of(model, source)]  # an unreadable item keeps its row
    if sort:
        rows.sort(key=lambda row: float("-inf") if row[1] == "" else float(row[1]))
    write_csv(out, ("name", "score"), rows)


@app.command()
def evaluate(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="a run folder, its model/, or zoo/NAME")] = None,
    samples: Annotated[str | None, typer.Option("--samples", help="anybody's samples: a folder or .npy")] = None,
    data: Annotated[str | None, typer.Option("--data", help="what the model was trained on")] = None,
    heldout: Annotated[str | None, typer.Option("--heldout", help="SRC held out; else a split of data")] = None,
    extractor: Annotated[
        str | None, typer.Option(help="auto, random, classifier, inception:FILE, dinov2:FILE; a run knows its own")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--count", min=6, help="samples scored")] = 10_000,
    items: Annotated[int, typer.Option("--items", min=2, help="held-out items whose likelihood is estimated")] = 1000,
    importance: Annotated[int, typer.Option("--importance-samples", min=1, help="of each, for that estimate")] = 100,
    galleries: Annotated[
        Path | None, typer.Option("--galleries", help="folder for pictures of the closest and the worst samples")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, one object on the last line")] = False,
) -> None:
    """Score a model, or anybody's samples, against held-out data; the row of real data is the floor."""
    from morphogen import assessment
    from morphogen.progress import TerminalDisplay
    from morphogen.scorecard import summary

    display = None if as_json else TerminalDisplay(1)
    result = assessment.evaluate(
        run, data=data, samples=samples, heldout=heldout, extractor=extractor, count=n, display=display,
        likelihood=(items, importance), galleries=galleries,
    )  # fmt: skip
    if as_json:
        print(json.dumps(result | summary(result)))
    else:
        _print_evaluation(result)


@app.command()
def report(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option("--out", help="FILE.html; RUN/report.html by default")] = None,
) -> None:
    """Write all that is known of a run into one HTML file: scores, samples, curves, findings, audit."""
    from morphogen.report import write_report

    typer.echo(f"The report is {write_report(run, _page(out))}")


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help="run folders, or zoo/NAME")],
    out: Annotated[Path | None, typer.Option("--out", help="FILE.html: curves and samples as well")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Put runs side by side: what they are, their scores, the best of each, and what forbids comparing them."""
    from morphogen.report import comparison, write_comparison

    out, found = _page(out), comparison(runs)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _print_comparison(found)
    if out is not None:
        write_comparison(runs, out)
        typer.echo(f"The page is {out}", err=as_json)


def _page(out: Path | None) -> Path | None:
    if out is not None and out.suffix not in (".html", ".htm"):
        raise UsageError(f"A page is HTML: --out FILE.html, not {out.name}.")
    return out


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="show this one whole")] = None) -> None:
    """List the recipes, or show one's whole config."""
    from morphogen.config import dump_yaml, near
    from morphogen.recipes import RECIPES

    if name is None:
        for key, recipe in RECIPES.items():
            typer.echo(f"{key:<16} {(recipe.__doc__ or '').strip().splitlines()[0]}")
        return
    if name not in RECIPES:
        raise UsageError(f"There is no recipe '{name}'; there are {', '.join(RECIPES)}.{near(name, RECIPES)}")
    doc = "\n".join(f"# {line.strip()}".rstrip() for line in (RECIPES[name].__doc__ or "").strip().splitlines())
    typer.echo(doc + "\n" + dump_yaml(RECIPES[name]()))


@data_app.command("check")
def data_check(
    source: SourceArgument,
    label_pattern: Annotated[str | None, typer.Option("--label-pattern", help="as data.label_pattern")] = None,
    split: Annotated[str, typer.Option("--split", help="as data.split: line, paragraph or window of a text")] = "line",
    length: Annotated[int | None, typer.Option("--length", help="as data.length: bytes of the longest text")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Counts, sizes, labels, duplicates, and every bad file, or line of a text, with its reason."""
    from morphogen.data import check_source, open_source
    from morphogen.data.check import facts_of_check
    from morphogen.data.text import SPLITS
    from morphogen.health import data_findings
    from morphogen.output import print_check

    if split not in SPLITS:
        raise UsageError(f"--split takes {', '.join(SPLITS)}, not '{split}'.")
    result = check_source(open_source(source, label_pattern=label_pattern, split=split), length)
    result["health"] = [finding.json() for finding in data_findings(facts_of_check(result))]
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print_check(result)


@app.command()
def doctor() -> None:
    """What this machine is, and what Morphogen makes of it."""
    import os
    import platform

    import torch

    from morphogen.data.dataset import available_memory
    from morphogen.precision import choose

    chosen = choose()
    typer.echo(f"morphogen {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    typer.echo(f"device     {chosen.device}: {chosen.why}; {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    typer.echo(f"precision  {chosen.dtype} products, float32 weights; channels_last; fused Adam")
    typer.echo(f"memory     {available_memory() / 2**30:.1f} GiB available")


def _print_evaluation(result: dict[str, Any]) -> None:
    """The table of scores; of two domains both, and the error of the cycle."""
    from rich.console import Console

    from morphogen.scorecard import table

    console = Console()
    if "back" not in result:
        console.print(table(result))
        return
    for title, part in (("a to b", result), ("b to a", result["back"])):
        shown = table(part)
        shown.title = title
        console.print(shown)
        cycle = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in part["cycle"].items())
        console.print(f"{title} and back, on held-out items: {cycle}")


def _print_comparison(found: dict[str, Any]) -> None:
    """The table of runs, and below it what forbids comparing them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from morphogen.report.comparison import NOTE, rows_of

    table = Table(caption=NOTE, caption_justify="left", padding=(0, 1))
    table.add_column("")
    for run in found["runs"]:
        table.add_column(Text(run["name"]), overflow="fold")
    for row in rows_of(found):
        table.add_row(*map(Text, row))
    console = Console()
    console.print(table)
    for warning in found["warnings"]:
        console.print(Text(f"Not comparable: {warning}", style="bold"))


def _sentence(error: Exception) -> str:
    """What nobody foresaw, in one sentence."""
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}."
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}; the same command with --debug shows where."


def main() -> None:
    """Run the command line; every known error becomes one sentence and its exit code."""
    debug = "--debug" in sys.argv
    try:
        app(args=[a for a in sys.argv[1:] if a != "--debug"])
    except MorphogenError as error:
        if debug:
            raise
        print(f"morphogen: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        print(f"morphogen: {_sentence(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
