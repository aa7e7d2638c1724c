"""From a configuration to the network that is trained, what it minimises, and its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from medidiff import options
from medidiff.config import Config, Loaded
from medidiff.data.rows import Manifest, Row
from medidiff.diffusion import (
    Consistency,
    ConsistencyTarget,
    DenoisingLoss,
    EDMTarget,
    LevelUncertainty,
    SpreadLoss,
    UniformTime,
)
from medidiff.errors import ConfigError, ModelError
from medidiff.model import Model
from medidiff.networks import (
    Autoencoder,
    AutoencoderOptions,
    ClassCondition,
    HeadedNetwork,
    SpreadHead,
    UNet,
    accelerated,
    build,
    build_head,
    codec_of,
)
from medidiff.spec import (
    ModelSpec,
    Role,
    SamplingOptions,
    check_spread,
    check_student,
    needed_spread,
)
from medidiff.training.losses import importance_steps, loss_of
from medidiff.training.objective import Objective, PriorObjective
from medidiff.training.objectives.alignment import (
    Alignment,
    AlignmentObjective,
    clean_embedding,
)
from medidiff.training.objectives.autoencoder import (
    Adversary,
    AutoencoderObjective,
    Autoencoding,
)
from medidiff.training.objectives.classifier import Classifier, ClassifierObjective
from medidiff.training.objectives.consistency import (
    ConsistencyObjective,
    ConsistencyTraining,
    HeldAverage,
    Parent,
    consistency_loss,
    student_target,
)
from medidiff.training.objectives.importance import ImportanceObjective, StepHistory
from medidiff.training.objectives.spread import Spread, SpreadObjective
from medidiff.training.objectives.uncertainty import (
    ThrownAway,
    Uncertainty,
    UncertaintyObjective,
)
from medidiff.training.precision import choose_device
from medidiff.training.spaces import Coded, OnPatches


def objective_of(
    config: Config, spec: ModelSpec, network: nn.Module, parent: Model | None
) -> Objective:
    """What the training of `network` minimises, on patches and in a codec's space where the options
    say so."""
    objective = _bare_objective(config, spec, network, parent)
    if config.data.patch is not None:
        objective = OnPatches(objective, config.data.patch.size, spec.coordinates)
    if config.codec.kind == "wavelet":  # latents of an autoencoder are kept before training
        objective = Coded(objective, codec_of(spec.codec))
    return objective


def _bare_objective(
    config: Config, spec: ModelSpec, network: nn.Module, parent: Model | None
) -> Objective:
    chosen = config.diffusion
    kind = chosen.objective
    if isinstance(kind, Autoencoding):
        return _autoencoder_objective(config, kind, spec)
    if isinstance(kind, Classifier):
        return ClassifierObjective(chosen.target, spec.schedule, chosen.times)
    if isinstance(kind, Alignment):
        frozen = None if parent is None else _frozen(parent)
        given = (chosen.target, spec.schedule, chosen.times, kind.logit_scale)
        return AlignmentObjective(*given, frozen)
    if isinstance(kind, ConsistencyTraining):
        decay = kind.held_decay
        return ConsistencyObjective(
            kind,
            consistency_loss(kind, chosen.target, chosen.schedule),
            config.train.steps,
            config.train.condition_dropout,
            None if parent is None else frozen_parent(config, parent),
            HeldAverage(network, decay) if decay else None,
        )
    denoising = DenoisingLoss(chosen.target, spec.schedule, chosen.times, chosen.weight)
    trained = loss_of(kind, chosen.target, spec.schedule, chosen.times, chosen.weight)
    prior = PriorObjective(
        denoising, config.train.condition_dropout, trained, spec.spread != "none"
    )
    if isinstance(kind, Spread):
        return SpreadObjective(prior, cast(SpreadLoss, trained))
    if isinstance(kind, Uncertainty):
        beside = LevelUncertainty(kind.features, config.train.seed)
        return UncertaintyObjective(prior, ThrownAway(beside))
    if chosen.importance is not None:
        steps = importance_steps(kind, chosen.times, spec.schedule)
        return ImportanceObjective(prior, StepHistory(steps, chosen.importance))
    return prior


def _autoencoder_objective(
    config: Config, kind: Autoencoding, spec: ModelSpec
) -> AutoencoderObjective:
    assert isinstance(spec.network, AutoencoderOptions)  # as the configuration has checked
    if kind.adversary.weight == 0:
        return AutoencoderObjective(kind, spec.network)
    device, shape = choose_device(config.train.device), spec.shape
    given = (kind.adversary, shape.dims, shape.in_channels, device, config.train.seed)
    return AutoencoderObjective(kind, spec.network, Adversary(*given))


def network_of(config: Config, spec: ModelSpec, parent: Model | None) -> nn.Module:
    """The network to train: fresh, the parent's, or a fresh head on the parent's."""
    network = build(spec.network, spec.shape, seed=config.train.seed)
    if parent is not None and not isinstance(config.diffusion.objective, Alignment):
        network.load_state_dict(parent.network.state_dict())
    kind = config.diffusion.objective
    if isinstance(kind, Spread):
        head = build_head(cast(UNet, network), kind.form, seed=config.train.seed)
        return HeadedNetwork(cast(UNet, network), head)
    return network


def trained_model(
    spec: ModelSpec,
    network: nn.Module,
    parent: Model | None,
    autoencoder: Autoencoder | None = None,
) -> Model:
    """The model of a network as `network_of` made it; `autoencoder` is that of its codec."""
    if isinstance(network, HeadedNetwork) and parent is not None:
        trained = {spec.heads[-1].source: network.head}
        device = next(network.parameters()).device
        kept = {name: head.to(device) for name, head in parent.heads.items()}
        heads = {**kept, **trained}
        return Model(spec, network.trunk, heads=heads, autoencoder=autoencoder)
    return Model(spec, network, autoencoder=autoencoder)


def load_trained(model: Model, weights: Mapping[str, Tensor]) -> None:
    """Give a run's model other weights for what the run has trained: its network, or a head."""
    prefix = "head."
    if all(name.startswith(prefix) for name in weights):
        head = model.heads[model.spec.heads[-1].source]
        head.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items()})
    else:
        model.network.load_state_dict(weights, strict=False)


def role_of(config: Config) -> Role:
    """What the network that is trained is for."""
    kind = config.diffusion.objective
    if isinstance(kind, Classifier):
        return "classifier"
    if isinstance(kind, Autoencoding):
        return "autoencoder"
    return "encoder" if isinstance(kind, Alignment) else "prior"


def class_column(loaded: Loaded, manifest: Manifest, rows: Sequence[Row]) -> ClassCondition | None:
    """The classes that a classifier is to find, as they are in the training rows.

    Errors: ConfigError if the column is no category, has one class, or names subjects.
    """
    kind = loaded.config.diffusion.objective
    if not isinstance(kind, Classifier):
        return None
    key, name = f"{loaded.file}: diffusion.objective.column", kind.column
    known = manifest.names("category")
    if name not in known:
        raise ConfigError(
            f"{key}: {name!r} is not a category column of the manifest; these are: "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    values = classes(name, rows)
    if len(values) < 2:
        raise ConfigError(
            f"{key}: a classifier needs two classes or more in the training rows; {name!r} has "
            f"{len(values)}"
        )
    check_no_subjects(key, name, values, manifest)
    return ClassCondition(name=name, values=values)


def labelled(rows: Sequence[Row], label: ClassCondition | None) -> list[Row]:
    """The rows that have a class, or all where none is asked for."""
    return [row for row in rows if label is None or row.categories.get(label.name)]


def classes(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    """The values of a category column, in order."""
    return tuple(sorted({row.categories[name] for row in rows if row.categories.get(name)}))


def check_no_subjects(key: str, name: str, values: Sequence[str], manifest: Manifest) -> None:
    """Errors: ConfigError if classes, which a model and a server are told, name subjects."""
    named = sorted({row.subject for row in manifest.rows} & set(values))
    if named:
        raise ConfigError(
            f"{key}: {len(named)} of the values in column {name!r} are names of "
            "subjects, which would stand in the model for everyone to read; use a column of groups",
            private=f"column {name!r}: {', '.join(named)}",
        )


def check_encoder(spec: ModelSpec, parent: Model) -> None:
    """Errors: ModelError if a frozen encoder cannot say what this one is to say."""
    theirs = parent.spec
    pairs = {
        "images": (spec.images, theirs.images),
        "modality": (spec.modality, theirs.modality),
        "space": (spec.space, theirs.space),
        "width": (spec.shape.out_channels, theirs.shape.out_channels),
    }
    for name, (ours, wanted) in pairs.items():
        if ours != wanted:
            raise ModelError(
                f"alignment: {name} of the configuration differs from the frozen encoder's, which "
                f"is {options.tree(wanted)}; write the same"
            )


def _frozen(parent: Model) -> Callable[[Tensor], Tensor]:
    network, schedule = parent.network.eval().requires_grad_(False), parent.spec.schedule
    target = parent.spec.target
    assert not isinstance(target, ConsistencyTarget)  # an encoder is no student

    @torch.no_grad()
    def embedding(clean: Tensor) -> Tensor:
        moved = network.to(clean.device)
        return clean_embedding(moved, target, schedule, clean)

    return embedding


def with_head(spec: ModelSpec, kind: Spread, parent: Model) -> ModelSpec:
    """The parent's specification with the head that is trained, last."""
    kept = [head for head in parent.spec.heads if head.source != kind.source]
    heads = (*kept, SpreadHead(kind.source, kind.form))
    return replace(spec, heads=heads, gamma=parent.spec.gamma)


def check_sampling(config: Config, spec: ModelSpec) -> None:
    """Errors: ModelError if the samples of this training need a variance that it does not learn, or
    a sampler walks along the flow of a student.

    A Gamma table is measured afterwards: only a training that draws samples cannot wait for it.
    """
    needed = needed_spread(spec.sampling.sampler)
    if spec.role != "prior":
        return
    check_student(spec, spec.sampling.sampler)
    if needed != "gamma" or config.train.sample_every > 0:
        check_spread(spec, needed)


def frozen_parent(config: Config, parent: Model) -> Parent:
    """The parent as a student asks it, on the device of the training."""
    network = parent.network.to(choose_device(config.train.device)).eval().requires_grad_(False)
    assert isinstance(parent.spec.target, EDMTarget)  # make_spec has compared it
    replayed = accelerated(network, config.train.acceleration)
    return Parent(network, parent.spec.target, replayed)


def as_student(spec: ModelSpec, config: Config) -> ModelSpec:
    """The specification with a student's target and, where the configuration leaves them out, its
    sampler and two calls.

    The second call starts from the middle of the schedule's time.
    """
    if not isinstance(config.diffusion.objective, ConsistencyTraining):
        return spec
    target = student_target(config.diffusion.target, spec.schedule)
    sampling, default = spec.sampling, SamplingOptions()
    if sampling.sampler == default.sampler:
        sampling = replace(sampling, sampler=Consistency(floor=target.floor))
    if sampling.spacing == default.spacing:
        sampling = replace(sampling, spacing=UniformTime())
    if sampling.steps == default.steps:
        sampling = replace(sampling, steps=2)
    return replace(spec, target=target, sampling=sampling)
