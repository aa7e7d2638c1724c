"""How near are the U-Net's float32 gradients to float64's, and to MONAI's?

The two networks of unet_speed.py on small grids, several draws of weights and images. Both are set
beside MONAI's in float64: a difference between the two that is no larger than what each is from
there is two roundings of one function. No TF32. For the first draw it is also said where ours comes
from: without the fused kernels, and then with one kind of layer in float64. Runs in a minute on a
GPU; on a CPU it shows the plain twin, which has no fused norm (`--only 2d256 --draws 1`).

    python benchmarks/unet_gradients.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import Measured, write_result
from torch import Tensor
from torch.overrides import TorchFunctionMode
from unet_speed import NETWORKS, Network, distances, gradients

from medidiff.networks.interop import from_monai
from medidiff.networks.kernels import available, plain

GRIDS = {"2d256": (2, 1, 64, 64), "3d96": (1, 1, 32, 32, 32)}
PAIRS = ("ours to MONAI's", "ours to float64", "MONAI's to float64")
GOAL = 1e-5
EXACT: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "plain": (),
    "plain, norms in float64": (F.group_norm,),
    "plain, convolutions in float64": (F.conv2d, F.conv3d, torch.conv2d, torch.conv3d),
    "plain, linear layers and attention in float64": (F.linear, F.scaled_dot_product_attention),
}


class InFloat64(TorchFunctionMode):
    """Some functions computed in float64, with float32 in and out, there and back."""

    def __init__(self, functions: Sequence[Callable[..., Tensor]]) -> None:
        super().__init__()
        self.functions = functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self.functions:
            return func(*args, **kwargs)
        wide = [arg.double() if isinstance(arg, Tensor) else arg for arg in args]
        named = {
            name: arg.double() if isinstance(arg, Tensor) else arg for name, arg in kwargs.items()
        }
        return func(*wide, **named).to(args[0].dtype)


def one_draw(
    network: Network, seed: int, device: torch.device, *, parts: bool
) -> dict[str, dict[str, object]]:
    """The distances of the three pairs for one draw of weights, image and direction; with `parts`
    also of what ours is with some of it more exact.

    The direction has a mean: the gradient of the last bias is its sum.
    """
    theirs, ours = network.monai(seed).to(device).eval(), network.ours().to(device).eval()
    ours.load_state_dict(from_monai(theirs.state_dict()))
    generator = torch.Generator().manual_seed(seed)
    x, toward = (torch.randn(GRIDS[network.name], generator=generator) for _ in range(2))
    x, toward = x.to(device), (toward + 1).to(device)
    label = torch.full((len(x),), 500.0, device=device)
    mine, other = (gradients(each, x, label, toward) for each in (ours, theirs))
    truth = gradients(theirs.double(), x, label, toward)
    sides = ((mine, other), (mine, truth), (other, truth))
    found = {pair: distances(*side) for pair, side in zip(PAIRS, sides, strict=True)}
    for name, functions in EXACT.items() if parts else ():
        with plain(), InFloat64(functions):
            found[f"ours, {name}, to float64"] = distances(gradients(ours, x, label, toward), truth)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--only", nargs="*", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--seconds", type=float, default=90.0, help="begin no draw after these")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    begin, rows, facts = time.perf_counter(), [], {}
    facts["fused kernels"] = device.type == "cuda" and available()
    for network in (each for each in NETWORKS if each.name in options.only):
        draws = []
        for seed in range(options.draws):
            if draws and time.perf_counter() - begin > options.seconds:
                break
            draws.append(one_draw(network, seed, device, parts=seed == 0))
            print(network.name, seed, draws[-1], flush=True)
        facts[network.name] = {"grid": GRIDS[network.name], "draws": draws}
        for what in ("worst", "median"):
            found = {
                pair: statistics.median(draw[pair][f"gradients, {what}"] for draw in draws)
                for pair in PAIRS
            }
            name = f"{network.name}, {what} gradient, median of draws: relative distance"
            goal = GOAL if what == "worst" else None
            peers = {"MONAI's": found[PAIRS[2]]}
            rows += [
                Measured(f"{name} to MONAI's", found[PAIRS[0]], "", "lower", {}, goal),
                Measured(f"{name} to float64", found[PAIRS[1]], "", "lower", peers, None),
            ]
        write_result("unet_gradients", rows, facts=facts, folder=options.out)
    for row in rows:
        print(f"{row.what:<75} {row.ours:.2e} {row.peers}")


if __name__ == "__main__":
    main()
