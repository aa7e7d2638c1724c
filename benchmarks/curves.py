"""A run's losses: as a picture (training, validation, both by noise level at the end), and as
numbers."""

from __future__ import annotations

import json
import statistics
from pathlib import Path


def plot_curves(run: Path, picture: Path) -> None:
    """Read the run's journal and write a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = read_series(run)
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name in ("loss", "train_loss_fixed", "validation_loss"):
        if name in series:
            left.plot(*zip(*series[name], strict=True), label=name)
    left.set(yscale="log", xlabel="step", title="losses")
    left.legend()
    for split in ("train", "validation"):
        levels = sorted(
            (int(name.rsplit(".", 1)[1]), values[-1][1])
            for name, values in series.items()
            if name.startswith(f"{split}_loss_by_level.")
        )
        right.plot(*zip(*levels, strict=True), marker="o", label=split)
    right.set(yscale="log", xlabel="noise level (low to high)", title="last validation, by level")
    right.legend()
    figure.savefig(picture, dpi=90)


def read_series(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Metric -> (step, value) in the order in which the run logged them."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["kind"] == "metrics":
            for name, value in event["metrics"].items():
                series.setdefault(name, []).append((event["step"], float(value)))
    return series


def training_rate(run: Path) -> float:
    """Images a second, median over what the run logged (the first stretch starts up)."""
    rates = [value for _, value in read_series(run)["images_per_second"]]
    return statistics.median(rates[1:] or rates)
