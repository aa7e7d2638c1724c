"""How fast is the U-Net beside MONAI's, with the same weights?

Two networks (2d256: batch 16 of 1x256x256; 3d96: batch 2 of 1x96x96x96): a denoiser call, a
training step, the peak memory, the time to the first sample, and what the convolutions alone cost.
The peer in its tutorials' way is fp16 autocast; at its best it has bf16 weights, channels last and
torch.compile with CUDA graphs, which takes minutes (`--best`).

    python benchmarks/unet_speed.py --best --out benchmarks/results
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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

    def monai(self) -> nn.Module:
        from monai.networks.nets import DiffusionModelUNet

        torch.manual_seed(0)
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


def worst_difference(ours: nn.Module, theirs: nn.Module, inputs: tuple[Tensor, ...]) -> dict:
    """Relative to the largest value: outputs and all gradients, in the networks' dtype."""
    aim = torch.randn_like(inputs[0])
    results = []
    for network in (ours, theirs):
        network.zero_grad()
        y = network(*inputs)
        (y * aim).sum().backward()
        results.append(y.detach())
    mine = {name: weight.grad for name, weight in ours.named_parameters()}
    other = from_monai({name: weight.grad for name, weight in theirs.named_parameters()})
    worst = max(relative(mine[name], other[name]) for name in mine if name in other)
    for network in (ours, theirs):
        network.zero_grad(set_to_none=True)
    return {"output": relative(*results), "gradients": worst}


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


def call_cost(
    network: Network, ours: nn.Module, options: argparse.Namespace, facts: dict[str, object]
) -> tuple[float, float]:
    """Milliseconds of a denoiser call with bf16 weights, and the FLOP of its convolutions."""
    halved = network.ours().cuda()
    halved.load_state_dict(ours.state_dict())
    halved = halved.to(torch.bfloat16, memory_format=network.last).eval()
    x, label = network.inputs(torch.bfloat16)
    call = call_time(Graphed(halved), (x, label), options.repeats)
    eager = call_time(halved, (x, label), options.repeats)
    with torch.no_grad():
        exact = ours(x[:1].float(), label[:1])
        facts["bf16 difference"] = relative(halved(x[:1], label[:1]), exact)
    limit, flop = convolution_limit(halved, (x, label), max(5, options.repeats // 4))
    facts |= {"eager call ms": eager, "convolutions ms": limit, "convolution TFLOP": flop / 1e12}
    facts["MFU of the call"] = flop / (call * 1e-3) / MATRIX_PRODUCT
    print(f"{network.name}: call {call:.1f} ms, eager {eager:.1f}, convolutions {limit:.1f}")
    if options.profile:
        with torch.no_grad():
            print(profile(lambda: halved(x, label)), flush=True)
    return call, flop


def measure(network: Network, options: argparse.Namespace) -> tuple[list[Measured], dict]:
    theirs = network.monai().cuda().eval()
    ours = network.ours().cuda()
    ours.load_state_dict(from_monai(theirs.state_dict()))
    ours = ours.to(memory_format=network.last).eval()
    facts: dict[str, object] = {
        "parameters": sum(weight.numel() for weight in ours.parameters()),
        "fused kernels": available(),
    }
    small = tuple(each[:2] for each in network.inputs(torch.float32))
    torch.backends.cudnn.allow_tf32 = False
    if network.dims == 2:
        facts["fp32 difference"] = worst_difference(ours, theirs, small)
    torch.backends.cudnn.allow_tf32 = True

    call, flop = call_cost(network, ours, options, facts)
    inputs = network.inputs(torch.float32)
    step, memory = train_cost(Graphed(ours).train(), inputs, torch.bfloat16, options.repeats)
    facts["MFU of the step"] = 3 * flop / (step * 1e-3) / MATRIX_PRODUCT
    print(f"{network.name}: train step {step:.1f} ms, {memory:.1f} GiB", flush=True)
    if options.profile:
        print(profile(train_step(ours, inputs, torch.bfloat16)), flush=True)
        print(profile_copies(train_step(ours, inputs, torch.bfloat16)), flush=True)
    del ours
    peers = peer_costs(theirs, network, options) if options.peers else {}
    return [
        Measured(f"{network.name} call", call, "ms", "lower", peers.get("call", {}),
                 network.goals["call"]),
        Measured(f"{network.name} train step", step, "ms", "lower", peers.get("step", {}),
                 network.goals["train step"]),
        Measured(f"{network.name} train memory", memory, "GiB", "lower", peers.get("memory", {}),
                 network.goals["train memory"]),
    ], facts  # fmt: skip


def peer_costs(theirs: nn.Module, network: Network, options: argparse.Namespace) -> dict:
    """MONAI's network in its tutorials' way, and at its best where asked."""
    inputs, usual, best = network.inputs(torch.float32), "MONAI, fp16 autocast", "MONAI, best"
    with torch.autocast("cuda", dtype=torch.float16):
        call = {usual: call_time(theirs, inputs, options.repeats)}
    cost, gib = train_cost(theirs.train(), inputs, torch.float16, max(3, options.repeats // 4))
    step, memory = {usual: cost}, {usual: gib}
    if options.best:
        torch.cuda.empty_cache()
        compiled = network.monai().to("cuda", torch.bfloat16, memory_format=network.last).eval()
        compiled = torch.compile(compiled, mode="reduce-overhead")
        begin = time.perf_counter()
        call[best] = call_time(compiled, network.inputs(torch.bfloat16), options.repeats)
        print(
            f"{network.name}: peer's call compiled in {time.perf_counter() - begin:.0f} s",
            flush=True,
        )
        torch._dynamo.reset()
    print(f"{network.name}: peer {call}, {step}, {memory}", flush=True)
    return {"call": call, "step": step, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--best", action="store_true", help="compile the peer, which takes minutes")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--only", choices=[network.name for network in NETWORKS])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first:
        return first_sample()
    warnings.filterwarnings("ignore", message=".*lr_scheduler.*")
    torch.backends.cudnn.benchmark = True
    rows: list[Measured] = []
    facts: dict[str, object] = {"statistic": "median by CUDA events", "repeats": options.repeats}
    for network in NETWORKS:
        if options.only in (None, network.name):
            found, facts[network.name] = measure(network, options)
            rows += found
            torch.cuda.empty_cache()
    if options.only in (None, "2d256"):
        first = seconds_to_first_sample()
        rows.append(Measured("2d256 first sample", first, "s", "lower", {}, 20.0))
    for row in rows:
        print(f"{row.what:<20} {row.ours:8.2f} {row.unit:<4} goal {row.goal}  {row.peers}")
    write_result("unet_speed", rows, facts=facts, folder=options.out)
    return None


if __name__ == "__main__":
    main()
