"""How many images a second does a prior draw with 20 network calls each (a student: with its own)?

    OMP_NUM_THREADS=2 python benchmarks/sampling_rate.py brain-t1-2d hippocampus-3d

Runs on a GPU where there is one, else on the threads that torch is given. The median of several
batches after one that is not counted. A benchmark prior is named by its joined folder
(benchmarks/weights.py).
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from record import Measured, write_result

from medidiff import api

STEPS = 20


def images_per_second(model: api.Model, batch: int, repeats: int = 3, steps: int = STEPS) -> float:
    """The median rate over `repeats` batches, copied to the CPU as a user gets them."""
    model.sample(batch, steps=2, batch=batch)  # records, tunes and compiles what there is to
    rates = []
    for seed in range(repeats):
        began = time.perf_counter()
        model.sample(batch, steps=steps, seed=seed, batch=batch)
        rates.append(batch / (time.perf_counter() - began))
    return statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--batch", type=int, default=None, help="default: 32 on a GPU, 2 on a CPU")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    batch = args.batch or (32 if on_gpu else 2)
    rows = []
    for name in args.models:
        model = api.load(name)
        calls = model.spec.sampling.steps if model.spec.draws_only else STEPS
        rate = images_per_second(model, batch, args.repeats, calls)
        grid = "x".join(map(str, model.spec.space.size))
        print(f"{model.spec.name}: {rate:.3g} images/s of {grid}")
        what = f"{model.spec.name}, {grid}, {calls} calls"
        rows.append(Measured(what, rate, "images/s", "higher"))
    facts = {"batch": batch, "threads": None if on_gpu else torch.get_num_threads()}
    result = "sampling_rate_gpu" if on_gpu else "sampling_rate_cpu"
    print(write_result(result, rows, facts=facts))


if __name__ == "__main__":
    main()
