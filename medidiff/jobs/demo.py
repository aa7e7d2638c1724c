"""The verb `demo`: the shipped prior at work, then the main job from scans to a registered, working
model, on generated head phantoms."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medidiff.data.phantoms import write_population
from medidiff.diffusion import KeyedNoise
from medidiff.evaluation.distortion import psnr
from medidiff.jobs.benchmark import Table, benchmark_head
from medidiff.jobs.folder import RunFolder, close_interrupted
from medidiff.jobs.models import load_model, register_model
from medidiff.jobs.pretrained import SHIPPED, shipped_names
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.run import run_head
from medidiff.jobs.splits import Splits
from medidiff.jobs.train import train_model
from medidiff.model import Model
from medidiff.outputs import check_new_folder
from medidiff.report.pictures import sheet
from medidiff.report.tables import Difference
from medidiff.tasks.base import OURS
from medidiff.tasks.denoise import Denoising
from medidiff.tracking import store_address
from medidiff.training.stop import Stopped

CONFIG = Path(__file__).with_name("demo.yaml")
NAME, ALIAS = "medidiff-demo", "champion"
UNFINISHED = "demo-unfinished"  # a file that only a demo makes, and takes away at its end
PRIOR = "brain-t1-2d"
SLICES, CALLS = 2, 10  # few: two cores draw them in half a minute
SIGMA = 0.1
HEADS = {"train": 240, "val": 24, "test": 24}


@dataclass(frozen=True)
class DemoResult:
    """What the demo made and how well it denoised."""

    folder: Path
    table: Table
    gain_db: float
    """In-head PSNR above the best classical baseline, mean over test subjects."""
    text: str


def run_demo(folder: Path, report: Reporter, shipped: Path = SHIPPED) -> DemoResult:
    """Put the shipped prior to work; then generate scans, train, sample, denoise, register, load
    back by name. A demo in `folder` that was stopped goes on.

    Errors: OutputError if `folder` already holds something else, or a whole demo; Stopped, which
    says how to go on.
    """
    mark = folder / UNFINISHED
    if not mark.exists():
        check_new_folder(folder, "remove it or use --folder")
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        found = _run(folder, report, shipped)
    except (KeyboardInterrupt, Stopped):
        raise Stopped(
            "the demo was stopped; the same command goes on with it (to begin anew, remove "
            f"{folder} first)"
        ) from None
    mark.unlink()
    return found


def _run(folder: Path, report: Reporter, shipped: Path) -> DemoResult:
    config = folder / CONFIG.name
    if not config.exists():
        shutil.copyfile(CONFIG, config)
    if not (folder / "shipped" / "sheet.png").exists():
        try_shipped(_fresh(folder / "shipped"), report, shipped)
    manifest = folder / "phantoms" / "manifest.csv"
    if not manifest.exists():
        report.say("1/5  drawing a population of head phantoms: anatomy varies, some have lesions")
        write_population(_fresh(manifest.parent), HEADS["train"], HEADS["val"], HEADS["test"])
    report.say("2/5  training a diffusion prior on them")
    run = trained(config, folder, report)
    report.say("3/5  registering it in MLflow and loading it back by its name")
    register_model(run, NAME, ALIAS, report=report)
    model = load_model(f"models:/{NAME}@{ALIAS}")
    report.say("4/5  drawing new heads")
    draw(model, _fresh(folder / "samples"), report)
    report.say(
        f"5/5  denoising the test heads (Rician noise, sigma {SIGMA:g}) beside classical methods"
    )
    table = benchmark_head(
        Denoising(noise="rician", sigma=SIGMA),
        model,
        manifest,
        split="test",
        splits=Splits(),
        out=_fresh(folder / "denoising"),
        n=1,
        seed=0,
        limit=None,
        mismatch="refuse",
        report=report,
    )
    gain = next(item for item in table.differences if item.metric == "psnr_head")
    return DemoResult(folder, table, gain.interval.mean, closing(folder, run, table, gain))


def try_shipped(folder: Path, report: Reporter, shipped: Path) -> None:
    """Draw brain slices from the prior that comes with the package, spoil them with noise, and take
    the noise out again: half a minute on two cores."""
    if PRIOR not in shipped_names(shipped):
        report.say(f"0/5  skipped: the prior {PRIOR} does not come with this installation")
        return
    report.say(f"0/5  drawing brain slices from the prior {PRIOR} that comes with the package")
    model = load_model(PRIOR, shipped=shipped)
    drawn = model.sample(
        SLICES,
        steps=CALLS,
        seed=1,
        progress=lambda done, total: report.progress("sampling slices", done, total),
    )
    low, high = model.spec.intensity.typical.low[0], model.spec.intensity.typical.high[0]
    noise = KeyedNoise(1, [("demo", number) for number in range(SLICES)])(drawn.images, 0)
    noisy = drawn.images + SIGMA * (high - low) * noise
    files = replace(drawn, images=noisy).save(folder)
    results = run_head(
        Denoising(sigma=SIGMA),
        model,
        [[file] for file in files],
        n=1,
        seed=0,
        mismatch="warn",
        report=report,
    )
    restored = torch.stack([torch.as_tensor(result.image) for result in results]).to(noisy)
    rows = torch.cat([drawn.images, noisy, restored])
    titles = [what for what in ("drawn", "spoilt", "restored") for _ in range(SLICES)]
    sheet(rows, folder / "sheet.png", window=(low, high), columns=SLICES, titles=titles)
    before, after = (
        float(psnr(images, drawn.images, data_range=high - low).mean())
        for images in (noisy, restored)
    )
    report.say(
        f"     noise of {SIGMA:g} of the window, {before:.1f} dB, was brought to {after:.1f} dB by "
        f"one network call; drawn, spoilt, restored: {folder / 'sheet.png'}"
    )


def _fresh(place: Path) -> Path:
    """A folder of the demo without what a stopped one left in it."""
    if place.exists():
        shutil.rmtree(place)
    return place


def trained(config: Path, folder: Path, report: Reporter) -> Path:
    """The run's folder, with the model of a training that was begun now or before."""
    run = RunFolder(folder / "run")
    if run.model.is_dir():
        close_interrupted(run.path)
        return run.path
    resume = run.config.is_file()
    return train_model(config, changes=[f"output={run.path}"], resume=resume, report=report)


def draw(model: Model, folder: Path, report: Reporter) -> None:
    """Sixteen new heads: a sheet, and the first ones as NIfTI."""
    samples = model.sample(
        16, seed=1, progress=lambda done, total: report.progress("sampling", done, total)
    )
    samples.save(folder)
    typical = model.spec.intensity.typical
    sheet(samples.images, folder / "sheet.png", window=(typical.low[0], typical.high[0]))


def closing(folder: Path, run: Path, table: Table, gain: Difference) -> str:
    """What the demo says at its end."""
    ours, theirs = (table.mean("psnr_head", method) for method in (OURS, gain.baseline))
    low, high = gain.interval.low, gain.interval.high
    name, store = f"models:/{NAME}@{ALIAS}", store_address()
    scan = folder / "phantoms" / "images" / "phantom0270.nii.gz"
    medidiff, mlflow = program("medidiff"), program("mlflow")
    lines = [
        "",
        f"In-head PSNR on {HEADS['test']} unseen heads: {ours:.2f} dB; "
        f"best baseline, {gain.baseline}: {theirs:.2f} dB.",
        f"Difference {gain.interval.mean:+.2f} dB (95 % interval {low:+.2f} to {high:+.2f}): "
        f"{gain.verdict}.",
        "",
        f"  pictures          {folder / 'samples' / 'sheet.png'}",
        f"                    {folder / 'denoising' / 'comparison.png'}",
        f"  table, by subject {folder / 'denoising' / 'table.md'}, rows.csv",
        f"  run and model     {run}",
        f"  MLflow            {store}",
        f"  registered as     {name}",
        "",
        "Next:",
        f"  {medidiff} sample {name} --n 8 --condition sex=F --guidance 2 --out women",
        f"  {medidiff} run denoise {name} {scan} --out denoised --sheet",
        *([f"  {mlflow} ui --backend-store-uri {store}"] if store.startswith("sqlite") else []),
        f"  {medidiff} check {folder / 'demo.yaml'} --change data.manifest=YOUR.csv",
    ]
    return "\n".join(lines)


def program(name: str) -> str:
    """How a program of this environment is started here: by its name, or by its path where the
    environment is not activated (`make demo` does not activate it)."""
    beside = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    return str(beside) if beside.exists() and (found is None or Path(found) != beside) else name
