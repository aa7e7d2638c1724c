"""The page of benchmarks/sampler_quality.py: who is nearest, and what is wrong with whom."""

from __future__ import annotations

from collections.abc import Mapping

HEAD = """The squared sliced energy distance to a mixture whose exact denoiser is known, at equal
network calls; the best sampler of each side (theirs: diffusers' and MONAI's) is chosen on one half
of the images and measured on the other. The difference has its 95 % interval.

| calls | our best | distance | their best | distance | difference |
| --- | --- | --- | --- | --- | --- |
"""
FAULTS = """
## Structural faults: noise or a shift at 50 steps or more, numbers that are not finite, errors

Mean / deviation of images of N(0.5, 0.2^2), where the deviation is above 0.22 or the mean off by
more than 0.02. Where the last column quotes the sampler, it had said so itself, with what to do:
a Markov chain that is too short for the path is a setting, and settles when it is longer (the same
sampler with `settled` is among those searched). The others say nothing: theirs is in the method.

| sampler | steps: mean / deviation | what it said itself |
| --- | --- | --- |
"""


def page(
    best: Mapping[int, dict],
    wrong: Mapping[str, Mapping[int, str]],
    warned: Mapping[str, Mapping[int, str]],
) -> str:
    """The page, in Markdown."""
    rows = [_row(calls, row) for calls, row in best.items()]
    found = [_fault(name, counts, warned.get(name, {})) for name, counts in wrong.items()]
    return HEAD + "".join(rows) + (FAULTS + "".join(found) if found else "")


def _row(calls: int, row: dict) -> str:
    sides = [
        f"{row[side]['name']} | {row[side]['distance']:.2g}" if side in row else "- | -"
        for side in ("ours", "theirs")
    ]
    interval = "-"
    if "difference" in row:
        interval = f"{row['difference']:.1e} +- {row['half_interval']:.1e}"
    return f"| {calls} | {sides[0]} | {sides[1]} | {interval} |\n"


def _fault(name: str, counts: Mapping[int, str], said: Mapping[int, str]) -> str:
    shown = "; ".join(f"{steps}: {value}" for steps, value in counts.items())
    texts = "; ".join(f"{steps}: {text}" for steps, text in said.items() if steps in counts)
    return f"| {name} | {shown} | {texts or 'nothing'} |\n"
