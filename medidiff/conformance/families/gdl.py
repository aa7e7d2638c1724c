"""openai/guided-diffusion's losses, from its stored noise and network outputs, and bounds."""

from __future__ import annotations

import torch

from medidiff.conformance.families.gd import TABLE, VARIANCES, check_bound, with_head
from medidiff.conformance.families.respacing import respaced
from medidiff.conformance.families.tables import levels_at, table_of, with_error
from medidiff.conformance.recordings import LEVEL_TOLERANCE, Case, Unsupported, check_agrees
from medidiff.diffusion.bound import Decoder
from medidiff.diffusion.denoiser import clipped, heads
from medidiff.diffusion.levels import NoiseLevel, diffuse
from medidiff.diffusion.objectives import DenoisingLoss, Hop, HybridLoss, VariationalLoss
from medidiff.diffusion.targets import AnyTarget, Clean, Eps
from medidiff.diffusion.variance import posterior_mean, small_variance
from medidiff.types import Image, Tensor

ERROR = 0.15
TARGETS: dict[str, AnyTarget] = {"EPSILON": Eps(), "START_X": Clean()}


def replay(case: Case) -> None:
    """A loss with its terms, or a bound."""
    if case.kind == "likelihood":
        variance = case.meta["var"]
        levels = levels_at(table_of(case.meta["schedule"]), [1])
        model = with_head(with_error(case.mixture, ERROR), variance, levels)
        if case.meta["clip_denoised"]:
            model = clipped(model, -1, 1)
        check_bound(case, model, case.meta["respacing"], VARIANCES[variance])
        return
    hop = _hop(case)
    x = diffuse(case["x0"], hop.now, case["noise"])
    check_agrees("x_t", x, case["x_t"])
    if case.meta["mean"] == "PREVIOUS_X":
        _previous(case, x, hop)
        return
    if case.meta["mean"] not in TARGETS:
        raise Unsupported(f"guided-diffusion has no mean {case.meta['mean']!r}")
    if case.meta["loss"] in ("KL", "RESCALED_KL"):
        _variational(case, hop)
        return
    if case.meta["var"] in ("LEARNED", "LEARNED_RANGE"):
        _hybrid(case, hop)
        return
    target = TARGETS[case.meta["mean"]]
    loss = DenoisingLoss(target, table_of(case.meta["schedule"]))
    ours = loss(_network(case), case["x0"], hop.now, case["noise"])
    check_agrees("loss", ours, case["out_loss"])


def _network(case: Case):
    def stored(x: Image, label: Tensor, condition: Tensor | None, concat: Image | None) -> Image:
        return case["model_output"]

    return stored


def _hop(case: Case) -> Hop:
    """The hops from the recorded indices of the spaced process, by our own table."""
    steps = respaced(case.meta["respacing"], TABLE)
    levels = levels_at(table_of(case.meta["schedule"]), steps)[::-1]
    alphas, sigmas, times = (
        torch.stack([getattr(level, name) for level in levels]) for name in ("alpha", "sigma", "t")
    )
    check_agrees("alpha-bar", alphas[1:] ** 2, case["alphas_cumprod"], LEVEL_TOLERANCE)
    place = case["t"].long() + 1
    now = NoiseLevel(times[place], alphas[place], sigmas[place])
    to = NoiseLevel(times[place - 1], alphas[place - 1], sigmas[place - 1])
    return Hop(now, to, small_variance(levels[2], levels[1]), len(steps))


def _variational(case: Case, hop: Hop) -> None:
    loss = VariationalLoss(
        TARGETS[case.meta["mean"]],
        table_of(case.meta["schedule"]),
        VARIANCES[case.meta["var"]],
        whole=case.meta["loss"] == "RESCALED_KL",
        decoder=Decoder(cdf="tanh"),
    )
    ours = loss.over(_network(case), case["x0"], hop, case["noise"])
    check_agrees("loss", ours, case["out_loss"])


def _hybrid(case: Case, hop: Hop) -> None:
    loss = HybridLoss(
        TARGETS[case.meta["mean"]],
        table_of(case.meta["schedule"]),
        "learned" if case.meta["var"] == "LEARNED" else "learned-range",
        0.001 if case.meta["loss"] == "RESCALED_MSE" else None,
        decoder=Decoder(cdf="tanh"),
    )
    simple, bits = loss.parts(_network(case), case["x0"], hop, case["noise"])
    check_agrees("squared error", simple, case["out_mse"])
    check_agrees("bound", bits, case["out_vb"])
    check_agrees("loss", simple + bits, case["out_loss"])


def _previous(case: Case, x: Image, hop: Hop) -> None:
    """A network that predicts the posterior mean itself: nobody's target since DDPM's own ablation,
    so its aim is made here and not a `Target` (it would depend on two levels)."""
    if case.meta["var"] in ("LEARNED", "LEARNED_RANGE") or case.meta["loss"] != "MSE":
        raise Unsupported("the mean itself is a prediction of ours only under the squared error")
    aim = posterior_mean(x, case["x0"], hop.now, hop.to)
    output = case["model_output"]
    if output.shape[1] == 2 * x.shape[1]:
        output, _ = heads(output)
    ours = (output - aim).square().flatten(1).mean(1)
    check_agrees("loss", ours, case["out_loss"])
