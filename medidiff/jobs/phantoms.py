"""The verb `phantoms`: a population of drawn heads or chests, with masks, splits and a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medidiff.data.population import Format, PopulationOptions, write
from medidiff.data.splitting import SplitOptions
from medidiff.errors import ConfigError
from medidiff.jobs.reporting import Reporter


def write_phantoms(
    folder: Path,
    options: PopulationOptions,
    count: int,
    shares: Mapping[str, float] | None,
    format: Format,
    report: Reporter,
) -> Path:
    """Draw `count` subjects into a new folder; gives the manifest's path.

    Errors: ConfigError, OutputError.
    """
    counts = dealt(count, dict(SplitOptions().shares) if shares is None else shares)
    strangers = set(options.healthy) - set(counts)
    if strangers:
        raise ConfigError(
            f"no lesions in {', '.join(sorted(strangers))}: the splits are {', '.join(counts)}"
        )
    return write(
        folder,
        options,
        counts,
        format=format,
        progress=lambda done, total: report.progress("drawing phantoms", done, total),
    )


def dealt(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many subjects each split has: whole numbers nearest to the shares that add up.

    Errors: ConfigError for shares that do not add up to 1, or no subject.
    """
    if count < 1 or min(shares.values(), default=0) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        stated = ", ".join(f"{split}={share:g}" for split, share in shares.items())
        raise ConfigError(f"{count} subjects in shares {stated}: one at least, shares add up to 1")
    ends, total = [0], 0.0
    for share in shares.values():
        total += share
        ends.append(round(count * total))
    return {split: ends[i + 1] - ends[i] for i, split in enumerate(shares)}
