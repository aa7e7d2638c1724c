"""The whole shape of a training configuration: YAML over the packages' own frozen option
dataclasses.

A file states only what differs from the defaults. Unknown keys are errors with a suggestion, every
problem is reported in one pass with file and key, and nothing in a file is executed: no tags, no
references.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import Field

from medidiff import options
from medidiff.changes import MANIFEST, parse_change, put
from medidiff.data.options import AnyIntensity, Augment, Percentile, Slices, Space
from medidiff.diffusion import (
    DDPM,
    AnySchedule,
    AnyTarget,
    AnyTimes,
    AnyWeight,
    Cosine,
    UniformTimes,
    UniformWeight,
    V,
)
from medidiff.errors import ConfigError
from medidiff.networks import (
    AnyCodec,
    AnyNetwork,
    AutoencoderCodec,
    AutoencoderOptions,
    IdentityCodec,
    UNetOptions,
)
from medidiff.option_problems import shown
from medidiff.spec import SamplingOptions
from medidiff.training.losses import AnyObjective, Denoising, check_objective
from medidiff.training.objectives.alignment import Alignment
from medidiff.training.objectives.autoencoder import Autoencoding
from medidiff.training.objectives.classifier import Classifier
from medidiff.training.objectives.consistency import ConsistencyTraining
from medidiff.training.objectives.importance import Importance
from medidiff.training.objectives.spread import Spread
from medidiff.training.options import TrainOptions


@dataclass(frozen=True)
class PatchOptions:
    """Training on a patch of each image at a random place; the network is told where it lies."""

    size: tuple[int, ...]
    """Length along each axis, in voxels of the network's grid (with a codec: of its latents). A
    model draws and denoises whole images in one pass all the same."""

    def __post_init__(self) -> None:
        if not self.size or min(self.size) < 1:
            raise ValueError(f"size has positive numbers, not {self.size}")


@dataclass(frozen=True)
class DataOptions:
    """Which scans, on which grid, in which units."""

    manifest: str
    """CSV or JSON manifest; relative to the configuration file, in a change to the working
    folder."""
    space: Space
    """The grid that every image is brought to."""
    slices: Slices | None = None
    """Train a 2-D model on slices of volumes; not given, images are taken as they are."""
    images: tuple[str, ...] = ("image",)
    """Image columns of the manifest; each becomes a channel."""
    conditions: tuple[str, ...] = ()
    """Number or category columns of the manifest that the model is conditioned on."""
    intensity: Annotated[AnyIntensity, Field(discriminator="kind")] = Percentile()
    augment: Augment = Augment()
    patch: PatchOptions | None = None
    """Train on patches, for images that are too large to be trained on whole."""
    train_split: str = "train"
    validation_split: str = "val"
    holdout: float = 0.0
    """Without a validation split in the manifest: this share of the train subjects, chosen by a
    hash of the subject, is held out for validation."""
    cache: Literal["memory", "disk", "none"] = "memory"
    """Keep prepared images in memory; or on disk, from one training to the next and shared by all
    processes of a machine (`medidiff cache`); or read them again each time."""
    workers: int = 2
    """Threads that read scans: all at the start, or with cache "none" those of each batch."""

    @property
    def channels(self) -> tuple[str, ...]:
        """What the network's image consists of: the images, or the slices of each in a slab."""
        return self.images if self.slices is None else self.slices.channels(self.images)

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("images must name at least one column")
        if not 0 <= self.holdout < 1:
            raise ValueError("holdout is a share of subjects between 0 and 1")
        if self.workers < 1:
            raise ValueError("workers must be at least 1")
        if self.patch is not None and len(self.patch.size) != self.space.dims:
            raise ValueError(f"patch.size has {self.space.dims} numbers, not {self.patch.size}")
        if self.slices is not None:
            self.slices.check(self.space)
            if self.cache == "none":
                raise ValueError(
                    'with data.slices, cache "none" would read a volume again for each of its '
                    'slices: set it to "disk" or "memory"'
                )


@dataclass(frozen=True)
class DiffusionOptions:
    """Noise schedule, prediction target and how training draws and weighs noise levels."""

    schedule: Annotated[AnySchedule, Field(discriminator="kind")] = Cosine()
    target: Annotated[AnyTarget, Field(discriminator="kind")] = V()
    times: Annotated[AnyTimes, Field(discriminator="kind")] = UniformTimes()
    weight: Annotated[AnyWeight, Field(discriminator="kind")] = UniformWeight()
    objective: Annotated[AnyObjective, Field(discriminator="kind")] = Denoising()
    """What is minimised; hybrid and variational teach the network its variance too, spread a head
    on a trained one, consistency makes a student for samples in two calls; classifier and alignment
    make encoders to guide by; autoencoder trains no prior but a codec for one."""
    importance: Importance | None = None
    """Draw the steps whose losses were large more often; not given, all are as likely."""

    def __post_init__(self) -> None:
        if isinstance(self.objective, Autoencoding):
            self._check_unused()
            return
        noise = torch.tensor(self.schedule.t_max, dtype=torch.float64)
        self.target.multipliers(self.schedule(noise))  # sampling begins there
        given = (self.target, self.schedule, self.times, self.weight)
        check_objective(self.objective, *given, self.importance)

    def _check_unused(self) -> None:
        for name in ("schedule", "target", "times", "weight", "importance"):
            if getattr(self, name) != self.__dataclass_fields__[name].default:
                raise ValueError(
                    f"an autoencoder sees no noise: diffusion.{name} would be ignored; leave it out"
                )


@dataclass(frozen=True)
class TrackingOptions:
    """Where the run is recorded. The server is named by MLFLOW_TRACKING_URI, not here."""

    experiment: str = "medidiff"


@dataclass(frozen=True)
class Config:
    """A training: data, network, diffusion, optimisation, sampling, tracking."""

    name: str
    """Name of the run and of the model."""
    modality: str
    """What the scanner was, such as MR, CT or CR; inputs that state another are refused."""
    data: DataOptions
    output: str
    """Folder for the run; it must not hold results yet. Relative to the working folder."""
    codec: Annotated[AnyCodec, Field(discriminator="kind")] = IdentityCodec()
    """What the diffusion works on: the images, their wavelet's bands or an autoencoder's
    latents."""
    network: Annotated[AnyNetwork, Field(discriminator="kind")] = UNetOptions()
    diffusion: DiffusionOptions = DiffusionOptions()
    train: TrainOptions = TrainOptions()
    sampling: SamplingOptions = SamplingOptions()
    tracking: TrackingOptions = TrackingOptions()
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        _check_autoencoder(self)
        _check_network(self)
        _check_space(self)
        _check_latents(self)
        sampler, spread = self.sampling.sampler, self.diffusion.objective.spread
        asked = sampler.variance if isinstance(sampler, DDPM) else None
        if isinstance(self.diffusion.objective, Spread):
            return  # the model that it is trained on may have learned one
        if asked in ("learned", "learned-range") and asked != spread:
            raise ValueError(
                f"sampling.sampler.variance {asked!r} needs a network that learns it: "
                f"diffusion.objective of kind 'hybrid' with variance {asked!r} (found {spread!r})"
            )
        student = isinstance(self.diffusion.objective, ConsistencyTraining)
        if student and isinstance(self.network, UNetOptions) and self.network.dropout:
            raise ValueError(
                "a consistency student compares two answers of the network, which dropout would "
                "tell apart; set network.dropout to 0 (it may differ from the parent's)"
            )

    def digest(self) -> str:
        """SHA-256 of what is trained and how; places of files and time budgets do not enter."""
        tree = options.tree(self)
        del tree["output"], tree["data"]["manifest"], tree["train"]["minutes"]
        tree["codec"].pop("model", None)
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _check_network(config: Config) -> None:
    """Errors: ValueError for a network or conditions that the objective cannot train."""
    objective = config.diffusion.objective
    reads = isinstance(objective, Classifier | Alignment)
    wanted = "encoder" if reads else "unet"
    if isinstance(objective, Autoencoding):
        return
    if config.network.kind != wanted:
        raise ValueError(
            f"diffusion.objective {objective.kind!r} trains a network of kind {wanted!r} "
            f"(found {config.network.kind!r})"
        )
    if reads and config.data.conditions:
        raise ValueError(
            f"diffusion.objective {objective.kind!r} trains an encoder, which is told no "
            "conditions: leave data.conditions out"
        )
    if isinstance(objective, Alignment) and config.train.batch < 2:
        raise ValueError(
            "diffusion.objective 'alignment' tells the images of a batch apart: train.batch must "
            "be at least 2"
        )


def _check_autoencoder(config: Config) -> None:
    objective, network = config.diffusion.objective, config.network
    trains = isinstance(objective, Autoencoding)
    if trains != isinstance(network, AutoencoderOptions):
        raise ValueError(
            "network and diffusion.objective are both of kind 'autoencoder' or neither is (found "
            f"{network.kind!r} and {objective.kind!r}); a prior of latents names its autoencoder "
            "in codec.model"
        )
    if trains and config.data.conditions:
        raise ValueError("an autoencoder is told nothing but the image: leave data.conditions out")


def _check_space(config: Config) -> None:
    """Priors and heads of variance are trained in any space, autoencoders on patches of images, and
    consistency students on whole images, in any codec's space.

    Errors: ValueError for a codec or a patch that the objective cannot be trained with.
    """
    objective = config.diffusion.objective
    coded, cut = config.codec.kind != "identity", config.data.patch is not None
    if isinstance(objective, Classifier | Alignment) and (coded or cut):
        raise ValueError(
            f"diffusion.objective {objective.kind!r} trains an encoder of whole images: leave "
            "codec and data.patch out"
        )
    if isinstance(objective, Autoencoding) and coded:
        raise ValueError("an autoencoder is trained on images: leave codec out")
    if isinstance(objective, ConsistencyTraining) and cut:
        raise ValueError(
            "a consistency student is compared with its parent on whole images: leave data.patch "
            "out"
        )


def _check_latents(config: Config) -> None:
    """Latents are kept, so what moves images must be done before."""
    if not isinstance(config.codec, AutoencoderCodec):
        return
    if config.data.intensity != Percentile():
        raise ValueError(
            "the autoencoder knows images in its own intensity scale, which its prior takes over: "
            "leave data.intensity out"
        )
    moved = config.data.augment != Augment()
    if moved and (config.codec.versions == 1 or config.data.augment.until < 1):
        raise ValueError(
            "latents are encoded once, before training: with data.augment, say in codec.versions "
            "how many are kept of each image (at least 2), and leave augment.until at 1"
        )
    if not moved and config.codec.versions > 1:
        raise ValueError("codec.versions above 1 needs data.augment: they would all be the same")


@dataclass(frozen=True)
class Loaded:
    """A configuration and where it was read, which relative paths refer to."""

    config: Config
    file: Path
    manifest: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "manifest", self.file.parent / self.config.data.manifest)


def load_config(file: str | os.PathLike[str], changes: Sequence[str] = ()) -> Loaded:
    """The configuration in a YAML `file`, with `changes` such as "train.steps=500" applied.

    A manifest in the file is relative to the file, one in a change to the working folder.
    Errors: ConfigError naming the file and every key that is wrong.
    """
    place = Path(file)
    if place.is_dir():
        raise ConfigError(
            f"{place} is a folder; a configuration is a .yaml file ('medidiff plan' writes one)"
        )
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: cannot be read ({_reason(error)})") from None
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{place}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{place}: expected keys and values such as 'name: brain', found "
            f"{shown(content)}; 'medidiff plan' writes one"
        )
    for change in changes:
        put(content, *parse_change(change), change)
    if any(parse_change(change)[0] == MANIFEST for change in changes):
        _place_manifest(content)
    return Loaded(parse_config(content, str(place)), place)


def parse_config(tree: object, where: str) -> Config:
    """The configuration that a plain tree describes; `where` names its source in errors."""
    try:
        return options.read(Config, tree)
    except options.OptionError as error:
        lines = [f"  {problem}" for problem in error.problems]
        count = f"{len(lines)} problem" + ("s" if len(lines) > 1 else "")
        raise ConfigError(f"{where}: {count}\n" + "\n".join(lines)) from None


def dump_config(config: Config) -> str:
    """YAML that `load_config` reads back to the same configuration, every default spelled out."""
    return yaml.safe_dump(options.tree(config), sort_keys=False, allow_unicode=True)


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration file, for editors."""
    return {"title": "medidiff configuration", **options.json_schema(Config)}


def _place_manifest(content: dict[str, Any]) -> None:
    """A manifest that was typed in lies where the shell completes it, not beside the file."""
    data = content.get("data")
    if isinstance(data, dict) and isinstance(data.get("manifest"), str):
        data["manifest"] = str(Path(data["manifest"]).expanduser().absolute())


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is no text in UTF-8"
    return getattr(error, "strerror", None) or type(error).__name__


class _Loader(yaml.SafeLoader):
    """Plain values only; a key written twice is an error, not the last one's silent win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # type: ignore[override]
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
