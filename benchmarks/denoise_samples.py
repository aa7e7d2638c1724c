"""How are posterior samples of a noisy scan to be drawn, so that they are rightly spread?

    python benchmarks/denoise_samples.py MODEL --manifest ixi_t1_slices/manifest.csv

Ancestral samplers that begin at the level of the noise, by their steps and the variance of each,
on the first validation subjects: the defaults of the head `denoise` are chosen by this. Eight
samples an image; their coverage and spread are in the head, and so is the PSNR of their mean and of
one of them. Rows are written as they are made, until the time is up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from record import Measured, write_result
from validation import parser_of, validation_cases

from medidiff import api
from medidiff.data.datasets import Case
from medidiff.model import Model
from medidiff.tasks.base import OURS, Bench
from medidiff.tasks.denoise import Denoising

DRAWS = 8
LEVELS = (0.1, 0.2, 0.05)  # the middle one first
SAMPLERS = (  # steps, the variance of each
    (20, "small"),
    (40, "small"),
    (20, "large"),
    (40, "large"),
    (80, "small"),
)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--split", default="val")
    parser.add_argument("--subjects", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=6.0)
    args = parser.parse_args()
    model = api.load(args.model)
    cases = validation_cases(model, args.manifest, args.split, args.subjects)
    facts: dict[str, object] = {
        "subjects": f"{len(cases)} of the split {args.split}",
        "model_digest": model.digest,
        "samples": f"{DRAWS} an image; coverage of the central 90 % in the head",
    }
    rows, end = [], time.monotonic() + 60 * args.minutes
    for head in heads():
        if time.monotonic() > end:
            break
        rows.append(measured(head, cases, model))
        print(told(rows[-1]), flush=True)
        write_result("denoise_samples", rows, facts=facts, folder=args.out)


def heads() -> Iterator[Denoising]:
    """What to try, every sampler at one level before the next."""
    for sigma, noise, (steps, variance) in product(LEVELS, ("rician", "gaussian"), SAMPLERS):
        yield Denoising(noise=noise, sigma=sigma, steps=steps, variance=variance)  # type: ignore[arg-type]


def measured(head: Denoising, cases: Sequence[Case], model: Model) -> Measured:
    """The coverage, with what belongs to it."""
    begin = time.monotonic()
    bench = Bench(model, [], [], cases, samples=DRAWS, baselines="none")
    found = head.benchmark(bench)
    seconds = time.monotonic() - begin
    (judged,) = found.calibrated
    single = replace(head, result="sample").benchmark(replace(bench, samples=2))
    beside = {
        "spread over error": judged.found.spread.mean,
        "PSNR of the mean": psnr_of(found.rows),
        "PSNR of one sample": psnr_of(single.rows),
        "lowest rank": judged.found.histogram[0],
        "highest rank": judged.found.histogram[-1],
        "seconds": seconds,
    }
    what = f"{head.noise} {head.sigma:g}: {head.steps} steps, {head.variance} variance, coverage"
    return Measured(what, judged.found.coverage.mean, "", "higher", beside, 0.9)


def psnr_of(rows: Sequence[dict[str, str | float]]) -> float:
    """Mean over subjects, in-head, of ours."""
    values = [float(row["psnr_head"]) for row in rows if row["method"] == OURS]
    return sum(values) / len(values)


def told(row: Measured) -> str:
    """The row as a line."""
    beside = ", ".join(f"{name} {value:.3f}" for name, value in row.peers.items())
    return f"{row.what} {row.ours:.3f}, {beside}"


if __name__ == "__main__":
    main()
