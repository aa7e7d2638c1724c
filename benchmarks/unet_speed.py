"""How fast is the U-Net beside MONAI's, with the same weights?

Two networks (2d256: batch 16 of 1x256x256; 3d96: batch 2 of 1x96x96x96): a denoiser call, a
training step, the peak memory, the time to the first sample, and what the convolutions alone cost.
The peer in its tutorials' way is fp16 autocast; at its best it has bf16 weights, channels last and
torch.compile with CUDA graphs, which takes a minute a network (`--best`, last in the run).

    python benchmarks/unet_speed.py --best --seconds 400 --out benchmarks/results

The result is written after every part, so a run that is cut keeps what it has measured; no part is
begun after `--seconds`, and what was left out is named in the facts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from record import Measured, write_result
from torch import Tensor, nn

from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.networks.graphs import Graphed
from medidiff.networks.interop import from_monai
from medidiff.networks.kernels import available, plain

MATRIX_PRODUCT = 749e12  # FLOP/s of a large bf16 product on an H100: what MFU is a share of


@dataclass(frozen=True)
class Network:
    """One network of the comparison."""

    name: str
    batch: int
    space: tuple[int, ...]
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    goals: dict[str, float]

    @property
    def dims(self) -> int:
        return len(self.space)

    def ours(self) -> nn.Module:
        options = UNetOptions(
            channels=self.channels,
            attention=self.attention,
            blocks=2,
            head_channels=64,
            norm_eps=1e-6,
            waves=self.channels[0] // 2,
            modulation="shift",
            resampling="convolution",
            middle_attention="always",
        )
        return build(options, NetworkShape(dims=self.dims))  # type: ignore[arg-type]

    def monai(self, seed: int = 0) -> nn.Module:
        from monai.networks.nets import DiffusionModelUNet

        torch.manual_seed(seed)
        network = DiffusionModelUNet(
            spatial_dims=self.dims,
            in_channels=1,
            out_channels=1,
            channels=self.channels,
            attention_levels=self.attention,
            num_res_blocks=2,
            num_head_channels=64,
            norm_num_groups=32,
            use_flash_attention=True,
        )
        for weight in network.parameters():  # no layer may be zero: a product with it is no work
            if weight.ndim > 1:
                nn.init.normal_(weight, std=(2 / weight[0].numel()) ** 0.5 / 2)
        return network

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x = torch.randn(self.batch, 1, *self.space, device="cuda", dtype=dtype)
        return x, torch.full((self.batch,), 500.0, device="cuda")

    @property
    def last(self) -> torch.memory_format:
        return torch.channels_last if self.dims == 2 else torch.channels_last_3d


NETWORKS = (
    Network(
        "2d256", 16, (256, 256), (128, 128, 256, 256, 512), (False, False, False, True, True),
        {"call": 22.0, "train step": 80.0, "train memory": 12.0, "first sample": 20.0},
    ),
    Network(
        "3d96", 2, (96, 96, 96), (64, 128, 256, 512), (False, False, False, True),
        {"call": 34.0, "train step": 120.0, "train memory": 11.0},
    ),
)  # fmt: skip


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Median of `repeats` runs by CUDA events, after three to warm up."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def call_time(network: nn.Module, inputs: tuple[Tensor, ...], repeats: int) -> float:
    with torch.no_grad():
        return milliseconds(lambda: network(*inputs), repeats)


def train_step(network: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Callable:
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    aim = torch.randn_like(inputs[0])

    def step() -> None:
        with torch.autocast("cuda", dtype=dtype, cache_enabled=not isinstance(network, Graphed)):
            loss = F.mse_loss(network(*inputs).float(), aim)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def train_cost(network: nn.Module, inputs: tuple, dtype: torch.dtype, repeats: int) -> tuple:
    """Milliseconds and GiB of a training step."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    cost = milliseconds(train_step(network, inputs, dtype), repeats)
    return cost, torch.cuda.max_memory_allocated() / 2**30


def convolution_limit(network: nn.Module, inputs: tuple[Tensor, ...], repeats: int) -> tuple:
    """Milliseconds of the network's convolutions alone in bf16 with channels last, and the FLOP."""
    seen: list[tuple[nn.Module, torch.Size]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, x, y: seen.append((layer, x[0].shape)))
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.Conv3d)
    ]
    with torch.no_grad(), plain():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    total, flop = 0.0, 0.0
    costs: dict[tuple, float] = {}
    last = torch.channels_last if inputs[0].ndim == 4 else torch.channels_last_3d
    for layer, shape in seen:
        key = (shape, layer.weight.shape, layer.stride)
        if key not in costs:
            x = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
            x, weight = (each.contiguous(memory_format=last) for each in (x, layer.weight.detach()))
            function = F.conv2d if x.ndim == 4 else F.conv3d
            with torch.no_grad():
                costs[key] = milliseconds(
                    lambda f=function, x=x, w=weight, c=layer: f(x, w, None, c.stride, c.padding),
                    repeats,
                )
        total += costs[key]
        places = 1
        for size, stride in zip(shape[2:], layer.stride, strict=True):
            places *= size // stride
        flop += 2 * shape[0] * places * layer.weight.numel()
    return total, flop


def gradients(network: nn.Module, x: Tensor, label: Tensor, toward: Tensor) -> dict[str, Tensor]:
    """The output and all gradients of a network in the dtype of its weights, by our names."""
    dtype = next(network.parameters()).dtype
    network.zero_grad()
    output = network(x.to(dtype), label.to(dtype))
    (output * toward.to(dtype)).sum().backward()
    found = {name: weight.grad for name, weight in network.named_parameters()}
    if not any(name.startswith("embedding.") for name in found):
        found = from_monai(found)
    network.zero_grad(set_to_none=True)
    known = {name: grad.detach() for name, grad in found.items() if grad is not None}
    return {"output": output.detach(), **known}


def distances(ours: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, object]:
    """|ours - truth| / |truth| of the output and over the gradients, by Euclid's norm."""
    apart = {
        name: float((ours[name].double() - truth[name].double()).norm() / truth[name].norm())
        for name in truth
        if name in ours
    }
    output = apart.pop("output")
    worst = max(apart, key=lambda name: apart[name])
    return {
        "output": output,
        "gradients, median": statistics.median(apart.values()),
        "gradients, worst": apart[worst],
        "worst gradient": worst,
    }


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def profile(run: Callable[[], object], rows: int = 25) -> str:
    """Where the time of a run goes."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    return seen.key_averages().table(
        sort_by="cuda_time_total", row_limit=rows, max_name_column_width=70
    )


def profile_copies(run: Callable[[], object]) -> str:
    """Which operations on which shapes take the time that is not a kernel of ours."""
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, record_shapes=True) as seen:
        run()
        torch.cuda.synchronize()
    averages = seen.key_averages(group_by_input_shape=True)
    costly = sorted(averages, key=lambda row: -row.self_device_time_total)[:40]
    return "\n".join(
        f"{row.self_device_time_total / 1e3:8.2f} ms {row.count:4} {row.key[:40]:<40} "
        f"{str(row.input_shapes)[:110]}"
        for row in costly
    )


def first_sample() -> None:
    """What `--first` runs in a process of its own: a network, its weights, a denoiser call."""
    torch.backends.cudnn.benchmark = True
    network = NETWORKS[0].ours().to("cuda", torch.bfloat16, memory_format=torch.channels_last)
    with torch.no_grad():
        Graphed(network.eval())(*NETWORKS[0].inputs(torch.bfloat16))
    torch.cuda.synchronize()


def seconds_to_first_sample() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--first"], check=True)
    return time.perf_counter() - begin


USUAL, BEST = "MONAI, fp16 autocast", "MONAI, best"


class Report:
    """The rows and facts so far, written whenever they grow."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.begin = time.perf_counter()
        self.rows: dict[str, Measured] = {}
        self.peers: dict[str, dict[str, float]] = {}
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.facts: dict[str, object] = {
            "statistic": "median by CUDA events",
            "repeats": options.repeats,
            USUAL: "the tutorials' way: contiguous, fp16 autocast",
            BEST: "bf16 weights, channels last, torch.compile reduce-overhead",
        }

    def about(self, network: str) -> dict[str, Any]:
        """The facts of a network."""
        return cast(dict[str, Any], self.facts.setdefault(network, {}))

    def ours(self, what: str, value: float, unit: str, goal: float) -> None:
        self.rows[what] = Measured(what, value, unit, "lower", self.peers.get(what, {}), goal)
        self.write()

    def peer(self, what: str, who: str, value: float) -> None:
        self.peers.setdefault(what, {})[who] = value
        if what in self.rows:
            self.rows[what] = replace(self.rows[what], peers=self.peers[what])
        print(f"{what:<20} {value:8.2f} {who}", flush=True)
        self.write()

    def write(self) -> None:
        write_result(
            "unet_speed", list(self.rows.values()), facts=self.facts, folder=self.options.out
        )


def measure_peer(network: Network, report: Report) -> None:
    """MONAI's network in its tutorials' way."""
    repeats = report.options.repeats
    theirs, inputs = network.monai().cuda().eval(), network.inputs(torch.float32)
    with torch.autocast("cuda", dtype=torch.float16):
        report.peer(f"{network.name} call", USUAL, call_time(theirs, inputs, repeats))
    step, gib = train_cost(theirs.train(), inputs, torch.float16, max(3, repeats // 4))
    report.peer(f"{network.name} train step", USUAL, step)
    report.peer(f"{network.name} train memory", USUAL, gib)


def measure_peer_at_best(network: Network, report: Report) -> None:
    """MONAI's network compiled; the first call compiles."""
    theirs = network.monai().to("cuda", torch.bfloat16, memory_format=network.last).eval()
    compiled = torch.compile(theirs, mode="reduce-overhead")
    inputs, begin = network.inputs(torch.bfloat16), time.perf_counter()
    call_time(compiled, inputs, 1)
    report.about(network.name)["MONAI, best: seconds to compile"] = time.perf_counter() - begin
    cost = call_time(compiled, inputs, report.options.repeats)
    report.peer(f"{network.name} call", BEST, cost)
    torch._dynamo.reset()


def measure_call(network: Network, report: Report) -> None:
    """Our denoiser call with bf16 weights, and what its convolutions alone cost."""
    repeats, facts = report.options.repeats, report.about(network.name)
    ours = with_same_weights(network, report)
    x, label = network.inputs(torch.bfloat16)
    with torch.no_grad(), plain():
        exact = ours(x[:1].float(), label[:1])
    halved = ours.to(torch.bfloat16, memory_format=network.last)
    with torch.no_grad():
        facts["bf16 difference"] = relative(halved(x[:1], label[:1]), exact)
    call = call_time(Graphed(halved), (x, label), repeats)
    facts["eager call ms"] = call_time(halved, (x, label), repeats)
    limit, flop = convolution_limit(halved, (x, label), max(5, repeats // 4))
    facts["parameters"] = sum(weight.numel() for weight in ours.parameters())
    facts["fused kernels"] = available()
    facts |= {"convolutions ms": limit, "convolution TFLOP": flop / 1e12}
    facts["MFU of the call"] = flop / (call * 1e-3) / MATRIX_PRODUCT
    report.ours(f"{network.name} call", call, "ms", network.goals["call"])
    if report.options.profile:
        with torch.no_grad():
            print(profile(lambda: halved(x, label)), flush=True)


def measure_training(network: Network, report: Report) -> None:
    """Our training step: fp32 masters, bf16 autocast, AdamW."""
    ours = with_same_weights(network, report).to(memory_format=network.last).train()
    inputs = network.inputs(torch.float32)
    step, memory = train_cost(Graphed(ours), inputs, torch.bfloat16, report.options.repeats)
    facts = report.about(network.name)
    if "convolution TFLOP" in facts:
        flop = 3e12 * facts["convolution TFLOP"]
        facts["MFU of the step"] = flop / (step * 1e-3) / MATRIX_PRODUCT
    report.ours(f"{network.name} train step", step, "ms", network.goals["train step"])
    report.ours(f"{network.name} train memory", memory, "GiB", network.goals["train memory"])
    if report.options.profile:
        print(profile(train_step(ours, inputs, torch.bfloat16)), flush=True)
        print(profile_copies(train_step(ours, inputs, torch.bfloat16)), flush=True)


def measure_agreement(network: Network, report: Report) -> None:
    """Both networks in float32 (no TF32) against each other and against MONAI's in float64.

    On a smaller grid, since float64 is slow, toward a field with a mean: the gradient of the last
    bias is its sum.
    """
    batch, space = (2, (64, 64)) if network.dims == 2 else (1, (32, 32, 32))
    x = torch.randn(batch, 1, *space, device="cuda")
    label, toward = torch.full((batch,), 500.0, device="cuda"), torch.randn_like(x) + 1
    theirs, ours = network.monai().cuda().eval(), with_same_weights(network, report)
    torch.backends.cudnn.allow_tf32 = False
    mine, other = (gradients(each, x, label, toward) for each in (ours, theirs))
    truth = gradients(theirs.double(), x, label, toward)
    torch.backends.cudnn.allow_tf32 = True
    report.about(network.name)["float32"] = {
        "grid": [batch, 1, *space],
        "ours to MONAI's": distances(mine, other),
        "ours to MONAI's in float64": distances(mine, truth),
        "MONAI's to MONAI's in float64": distances(other, truth),
    }
    report.write()


def with_same_weights(network: Network, report: Report) -> nn.Module:
    """Our network with the weights of MONAI's, as it is made here."""
    ours = network.ours().cuda().eval()
    if network.name not in report.weights:
        report.weights[network.name] = from_monai(network.monai().state_dict())
    ours.load_state_dict(report.weights[network.name])
    return ours


def measure_first_sample(network: Network, report: Report) -> None:
    """A process of its own from its start to one denoiser call."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--first"], check=True)
    took = time.perf_counter() - begin
    report.ours(f"{network.name} first sample", took, "s", network.goals["first sample"])


def parts(options: argparse.Namespace) -> Iterator[tuple[Network, Callable, tuple[str, ...]]]:
    """What is measured, in order: each part with the rows that it gives."""
    steps = ("train step", "train memory")
    for network in NETWORKS:
        if options.peers:
            yield network, measure_peer, ("call", *steps)
        yield network, measure_call, ("call",)
        yield network, measure_training, steps
        if "first sample" in network.goals:
            yield network, measure_first_sample, ("first sample",)
    for network in NETWORKS:
        yield network, measure_agreement, ("agreement",)
    for network in NETWORKS:
        if options.best:
            yield network, measure_peer_at_best, ("call",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--best", action="store_true", help="compile the peer, which takes minutes")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument(
        "--only", default="", help="rows that begin so, such as '3d96' or '2d256 c'"
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="begin no part after these")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first:
        return first_sample()
    warnings.filterwarnings("ignore", message=".*lr_scheduler.*")
    torch.backends.cudnn.benchmark = True
    report = Report(options)
    late: list[str] = []
    for network, part, rows in parts(options):
        if not any(f"{network.name} {row}".startswith(options.only) for row in rows):
            continue
        if time.perf_counter() - report.begin > options.seconds:
            late.append(f"{network.name}: {part.__name__}")
            continue
        part(network, report)
        torch.cuda.empty_cache()
    report.facts["left out for time"] = late
    report.facts["seconds"] = time.perf_counter() - report.begin
    report.write()
    for row in report.rows.values():
        print(f"{row.what:<20} {row.ours:8.2f} {row.unit:<4} goal {row.goal}  {row.peers}")
    return None


if __name__ == "__main__":
    main()
