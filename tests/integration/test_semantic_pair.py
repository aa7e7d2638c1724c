"""Language guidance with a pair of encoders that is trained here, on drawn phantoms and words.

The phantoms are round heads with a lesion on one side that is bright or dark; their descriptions
are its two words. A noise-aware image encoder and a word encoder are trained on pairs as CLIP is,
the image noised to a random level. Guided by a description, samples of the phantoms' exact prior
move to what it says.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from medidiff.conformance.oracles import Mixture
from medidiff.diffusion import (
    DDPM,
    KeyedNoise,
    NoiseLevel,
    UniformLogSNR,
    VPLinear,
    diffuse,
    path,
    sample,
    start,
)
from medidiff.diffusion.semantic import Guided, content, text

pytestmark = pytest.mark.slow

SIZE = 12
WORDS = ["left", "right", "bright", "dark"]
KINDS = [(side, shade) for side in ("left", "right") for shade in ("bright", "dark")]
ROWS = (-1, 0, 1)
WEIGHT = 200.0
"""Of the aim against the prior: the cosine is at most 1, and log-likelihoods differ by more."""


def phantom(side: str, shade: str, row: int) -> Tensor:
    """(1, SIZE, SIZE) in [-1, 1]: background -1, head -0.2, lesion 0.8 or -0.9."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    middle = (SIZE - 1) / 2
    head = ((y - middle) ** 2 + (x - middle) ** 2) < (SIZE / 2 - 0.5) ** 2
    column = middle + (-2.5 if side == "left" else 2.5)
    lesion = ((y - middle - 1.5 * row) ** 2 + (x - column) ** 2) < 2.2**2
    image = torch.where(head, -0.2, -1.0).double()
    return torch.where(lesion, 0.8 if shade == "bright" else -0.9, image)[None].double()


MEANS = torch.stack([phantom(*kind, row) for kind in KINDS for row in ROWS])
KIND_OF = torch.arange(len(KINDS)).repeat_interleave(len(ROWS))
PRIOR = Mixture(
    torch.full((len(MEANS),), 1 / len(MEANS), dtype=torch.float64),
    MEANS,
    torch.full_like(MEANS, 0.05**2),
)


class ImageEncoder(nn.Module):
    """A `NoisyEncoder`: two convolutions, scaled and shifted by the level, and an embedding."""

    def __init__(self, width: int = 16, embedding: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.film = nn.Linear(2, 2 * width)
        self.out = nn.Linear(width * (SIZE // 2) ** 2, embedding)

    def forward(self, x: Tensor, level: NoiseLevel) -> tuple[Sequence[Tensor], Tensor]:
        dtype = self.out.weight.dtype
        place = torch.stack([level.alpha, level.sigma], -1).to(dtype).expand(len(x), 2)
        gain, shift = self.film(place)[..., None, None].chunk(2, 1)
        shallow = torch.relu((1 + gain) * self.first(x.to(dtype)) + shift)
        deep = torch.relu(self.second(shallow))
        return [shallow, deep], self.out(deep.flatten(1))


class WordEncoder(nn.Module):
    """The mean of its words' vectors, in the space of the image's embedding."""

    def __init__(self, embedding: int = 8) -> None:
        super().__init__()
        self.vectors = nn.Embedding(len(WORDS), embedding)

    def forward(self, description: str) -> Tensor:
        index = torch.tensor([WORDS.index(word) for word in description.split()])
        return self.vectors(index).mean(0)


TEXTS = ([" ".join(kind) for kind in KINDS], WORDS[:2], WORDS[2:])


def matched(ours: Tensor, words: WordEncoder, texts: list[str], kinds: Tensor) -> Tensor:
    """How well each image finds its text among the others: cross entropy of ten cosines."""
    says = [[set(text.split()) <= set(kind) for text in texts].index(True) for kind in KINDS]
    theirs = nn.functional.normalize(torch.stack([words(text) for text in texts]), dim=1)
    return nn.functional.cross_entropy(10 * ours @ theirs.T, torch.tensor(says)[kinds])


@pytest.fixture(scope="module")
def pair() -> tuple[ImageEncoder, WordEncoder]:
    """The pair after some hundred steps on noised phantoms, frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images, words = ImageEncoder(), WordEncoder()
    optimiser = torch.optim.Adam([*images.parameters(), *words.parameters()], lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        chosen = torch.randint(len(MEANS), (64,), generator=generator)
        levels = VPLinear()(0.02 + 0.9 * torch.rand(64, dtype=torch.float64, generator=generator))
        eps = torch.randn((64, 1, SIZE, SIZE), dtype=torch.float64, generator=generator)
        ours = nn.functional.normalize(
            images(diffuse(MEANS[chosen], levels, eps), levels)[1], dim=1
        )
        loss = sum(matched(ours, words, texts, KIND_OF[chosen]) for texts in TEXTS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return images.eval().requires_grad_(False), words.requires_grad_(False)


def drawn(sampler: object, count: int = 48) -> Tensor:
    """The kinds of images of the prior, by the component that each belongs to."""
    levels, noise = (
        path(UniformLogSNR(), VPLinear(), 40),
        KeyedNoise(0, [("s", i) for i in range(count)]),
    )
    x = start(levels[0], noise, torch.zeros((count, 1, SIZE, SIZE), dtype=torch.float64))
    found = sample(PRIOR, x, levels, sampler, noise, VPLinear())  # type: ignore[arg-type]
    assert float((found[:, None] - MEANS).square().mean((2, 3, 4)).min(1).values.max()) < 0.02
    return KIND_OF[(found[:, None] - MEANS).square().flatten(2).sum(2).argmin(1)]


def test_without_guidance_every_kind_is_drawn() -> None:
    share = torch.bincount(drawn(DDPM()), minlength=len(KINDS)) / 48
    assert float(share.max()) < 0.5


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_words_move_the_samples_to_what_they_say(
    pair: tuple[ImageEncoder, WordEncoder], kind: int
) -> None:
    images, words = pair
    aim = text(images, words(" ".join(KINDS[kind])).double())
    guided = Guided(DDPM(), lambda *inputs: WEIGHT * aim(*inputs))
    assert float((drawn(guided) == kind).double().mean()) > 0.7  # 0.25 without guidance


def test_one_word_leaves_the_other_open(pair: tuple[ImageEncoder, WordEncoder]) -> None:
    images, words = pair
    aim = text(images, words("left").double())
    found = drawn(Guided(DDPM(), lambda *inputs: WEIGHT * aim(*inputs)))
    sides = torch.tensor([kind[0] == "left" for kind in KINDS])[found]
    shades = torch.tensor([kind[1] == "bright" for kind in KINDS])[found].double().mean()
    assert float(sides.double().mean()) > 0.8
    assert 0.15 < float(shades) < 0.85


def test_a_reference_moves_the_samples_to_its_content(
    pair: tuple[ImageEncoder, WordEncoder],
) -> None:
    aim = content(pair[0])
    reference = MEANS[KIND_OF == 2][:1].expand(48, -1, -1, -1)
    found = drawn(Guided(DDPM(), lambda *inputs: WEIGHT * aim(*inputs), reference))
    assert float((found == 2).double().mean()) > 0.8
