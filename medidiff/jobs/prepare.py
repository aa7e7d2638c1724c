"""From a configuration to the images and the network that a training works with."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from medidiff import options
from medidiff.config import Config, Loaded
from medidiff.data.checks import check_manifest
from medidiff.data.datasets import CaseSet
from medidiff.data.fitness import views
from medidiff.data.intensity import FittedIntensity, fit
from medidiff.data.manifest import read_manifest
from medidiff.data.options import Augment
from medidiff.data.rows import Manifest, Problem, Row, raise_problems
from medidiff.diffusion import DenoisingLoss
from medidiff.errors import ConfigError, ModelError
from medidiff.jobs.codecs import (
    ReadyCodec,
    codec_channels,
    codec_source,
    fit_codec,
    latent_set,
    said_of_seams,
)
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.splits import Splits
from medidiff.model import Model
from medidiff.networks import (
    AnyCondition,
    AutoencoderCodec,
    AutoencoderOptions,
    ClassCondition,
    NetworkShape,
    NumberCondition,
    build,
    codec_of,
    encode_batch,
)
from medidiff.spec import Lineage, ModelSpec
from medidiff.training.autoencoding import Adversary, AutoencoderObjective
from medidiff.training.batches import TrainingSet
from medidiff.training.losses import Autoencoding, loss_of, output_channels
from medidiff.training.objective import Objective, PriorObjective
from medidiff.training.precision import choose_device
from medidiff.training.spaces import Coded, OnPatches


@dataclass(frozen=True)
class Prepared:
    """A training made ready."""

    spec: ModelSpec
    network: nn.Module
    objective: Objective
    train: TrainingSet
    validation: TrainingSet
    files: Mapping[int, str]
    """Manifest row -> its files: for the private log only."""
    subjects: frozenset[str]
    """Names that must not be logged."""
    augment: Augment
    """How the loop moves what it reads: not at all if latents of moved images were kept."""
    codec: ReadyCodec


@dataclass(frozen=True)
class CheckedData:
    """What a configuration trains on, every scan and condition checked."""

    manifest: Manifest
    train: list[Row]
    validation: list[Row]
    conditions: tuple[AnyCondition, ...]


def check_data(loaded: Loaded, parent: Model | None, report: Reporter) -> CheckedData:
    """The rows of both splits and their conditions.

    Errors: ManifestError with all problems; ConfigError for a condition that is no column.
    """
    config = loaded.config
    data = config.data
    manifest = read_manifest(loaded.manifest)
    splits = Splits(data.train_split, data.validation_split, data.holdout)
    train = splits.rows(manifest, data.train_split)
    validation = splits.rows(manifest, data.validation_split)
    check_manifest(
        manifest,
        images=data.images,
        splits=splits.stored(data.train_split, data.validation_split),
        progress=lambda done, total: report.progress("checking scans", done, total),
    )
    check_condition_columns(loaded, manifest)
    conditions = parent.spec.shape.conditions if parent else fit_conditions(config, manifest, train)
    for rows in (train, validation):
        encode_rows(manifest, rows, conditions)
    return CheckedData(manifest, train, validation, conditions)


def check_condition_columns(loaded: Loaded, manifest: Manifest) -> None:
    """Errors: ConfigError if a condition is not a number or category column."""
    for name in loaded.config.data.conditions:
        found = {column.name: column.type for column in manifest.columns}.get(name)
        if found not in ("number", "category"):
            typed = manifest.names("number", "category")
            raise ConfigError(
                f"{loaded.file}: data.conditions: {name!r} is "
                f"{'a ' + found + ' column' if found else 'not a column'} of the manifest; "
                f"number and category columns are: {', '.join(sorted(typed)) or 'none'}"
            )


def prepare(loaded: Loaded, parent: Model | None, report: Reporter) -> Prepared:
    """Read and check the scans, fit what is fitted on them, and make the network."""
    config = loaded.config
    source = codec_source(config, parent)
    data = check_data(loaded, parent, report)
    manifest, conditions = data.manifest, data.conditions
    device = choose_device(config.train.device)

    def raw(rows: Sequence[Row], what: str) -> CaseSet:
        return CaseSet(
            rows,
            config.data.images,
            config.data.space,
            cache=config.data.cache,
            workers=config.data.workers,
            progress=lambda done, total: report.progress(what, done, total),
        )

    train = raw(data.train, "reading training scans")
    validation = raw(data.validation, "reading validation scans")
    if parent is not None:
        intensity = parent.spec.intensity
    elif source is not None:
        intensity = source.spec.intensity  # the autoencoder knows images in its own units
    else:
        intensity = fit(config.data.intensity, (case.images for case in train))
    sets = [training_set(manifest, cases, intensity, conditions) for cases in (train, validation)]
    codec, known = fit_codec(config, sets[0], source, parent, device, report)
    spec = make_spec(config, manifest, intensity, conditions, data.train, parent)
    spec = dataclasses.replace(spec, view=views(train, spec.space), codec=codec.fitted)
    network = build(spec.network, spec.shape, seed=config.train.seed)
    if parent is not None:
        network.load_state_dict(parent.network.state_dict())
    objective, moved = make_objective(config, spec, device), config.data.augment
    if isinstance(config.codec, AutoencoderCodec):
        if config.codec.tiles is not None:
            report.say(said_of_seams(codec, sets[0], device))
        options = {"versions": config.codec.versions, "moved": moved, "seed": config.train.seed}
        sets[0] = latent_set(
            sets[0], codec, device, report, what="encoding", known=known, **options
        )
        sets[1] = latent_set(sets[1], codec, device, report, what="encoding validation scans")
        moved = Augment()
    return Prepared(
        spec,
        network,
        objective,
        sets[0],
        sets[1],
        {row.number: ", ".join(map(str, row.images.values())) for row in manifest.rows},
        frozenset(row.subject for row in manifest.rows),
        moved,
        codec,
    )


def make_objective(config: Config, spec: ModelSpec, device: torch.device) -> Objective:
    """What the training minimises, on patches and in a codec's space where the options say so."""
    objective: Objective
    chosen = config.diffusion
    if isinstance(chosen.objective, Autoencoding):
        assert isinstance(spec.network, AutoencoderOptions)  # as the configuration has checked
        options, shape, adversary = chosen.objective, spec.shape, None
        if options.adversary.weight > 0:
            seed = config.train.seed
            adversary = Adversary(options.adversary, shape.dims, shape.in_channels, device, seed)
        objective = AutoencoderObjective(options, spec.network, adversary)
    else:
        denoising = DenoisingLoss(spec.target, spec.schedule, chosen.times, chosen.weight)
        trained = loss_of(chosen.objective, spec.target, spec.schedule, chosen.times, chosen.weight)
        two_heads = spec.spread != "none"
        objective = PriorObjective(denoising, config.train.condition_dropout, trained, two_heads)
    if config.data.patch is not None:
        objective = OnPatches(objective, config.data.patch.size, spec.coordinates)
    if config.codec.kind == "wavelet":  # latents of an autoencoder are kept, see `latent_set`
        objective = Coded(objective, codec_of(spec.codec))
    return objective


def training_set(
    manifest: Manifest,
    cases: CaseSet,
    intensity: FittedIntensity,
    conditions: Sequence[AnyCondition],
) -> TrainingSet:
    """The cases as the loop reads them: images in model units, conditions encoded."""
    encoded = encode_rows(manifest, cases.rows, conditions)

    def images(indices: Sequence[int]) -> torch.Tensor:
        return torch.stack([intensity.normalise(case.images)[0] for case in cases.at(indices)])

    return TrainingSet(images, encoded, [row.number for row in cases.rows])


def encode_rows(
    manifest: Manifest, rows: Sequence[Row], conditions: Sequence[AnyCondition]
) -> torch.Tensor | None:
    """The conditions of rows, (rows, K), or None where there are none.

    Errors: ManifestError naming every row and column with a value that the model does not know.
    """
    if not conditions:
        return None
    encoded: list[torch.Tensor] = []
    problems: list[Problem] = []
    for row in rows:
        known = {c.name: row.conditions[c.name] for c in conditions if c.name in row.conditions}
        problems += [
            Problem(f"row {row.number}, column {condition.name!r}: {said}", repr(known))
            for condition in conditions
            if (said := _unusable(condition, known.get(condition.name)))
        ]
        if not problems:
            encoded.append(encode_batch(conditions, [known]))
    raise_problems(manifest.path, problems)
    return torch.cat(encoded)


def _unusable(condition: AnyCondition, value: str | float | None) -> str:
    """What is wrong with a cell, without what stands in it; "" if it can be encoded."""
    try:
        encode_batch([condition], [{condition.name: value}])
    except ValueError:
        if isinstance(condition, ClassCondition):
            return f"a value that training does not have (it has {', '.join(condition.values)})"
        return "a finite number is expected"
    return ""


def fit_conditions(
    config: Config, manifest: Manifest, rows: Sequence[Row]
) -> tuple[AnyCondition, ...]:
    """Classes, and means and spreads of numbers, as they are in the training split."""
    fitted: list[AnyCondition] = []
    for name in config.data.conditions:
        if name in manifest.names("category"):
            values = sorted({row.categories[name] for row in rows if row.categories.get(name)})
            check_no_subjects(name, values, manifest)
            fitted.append(ClassCondition(name=name, values=tuple(values)))
            continue
        numbers = torch.tensor(
            [row.numbers[name] for row in rows if row.numbers.get(name) is not None],
            dtype=torch.float64,
        )
        if len(numbers) < 2:
            raise ConfigError(
                f"data.conditions: {name!r} has fewer than two numbers in the train split"
            )
        spread = float(numbers.std())
        fitted.append(NumberCondition(name=name, mean=float(numbers.mean()), std=spread or 1.0))
    return tuple(fitted)


def check_no_subjects(name: str, values: Sequence[str], manifest: Manifest) -> None:
    """Errors: ConfigError if classes, which a model and a server are told, name subjects."""
    named = sorted({row.subject for row in manifest.rows} & set(values))
    if named:
        raise ConfigError(
            f"data.conditions: {len(named)} of the values in column {name!r} are names of "
            "subjects, which would stand in the model for everyone to read; use a column of groups",
            private=f"column {name!r}: {', '.join(named)}",
        )


def network_shape(config: Config, conditions: tuple[AnyCondition, ...]) -> NetworkShape:
    """What the configuration's network takes and gives, in the space of its codec.

    A prior on patches is told the coordinates; an autoencoder needs none.
    Errors: ModelError if the codec's model is not an autoencoder of these images.
    """
    channels, objective = codec_channels(config), config.diffusion.objective
    dims = config.data.space.dims
    told = config.data.patch is not None and not isinstance(objective, Autoencoding)
    return NetworkShape(
        dims=dims,
        in_channels=channels,
        out_channels=output_channels(objective, channels),
        concat_channels=dims if told else 0,
        conditions=conditions,
    )


def make_spec(
    config: Config,
    manifest: Manifest,
    intensity: FittedIntensity,
    conditions: tuple[AnyCondition, ...],
    rows: Sequence[Row],
    parent: Model | None,
) -> ModelSpec:
    """The specification of the model that this training makes.

    Errors: ModelError if it cannot go on from `parent`.
    """
    shape = network_shape(config, conditions)
    trains_codec = isinstance(config.diffusion.objective, Autoencoding)
    sampling = config.sampling
    if config.codec.kind != "identity":  # the range is that of images
        sampling = dataclasses.replace(sampling, clip="none")
    spec = ModelSpec(
        name=config.name,
        modality=config.modality,
        images=config.data.images,
        space=config.data.space,
        intensity=intensity,
        network=config.network,
        shape=shape,
        role="autoencoder" if trains_codec else "prior",
        coordinates=shape.concat_channels > 0,
        schedule=config.diffusion.schedule,
        target=config.diffusion.target,
        sampling=sampling,
        spread=config.diffusion.objective.spread,
        lineage=Lineage(
            parent=parent.digest if parent else None,
            manifest_digest=manifest.digest(),
            config_digest=config.digest(),
            train_images=len(rows),
            train_subjects=len({row.subject for row in rows}),
            steps=config.train.steps,
            train_split=config.data.train_split,
            validation_split=config.data.validation_split,
            holdout=config.data.holdout,
            version=importlib.metadata.version("medidiff"),
        ),
    )
    if parent is None:
        return spec
    for name in (
        "role",
        "coordinates",
        "modality",
        "images",
        "network",
        "shape",
        "schedule",
        "target",
        "spread",
    ):
        ours, theirs = getattr(spec, name), getattr(parent.spec, name)
        if ours != theirs:
            raise ModelError(
                f"fine-tuning: {name} of the configuration differs from the parent's. "
                f"The parent has {name} = {options.tree(theirs)}; write the same."
            )
    if config.data.conditions != tuple(condition.name for condition in conditions):
        raise ModelError(
            "fine-tuning: data.conditions must be the parent's: "
            f"{[condition.name for condition in conditions]}"
        )
    return dataclasses.replace(spec, intensity=parent.spec.intensity)
