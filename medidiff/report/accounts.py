"""What a reader must know of a benchmark's figures, in lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medidiff.tasks.base import OURS, Account


def metric_lines(metrics: Mapping[str, str]) -> list[str]:
    """What each metric is: region, data range, and which way is better."""
    return [f"{name}: {meaning}" for name, meaning in metrics.items()]


def account_lines(accounts: Sequence[Account]) -> list[str]:
    """How each setting's figures were made."""
    return [line for each in accounts for line in (_ours(each), *_baselines(each))]


def _ours(each: Account) -> str:
    memory = "" if each.gib is None else f", at most {each.gib:.2g} GiB"
    return (
        f"{each.setting}: {OURS} is {each.estimate}; {each.equivalents:.4g} network calls an image "
        f"(a backward counts two), {each.seconds:.3g} s an image{memory} ({each.hardware})"
    )


def _baselines(each: Account) -> list[str]:
    if not each.tuned:
        return []
    chosen = "; ".join(f"{name}, {how}" for name, how in each.tuned.items())
    return [f"{each.setting}: tuned on {each.tuned_on} validation scans: {chosen}"]
