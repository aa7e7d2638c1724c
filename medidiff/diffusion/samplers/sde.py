"""Score SDE: predictors and correctors. Song et al. 2021 (arXiv:2011.13456)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, scale
from medidiff.diffusion.sampling import Step
from medidiff.diffusion.schedules import VE, Schedule, VPLinear
from medidiff.diffusion.variance import small_variance
from medidiff.types import Image, Tensor


@dataclass(frozen=True, eq=False)
class Forward:
    """One step of the forward process, x_now = ratio * x_to + sqrt(added) * noise."""

    ratio: Tensor
    added: Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """A predictor's hop: of_x * x + of_eps * eps + of_clean * clean, and noise of a variance."""

    of_x: Tensor
    of_eps: Tensor
    of_clean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class PredictorCorrector:
    """Langevin steps at a level, then one step of the reverse SDE (or flow) to the next.

    Source: Song et al. 2021 (arXiv:2011.13456), section 4 and appendices E to G. The corrector
    goes first, at the same level, as in the authors' code.
    Differs: by default each hop is as long as the path says, the norms of the Langevin step are
    each image's own, ancestral noise is the posterior's (the authors' VP form adds beta), the hop
    onto the clean level is a plain denoise, and reverse diffusion's last noisy hop adds no more
    noise than its level holds: the denoise would leave the rest in the image. The authors' own are
    named by `discretisation` and `norms`. Where alpha is 0 the SDE has no finite coefficients: that
    hop is an ancestral one (DDIM for the flow).
    """

    kind: Literal["predictor-corrector"] = "predictor-corrector"
    predictor: Literal["reverse-diffusion", "ancestral", "euler-maruyama", "none"] = (
        "reverse-diffusion"
    )
    """How the reverse SDE is stepped: reverse diffusion; ancestral; Euler-Maruyama."""
    corrector: Literal["langevin", "annealed", "none"] = "langevin"
    """Langevin steps by the norms of noise and score (appendix G), or by sigma alone."""
    corrector_steps: int = 1
    """Langevin steps at each level."""
    snr: float = 0.16
    """Ratio of signal to noise of a Langevin step (the paper's r)."""
    norms: Literal["sample", "batch"] = "sample"
    """Whose norms size the Langevin step: each image's, or their mean over the batch as in the
    authors' code, which makes an image depend on the others drawn with it."""
    dynamics: Literal["sde", "flow"] = "sde"
    """The reverse SDE or the probability flow (eq. 13): half the score, no noise."""
    discretisation: Literal["path", "fixed"] = "path"
    """path: each hop from its level to the next. fixed: the authors' step of 1 / N of unit time for
    a path of N hops whatever its times, tables of N levels read at floor(t (N - 1)), and the
    predictor's mean as the result."""

    def __post_init__(self) -> None:
        if self.corrector_steps < 1 or not self.snr > 0:
            raise ValueError(
                "predictor-corrector needs corrector_steps >= 1 and snr > 0, got "
                f"{self.corrector_steps}, {self.snr}"
            )
        if self.predictor == "ancestral" and self.dynamics == "flow":
            raise ValueError(
                "the ancestral predictor draws noise: with dynamics 'flow' use "
                "'reverse-diffusion' or 'euler-maruyama'"
            )

    @property
    def finishes(self) -> bool:
        """The corrector acts at the last noisy level, too."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Correct, then predict."""
        return self.predict(denoise, self.correct(denoise, x, now, to, at), now, to, at), None

    def correct(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, at: Step
    ) -> Image:
        """Langevin steps at `now`; its noises are draws 0, 1, ..."""
        if self.corrector == "none":
            return x
        alpha = self._forward(now, to, at).ratio ** 2
        for draw in range(self.corrector_steps):
            noise, here = at.noise(draw), denoise(x, now)
            size = self._langevin_size(here, now, alpha, noise)
            x = x - size / scale(now.sigma, x) * here.eps + (2 * size).sqrt() * noise
        return x

    def predict(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, at: Step
    ) -> Image:
        """One reverse step from `now` to `to`; its noise is the draw after the corrector's."""
        fixed, ends = self.discretisation == "fixed", to.is_clean
        if ends and not fixed:
            return denoise(x, now).clean
        if self.predictor == "none":
            return x
        here, hop = denoise(x, now), self._prediction(now, to, at)
        mean = scale(hop.of_x, x) * x + scale(hop.of_eps, x) * here.eps
        mean = mean + scale(hop.of_clean, x) * here.clean
        if ends or self.dynamics == "flow":
            return mean
        draw = self.corrector_steps if self.corrector != "none" else 0
        return mean + scale(hop.variance.sqrt(), x) * at.noise(draw)

    def _langevin_size(
        self, here: Estimate, now: NoiseLevel, alpha: Tensor, noise: Image
    ) -> Tensor:
        """2 alpha (r |z| / |score|)^2, or 2 alpha (r sigma)^2; broadcasts over the image."""
        doubled = scale(2 * alpha * (self.snr * now.sigma) ** 2, noise)
        if self.corrector == "annealed":
            return doubled
        of_noise, of_eps = _norms(noise), _norms(here.eps)
        if self.norms == "batch":
            # the score's norms are averaged, and sigma is in them where levels differ
            sigma = scale(now.sigma, noise)
            of_noise, of_eps = of_noise.mean(), (of_eps / sigma).mean() * sigma
        return doubled * torch.where(of_eps == 0, 0.0, of_noise / of_eps) ** 2

    def _prediction(self, now: NoiseLevel, to: NoiseLevel, at: Step) -> Prediction:
        half = 0.5 if self.dynamics == "flow" else 1.0
        none = torch.zeros_like(now.sigma)
        if self.predictor == "ancestral":
            hop = self._ancestral(now, to, at)
        elif self.predictor == "reverse-diffusion":
            forward = self._forward(now, to, at)
            of_eps = -half * forward.added / now.sigma
            last = self.discretisation == "path" and bool(at.ahead) and at.ahead[0].is_clean
            noise = torch.minimum(forward.added, to.sigma**2) if last else forward.added
            hop = Prediction(2 - forward.ratio, of_eps, none, noise)
        else:
            drift, added = self._euler(now, to, at)
            hop = Prediction(1 - drift, -half * added / now.sigma, none, added)
        if self.discretisation == "fixed" or not bool((now.alpha == 0).any()):
            return hop
        return _from_pure_noise(hop, now, to, self.dynamics)

    def _ancestral(self, now: NoiseLevel, to: NoiseLevel, at: Step) -> Prediction:
        """(x + added * score) / ratio: the mean of q(x_to | x_now, clean)."""
        forward, none = self._forward(now, to, at), torch.zeros_like(now.sigma)
        of_x = 1 / forward.ratio
        of_eps = -forward.added / now.sigma * of_x
        if self.discretisation == "path":
            return Prediction(of_x, of_eps, none, small_variance(now, to))
        if isinstance(at.schedule, VE):
            left = _table_sigma(at.schedule, now, at.count)[0] ** 2
            return Prediction(of_x, of_eps, none, (left - forward.added) * forward.added / left)
        return Prediction(of_x, of_eps, none, forward.added)

    def _forward(self, now: NoiseLevel, to: NoiseLevel, at: Step) -> Forward:
        if self.discretisation == "path":
            ratio = now.alpha / to.alpha
            return Forward(ratio, now.sigma**2 - (ratio * to.sigma) ** 2)
        schedule = _schedule(at)
        if at.count < 2:
            raise ValueError("the fixed discretisation needs a path of at least 2 hops")
        if isinstance(schedule, VPLinear):
            place = (now.t * (at.count - 1)).floor() / (at.count - 1)
            beta = schedule.diffusion(place) / at.count
            if bool((beta > 1).any()):
                raise ValueError(
                    f"the fixed discretisation of vp-linear needs a path of at least "
                    f"beta_max = {schedule.beta_max:g} hops, got {at.count}"
                )
            return Forward((1 - beta).sqrt(), beta)
        if isinstance(schedule, VE):
            high, low = _table_sigma(schedule, now, at.count)
            return Forward(torch.ones_like(high), high**2 - low**2)
        drift, added = self._euler(now, to, at)
        return Forward(1 + drift, added)

    def _euler(self, now: NoiseLevel, to: NoiseLevel, at: Step) -> tuple[Tensor, Tensor]:
        """drift and diffusion at `now`, times the length of the hop."""
        schedule = _schedule(at)
        length = (
            now.t - to.t if self.discretisation == "path" else torch.full_like(now.t, 1 / at.count)
        )
        if not bool((length > 0).all()):
            raise ValueError("Euler-Maruyama steps in time: this path's do not fall")
        return schedule.drift(now.t) * length, schedule.diffusion(now.t) * length


def _schedule(at: Step) -> Schedule:
    if at.schedule is None:
        raise ValueError("this predictor needs the SDE: give sample() or walk() the schedule")
    return at.schedule


def _table_sigma(schedule: VE, now: NoiseLevel, count: int) -> tuple[Tensor, Tensor]:
    """sigma_i and sigma_(i-1) of a table of `count` levels, i = floor(t (count - 1)); 0 below."""
    place = (now.t * (count - 1)).floor()
    below = schedule((place - 1).clamp_min(0) / (count - 1)).sigma
    return schedule(place / (count - 1)).sigma, torch.where(place > 0, below, 0.0)


def _from_pure_noise(
    hop: Prediction, now: NoiseLevel, to: NoiseLevel, dynamics: Literal["sde", "flow"]
) -> Prediction:
    """`hop` where there is signal, and DDPM's (DDIM's for the flow) where alpha is 0."""
    silent = now.alpha == 0
    flow = dynamics == "flow"
    return Prediction(
        torch.where(silent, 0.0, hop.of_x),
        torch.where(silent, to.sigma if flow else 0.0, hop.of_eps),
        torch.where(silent, to.alpha, hop.of_clean),
        torch.where(silent, to.sigma**2, hop.variance),
    )


def _norms(field: Image) -> Tensor:
    """The Euclidean norm of each image, shaped to broadcast over it."""
    return torch.linalg.vector_norm(field, dim=tuple(range(1, field.ndim)), keepdim=True)
