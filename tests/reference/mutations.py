"""Does the suite notice the classical mistakes? `mutations.py [NAME...]`, some minutes.

Each mutation is one wrong formula that diffusion code has had somewhere. It is made in a copy of
the package, and the tests that are named with it are run on the copy: they must fail. Prints a line
a mutation; `--table FILE` writes docs/mutations.md, in which the lines of mutations that were not
named stay; exit 1 if one is missed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPLAY = "tests/reference/test_replay.py"
SAMPLERS = "tests/laws/test_samplers.py"
SDE = "tests/laws/test_sde_samplers.py"
VARIANCES = "tests/laws/test_variances_and_bound.py"
FORMULAS = "tests/laws/test_schedules_and_targets.py"
K_DIFFUSION = "tests/laws/test_k_diffusion.py"
CONVENTIONS = "tests/laws/test_eta_and_clipping.py"
DENOISER = "tests/unit/diffusion/test_denoiser.py"
INVERSE = "tests/laws/test_inverse.py"
POSTERIORS = "tests/laws/test_posteriors.py"
CALIBRATED = "tests/laws/test_posterior_calibration.py"
OPERATORS = "tests/laws/test_operators.py"
PRECONDITIONED = "tests/laws/test_conjugate_gradients.py"
COUNTED = "tests/laws/test_count_denoising.py"
COUNT_NOISE = "tests/unit/evaluation/test_count_noise.py"
TRAPS = "tests/laws/test_benchmark_traps.py"
MRI = "tests/unit/physics/test_mri.py"
CT = "tests/unit/physics/test_ct.py"
LEFT_NOISE = "tests/laws/test_no_noise_is_left.py"


@dataclass(frozen=True)
class Mutation:
    """One wrong formula: `old` (its first place in the file) becomes `new`; `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """Whether the tests failed, and the first that did."""

    mutation: Mutation
    caught_by: str

    @property
    def caught(self) -> bool:
        """Whether some test failed."""
        return bool(self.caught_by)


def recording(*names: str) -> tuple[str, ...]:
    """The tests that replay these recordings."""
    return tuple(f"{REPLAY}::test_a_recording_is_followed[{name}]" for name in names)


MUTATIONS = (
    Mutation(
        "1 - alpha-bar for sqrt(1 - alpha-bar)",
        "diffusion/schedules.py",
        "return NoiseLevel(t, log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt())",
        "return NoiseLevel(t, log_alpha.exp(), -torch.expm1(2 * log_alpha))",
        (FORMULAS,),
    ),
    Mutation(
        "beta for beta-tilde",
        "diffusion/variance.py",
        "return to.sigma**2 * renewed(now, to)",
        "return now.sigma**2 * renewed(now, to)",
        recording("gd_ddpm_linear_10_fixed_small"),
    ),
    Mutation(
        "no factor 2 in annealed Langevin",
        "diffusion/samplers/langevin.py",
        "math.sqrt(2 * share)",
        "math.sqrt(share)",
        (SDE, "-k", "langevin"),
    ),
    Mutation(
        "a Langevin chain keeps (1 - c k)^T of an excess of variance",
        "diffusion/samplers/langevin_chain.py",
        "(1 - moved).abs() ** (2 * length)",
        "(1 - moved).abs() ** length",
        ("tests/laws/test_langevin_chain.py", "-k", "excess_is"),
    ),
    Mutation(
        "a Langevin chain forgets the hops before the last",
        "diffusion/samplers/langevin_chain.py",
        "brought = left + torch",
        "brought = torch",
        ("tests/laws/test_langevin_chain.py", "-k", "excess_is"),
    ),
    Mutation(
        "predictor before corrector",
        "diffusion/samplers/sde.py",
        "return self.predict(denoise, self.correct(denoise, x, now, to, at), now, to, at), None",
        "return self.correct(denoise, self.predict(denoise, x, now, to, at), now, to, at), None",
        recording("sde_vp_reverse_diffusion_langevin_200"),
    ),
    Mutation(
        "x for its mean as the result",
        "diffusion/samplers/sde.py",
        'if ends or self.dynamics == "flow":',
        'if self.dynamics == "flow":',
        recording("sde_vp_euler_maruyama_none_200"),
    ),
    Mutation(
        "the grid's step for 1 / N",
        "diffusion/samplers/sde.py",
        'now.t - to.t if self.discretisation == "path" else torch.full_like(now.t, 1 / at.count)',
        "now.t - to.t",
        recording("sde_vp_euler_maruyama_none_200"),
    ),
    Mutation(
        "floor index off by one",
        "diffusion/samplers/sde.py",
        "place = (now.t * (at.count - 1)).floor() / (at.count - 1)",
        "place = ((now.t * (at.count - 1)).floor() - 1) / (at.count - 1)",
        recording("sde_vp_reverse_diffusion_none_200"),
    ),
    Mutation(
        "noise kept after clipping where it is re-derived",
        "diffusion/denoiser.py",
        'clean, eps_of(x, clean, level) if eps == "rederive" else raw.eps, raw.spread',
        'clean, eps_of(x, clean, level) if eps == "keep" else raw.eps, raw.spread',
        (CONVENTIONS,),
    ),
    Mutation(
        "DDIM's eta in sigma^2, not sigma",
        "diffusion/samplers/ddim.py",
        "return self.eta**2 * renewed",
        "return self.eta * renewed",
        (CONVENTIONS,),
    ),
    Mutation(
        "lambda twice",
        "diffusion/levels.py",
        "return self.alpha.log() - self.sigma.log()",
        "return 2 * (self.alpha.log() - self.sigma.log())",
        (FORMULAS,),
    ),
    Mutation(
        "phi_2 with the other sign",
        "diffusion/samplers/exponential.py",
        'weight = hop.weight(1) / 2 if rule == "midpoint" else hop.weight(2)',
        'weight = hop.weight(1) / 2 if rule == "midpoint" else -hop.weight(2)',
        (SAMPLERS, "-k", "order and taylor"),
    ),
    Mutation(
        "r_0 = h / h_prev",
        "diffusion/samplers/dpm_solver_pp.py",
        "gaps = [half_log_snr_gap(past.levels[1], past.levels[0]) / hop.gap]",
        "gaps = [hop.gap / half_log_snr_gap(past.levels[1], past.levels[0])]",
        recording("kd_dpmpp_2m_karras_20"),
    ),
    Mutation(
        "UniPC does not correct the last hop but one",
        "diffusion/samplers/unipc.py",
        "            if self.corrector:",
        "            if self.corrector and len(at.ahead) > 1:",
        recording("unipc_vp_linear_bh2_x0_2_logSNR_5"),
    ),
    Mutation(
        "Karras's rho for 1 / rho",
        "diffusion/times.py",
        "(-end / self.rho).exp()",
        "(-end * self.rho).exp()",
        recording("edm_heun_10"),
    ),
    Mutation(
        "churn not capped",
        "diffusion/samplers/edm.py",
        "gain = min(options.churn / at.count, math.sqrt(2) - 1)",
        "gain = options.churn / at.count",
        (*recording("edm_churn_10", "kd_heun_churn_10"), K_DIFFUSION),
    ),
    Mutation(
        "the last Heun hop not an Euler one",
        "diffusion/samplers/edm.py",
        "if to.is_clean or self.order == 1:\n            return ddim_hop(here, to), None",
        "if self.order == 1:\n            return ddim_hop(here, to), None",
        recording("edm_churn_10"),
    ),
    Mutation(
        "covariance not held from above",
        "diffusion/variance.py",
        ".clamp(0, most)",
        ".clamp_min(0)",
        (VARIANCES, *recording("ext_sn_ddim_linear_10_err0.0"), REPLAY),
    ),
    Mutation(
        "covariance not held from below",
        "diffusion/variance.py",
        ".clamp(0, most)",
        ".clamp_max(most)",
        (VARIANCES, REPLAY),
    ),
    Mutation(
        "last noisy hop not held",
        "diffusion/samplers/ancestral.py",
        "if last_noise is not None and at.index == at.count - 2:",
        "if last_noise is not None and at.index == at.count:",
        recording("analytic_ddpm_linear_10"),
    ),
    Mutation(
        "noise at t = 0",
        "diffusion/sampling.py",
        "            x = denoise(x, now).clean\n",
        "            x = denoise(x, now).clean\n"
        "            x = x if noise is None else x + scale(now.sigma, x) * at.noise()\n",
        recording("gd_ddpm_linear_10_fixed_small"),
    ),
    Mutation(
        "respacing truncates",
        "diffusion/steps.py",
        "chosen.append(1 + first + round(place))",
        "chosen.append(1 + first + int(place))",
        recording("respacing"),
    ),
    Mutation(
        "leading steps end at step 1",
        "diffusion/steps.py",
        "return [1 + (table // steps) // 2, *",
        "return [1, *",
        (LEFT_NOISE,),
    ),
    Mutation(
        "reverse diffusion's last noisy hop not held",
        "diffusion/samplers/sde.py",
        "noise = torch.minimum(forward.added, to.sigma**2) if last else forward.added",
        "noise = forward.added",
        (LEFT_NOISE, "-k", "PredictorCorrector"),
    ),
    Mutation(
        "v with the other sign",
        "diffusion/targets.py",
        "return level.alpha / power, -level.sigma / power",
        "return level.alpha / power, level.sigma / power",
        (FORMULAS,),
    ),
    Mutation(
        "guidance w for 1 + w",
        "diffusion/guidance.py",
        "clean = base.clean + guidance_scale * (aim.clean - base.clean)",
        "clean = aim.clean + guidance_scale * (aim.clean - base.clean)",
        (DENOISER, *recording("dpm_wrapper_vp_linear")),
    ),
    Mutation(
        "alpha of a table in VE's Langevin step",
        "diffusion/samplers/sde.py",
        "return Forward(torch.ones_like(high), high**2 - low**2)",
        "return Forward(torch.where(low > 0, low / high, 1.0), high**2 - low**2)",
        recording("sde_ve_reverse_diffusion_langevin_200"),
    ),
    Mutation(
        "learned range with its ends exchanged",
        "diffusion/variance.py",
        "(share * high + (1 - share) * low).exp()",
        "(share * low + (1 - share) * high).exp()",
        recording("gd_ddpm_cosine_10_learned_range"),
    ),
    Mutation(
        "guidance by a reference without noise",
        "diffusion/semantic.py",
        "noised = diffuse(self.reference, now, at.noise(REFERENCE_DRAW))",
        "noised = self.reference",
        recording("sdg_sample_style_10"),
    ),
    Mutation(
        "purification noises to the path's first level always",
        "diffusion/purify.py",
        "x = diffuse(x, path[0] if noised is None else noised, eps)",
        "x = diffuse(x, path[0], eps)",
        recording("diffpure2_ddpm_t40_fixedsmall", "diffpure2_sde_t100_dt5e-3_randt"),
    ),
    Mutation(
        "DPS's norm over the batch where it is an image's own",
        "inverse/dps.py",
        'if self.options.norms == "batch":',
        "if True:",
        (INVERSE, "-k", "members"),
    ),
    Mutation(
        "DPS squares its norm",
        "inverse/dps.py",
        'return size if self.options.distance == "norm" else size**2',
        "return size**2",
        recording("dps_step_t50"),
    ),
    Mutation(
        "DPS pushes the estimate's gradient without the network",
        "inverse/dps.py",
        "return pulled(denoise, x, now, self._slope)",
        "return denoise(x, now), self._slope(x)",
        (*recording("dps_step_t50"), INVERSE),
    ),
    Mutation(
        "DPS does not push the last hop",
        "inverse/dps.py",
        "return moved - self.options.step_size * push, memory",
        "return moved - self.options.step_size * push * (not to.is_clean), memory",
        (INVERSE, "-k", "last_hop"),
    ),
    Mutation(
        "PiGDM forgets r^2",
        "inverse/pigdm.py",
        "spread = per_image(variance, placed) * s**2 + per_image(std, placed) ** 2",
        "spread = s**2 + per_image(std, placed) ** 2",
        (*recording("dps_step_t50"), INVERSE),
    ),
    Mutation(
        "DDRM's measurement loses its noise twice",
        "inverse/ddrm.py",
        "left = (r**2 - (eta_b * std * inverse) ** 2).clamp_min(0).sqrt()",
        "left = (r**2 - eta_b * std * inverse).clamp_min(0).sqrt()",
        recording("ddrm_inpaint_50"),
    ),
    Mutation(
        "DDRM's residual not over its deviation",
        "inverse/ddrm.py",
        "of_residual * (y - s * clean), r, z",
        "y - s * clean, r, z",
        recording("ddrm_inpaint_50"),
    ),
    Mutation(
        "DDRM leaves a coefficient that is known exactly to the estimate",
        "inverse/ddrm.py",
        "s * r >= std,",
        "s * r > std,",
        (INVERSE, "-k", "satisfies"),
    ),
    Mutation(
        "moment matching takes PiGDM's variance for the covariance",
        "inverse/moment_matching.py",
        "linear.operator.forward(per_image(ratio, image) * image)",
        "linear.operator.forward(per_image(ratio, image) * linear.operator.adjoint(u))",
        (CALIBRATED, "-k", "moment_matching_draws"),
    ),
    Mutation(
        "DAPS draws without perturbing the measurement",
        "inverse/daps.py",
        "y = y + per_image(std, y) * measurement_noise(at, y, MEASURED)",
        "y = y + 0 * measurement_noise(at, y, MEASURED)",
        (POSTERIORS, "-k", "daps_draws"),
    ),
    Mutation(
        "DDNM's noisy form forgets the measurement's noise",
        "inverse/ddnm.py",
        "brought = alpha * std * gain  # noise of y, in x_to",
        "brought = 0 * alpha * std * gain",
        (POSTERIORS, "-k", "noise_that_a_hop"),
    ),
    Mutation(
        "the Rician's gradient without the ratio of Bessel functions",
        "inverse/likelihoods.py",
        "in_phase = torch.special.i1e(z) / torch.special.i0e(z)",
        "in_phase = torch.ones_like(z)",
        (POSTERIORS, "-k", "gradient_is_the_log"),
    ),
    Mutation(
        "total variation's dual is the primal",
        "inverse/diffusion_mbir.py",
        "return x, Split(z, memory.u + steps - z)",
        "return x, Split(z, z)",
        ("tests/laws/test_volumes_by_slices.py",),
    ),
    Mutation(
        "coverage by uncorrected ranks",
        "evaluation/calibration.py",
        "return below / (len(draws) + 1), (below + equal + 1) / (len(draws) + 1)",
        "return below / len(draws), (below + equal).clamp_min(1e-3) / len(draws)",
        ("tests/unit/evaluation/test_calibration.py",),
    ),
    Mutation(
        "what conjugate gradients leave is left",
        "inverse/moment_matching.py",
        "return image + share * linear.operator.adjoint(white(left) / power)",
        "return image",
        (CALIBRATED, "-k", "conjugate_gradients_leave"),
    ),
    Mutation(
        "conjugate gradients forget the preconditioner in their step",
        "physics/iterative.py",
        "return towards, real_inner(residual, towards)",
        "return towards, _power(residual)",
        (PRECONDITIONED,),
    ),
    Mutation(
        "one step length for the batch",
        "physics/iterative.py",
        "length = torch.where(active & (curvature > 0), power / curvature, zero)",
        "length = (power.sum() / curvature.sum()).expand_as(power)",
        (PRECONDITIONED,),
    ),
    Mutation(
        "a proximal step without rho before its centre",
        "physics/iterative.py",
        "self.adjoint(y) + weight * z, z",
        "self.adjoint(y) + z, z",
        (OPERATORS, "-k", "no_gradient_left"),
    ),
    Mutation(
        "coils combined without their conjugate",
        "physics/mri.py",
        "seen = self._conjugate * images",
        "seen = self._sensitivity * images",
        (OPERATORS, "-k", "adjoint_is_exact"),
    ),
    Mutation(
        "a mask shifted the other way where a grid is odd",
        "physics/fourier.py",
        "ordered = torch.fft.ifftshift(gain",
        "ordered = torch.fft.fftshift(gain",
        (OPERATORS, "-k", "normal_map"),
    ),
    Mutation(
        "steps of conjugate gradients after the last one move images",
        "physics/iterative.py",
        "active = active & (left > limit)",
        "active = left > -limit",
        ("tests/laws/test_waiting.py", "-k", "change_no_image"),
    ),
    Mutation(
        "a Fourier transform that is not unitary",
        "physics/fourier.py",
        'torch.fft.fftn(moved, dim=axes, norm="ortho")',
        "torch.fft.fftn(moved, dim=axes)",
        (MRI, "-k", "unitary"),
    ),
    Mutation(
        "a Fourier transform that is not centred",
        "physics/fourier.py",
        "moved = torch.fft.ifftshift(x, dim=axes)",
        "moved = x",
        (MRI, "-k", "centred"),
    ),
    Mutation(
        "a projector whose gradient is the projector",
        "physics/ct.py",
        "return _Multiplied.apply(gradients[0], ctx.transpose, ctx.matrix), None, None",
        "return _Multiplied.apply(gradients[0], ctx.matrix, ctx.transpose), None, None",
        (CT, "-k", "gradients"),
    ),
    Mutation(
        "Parker's weights with the fan the other way",
        "physics/fbp.py",
        "first = (margin - gamma).clamp_min(1e-9)",
        "first = (margin + gamma).clamp_min(1e-9)",
        (CT, "-k", "disc_comes_back"),
    ),
    Mutation(
        "emission's variance is the rate squared",
        "inverse/likelihoods.py",
        "return (measurement - self.background) / scale, rate.sqrt() / scale",
        "return (measurement - self.background) / scale, rate / scale",
        (POSTERIORS, "-k", "has_the_likelihood"),
    ),
    Mutation(
        "transmission by the logarithm of its counts",
        "inverse/likelihoods.py",
        "target = p + (rate - measurement) / through",
        "target = integrals",
        (COUNTED, "-k", "no_bias"),
    ),
    Mutation(
        "the algebraic inverse of Anscombe's root",
        "evaluation/count_noise.py",
        "return np.where(mean > means[-1], far, np.interp(mean, means, rates))",
        "return np.asarray(mean) ** 2 / 4 - 3 / 8",
        (COUNT_NOISE,),
    ),
    Mutation(
        "counts have the noise of their level added on top",
        "tasks/counted.py",
        "added = (s**2 - (w * v) ** 2).clamp_min(0).sqrt()",
        "added = s.expand_as(v)",
        (COUNTED, "-k", "noise_that_the_prior"),
    ),
    Mutation(
        "stratified phases that all are the first",
        "tasks/magnitudes.py",
        "quantile = (torch.special.ndtr(unit.double()) + part) % 1",
        "quantile = torch.special.ndtr(unit.double())",
        ("tests/unit/tasks/test_denoise.py",),
    ),
    Mutation(
        "inverse crime: measured on the voxels themselves",
        "tasks/simulate.py",
        "FINER = 2",
        "FINER = 1",
        (TRAPS,),
    ),
    Mutation(
        "Hermitian crime: images without a phase",
        "tasks/simulate.py",
        "PHASE_SPREAD = 1.0",
        "PHASE_SPREAD = 0.0",
        (TRAPS,),
    ),
    Mutation(
        "denoisers tuned on the scans that are reported",
        "tasks/restoration.py",
        "cases = bench.validation[:TUNING_CASES]",
        "cases = bench.test[:TUNING_CASES]",
        (TRAPS,),
    ),
    Mutation(
        "rivals tuned on the scans that are reported",
        "tasks/settings.py",
        "cases = bench.validation[:TUNING_CASES]",
        "cases = bench.test[:TUNING_CASES]",
        (TRAPS,),
    ),
    Mutation(
        "in-head metrics of the whole image",
        "tasks/restoration.py",
        "psnr(estimate, clean, data_range=1.0, region=head)",
        "psnr(estimate, clean, data_range=1.0)",
        (TRAPS,),
    ),
    Mutation(
        "twice the data range for SSIM",
        "tasks/restoration.py",
        '"ssim": ssim(estimate, clean, data_range=1.0)',
        '"ssim": ssim(estimate, clean, data_range=2.0)',
        (TRAPS,),
    ),
    Mutation(
        "the residual over the measurement's norm",
        "tasks/base.py",
        "expected = self.noise_std[chosen] * self.count[chosen].sqrt()",
        "expected = self.values[chosen].flatten(1).norm(dim=1).double()",
        (TRAPS,),
    ),
    Mutation(
        "an adjoint that is an inverse",
        "physics/image.py",
        "return self._unblocked((y / self._size)[..., None]",
        "return self._unblocked(y[..., None]",
        (OPERATORS,),
    ),
)


def main(arguments: list[str]) -> int:
    table = Path(arguments[1]) if arguments[:1] == ["--table"] else None
    names = set(arguments[2:] if table else arguments)
    verdicts = []
    for mutation in MUTATIONS:
        if not names or mutation.name in names:
            verdicts.append(try_mutation(mutation))
            caught = verdicts[-1].caught_by or "MISSED"
            print(f"{mutation.name:<55} {caught}", flush=True)
            if table is not None:
                table.write_text(page(verdicts, table.read_text() if table.is_file() else ""))
    return int(any(not verdict.caught for verdict in verdicts))


def try_mutation(mutation: Mutation) -> Verdict:
    """Run the mutation's tests on a mutated copy.

    Errors: ValueError if the old text is gone or pytest could not run the tests.
    """
    with tempfile.TemporaryDirectory(prefix="mutation-") as place:
        folder = Path(place)
        for part in ("medidiff", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        mutate(folder / "medidiff" / mutation.file, mutation)
        return Verdict(mutation, first_failure(folder, mutation.tests))


def mutate(file: Path, mutation: Mutation) -> None:
    """Put the new text in the place of the old. Errors: ValueError if there is no old text."""
    text = file.read_text()
    if mutation.old not in text:
        raise ValueError(f"{mutation.file} no longer holds the text of {mutation.name!r}")
    file.write_text(text.replace(mutation.old, mutation.new, 1))


def first_failure(folder: Path, tests: tuple[str, ...]) -> str:
    """The first test that fails in a folder, or nothing. Errors: ValueError if none was run."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise ValueError(f"pytest could not run {tests}: {done.stdout[-500:]}{done.stderr[-500:]}")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    return failed[0].removeprefix("FAILED ").split(" - ")[0] if failed else ""


def page(verdicts: list[Verdict], before: str = "") -> str:
    """docs/mutations.md, with the lines of an earlier one for mutations without a verdict."""
    known = {line.split(" | ")[0].removeprefix("| "): line for line in before.splitlines()}
    for verdict in verdicts:
        mutation = verdict.mutation
        caught = f"`{verdict.caught_by}`" if verdict.caught else "**missed**"
        known[mutation.name] = f"| {mutation.name} | `{mutation.file}` | {caught} |"
    lines = [
        "# Mutations",
        "",
        "Classical mistakes of diffusion code, each made once in a copy of the package by",
        "`python tests/reference/mutations.py --table docs/mutations.md`, and the first test that",
        "failed for it.",
        "",
        "| mistake | file | caught by |",
        "| --- | --- | --- |",
        *(known[each.name] for each in MUTATIONS if each.name in known),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
