"""From a configuration to the images and the network that a training works with."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from medidiff import options
from medidiff.config import Config, Loaded
from medidiff.data.augment import Surroundings, margin, surroundings
from medidiff.data.checks import check_manifest, grids, modalities
from medidiff.data.datasets import CaseSet
from medidiff.data.fitness import views
from medidiff.data.intensity import FittedIntensity, fit, scaled_batch
from medidiff.data.manifest import read_manifest
from medidiff.data.modality import modality_notes
from medidiff.data.options import Augment, Slices, Space
from medidiff.data.rows import Manifest, Problem, Row, raise_problems
from medidiff.data.slices import resolved
from medidiff.errors import ConfigError, ModelError
from medidiff.jobs.codecs import (
    ReadyCodec,
    codec_channels,
    codec_source,
    fit_codec,
    latent_set,
    said_of_seams,
    slab_notes,
)
from medidiff.jobs.cropping import cropping_notes
from medidiff.jobs.objectives import (
    as_student,
    check_encoder,
    check_no_subjects,
    check_sampling,
    class_column,
    classes,
    labelled,
    network_of,
    objective_of,
    role_of,
    trained_model,
    with_head,
)
from medidiff.jobs.parents import check_parent
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.splits import Splits
from medidiff.model import Model
from medidiff.networks import (
    AnyCondition,
    AutoencoderCodec,
    ClassCondition,
    NetworkShape,
    NumberCondition,
    encode_batch,
)
from medidiff.spec import Lineage, ModelSpec
from medidiff.training.batches import TrainingSet
from medidiff.training.losses import output_channels
from medidiff.training.objective import Objective
from medidiff.training.objectives.alignment import Alignment
from medidiff.training.objectives.autoencoder import Autoencoding
from medidiff.training.objectives.spread import Spread
from medidiff.training.precision import choose_device


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
    parent: Model | None = None
    notes: tuple[str, ...] = ()
    """What was said of its scans, but for words that stand in a file or the manifest."""

    def model(self, spec: ModelSpec, network: nn.Module) -> Model:
        """The model of this training's network, as it is or averaged."""
        return trained_model(spec, network, self.parent, self.codec.autoencoder)


@dataclass(frozen=True)
class CheckedData:
    """What a configuration trains on, every scan and condition checked."""

    manifest: Manifest
    train: list[Row]
    validation: list[Row]
    conditions: tuple[AnyCondition, ...]
    label: ClassCondition | None
    """What a classifier is to find."""
    space: Space
    """The grid, of slices with their plane's directions."""
    slices: Slices | None
    """What is cut of volumes, in a named plane."""
    notes: tuple[str, ...] = ()
    """What scans do not say, or say otherwise than the configuration, and what models cannot."""

    @property
    def told(self) -> tuple[AnyCondition, ...]:
        """What each image comes with: conditions, or the class that is to be found."""
        return self.conditions if self.label is None else (self.label,)


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
    label = class_column(loaded, manifest, train)
    train, validation = labelled(train, label), labelled(validation, label)
    if not validation:
        raise ConfigError(
            f"{loaded.file}: no validation image has a value in column {label and label.name!r}"
        )
    conditions = parent.spec.shape.conditions if parent else fit_conditions(config, manifest, train)
    space, slices = data.space, data.slices
    if slices is not None:
        space, slices = resolved(space, slices, grids([*train, *validation], data.images[0]))
    stated = modalities([*train, *validation], data.images[0])
    notes = (*modality_notes(stated, config.modality), *slab_notes(config))
    checked = CheckedData(manifest, train, validation, conditions, label, space, slices, notes)
    for rows in (train, validation):
        encode_rows(manifest, rows, checked.told)
    return checked


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
    check_parent(config, parent)
    source = codec_source(config, parent)
    data = check_data(loaded, parent, report)
    for note in data.notes:
        report.say(f"Note: {note}")
    manifest = data.manifest
    device = choose_device(config.train.device)

    moved = config.data.augment

    def raw(rows: Sequence[Row], what: str, beyond: Sequence[int] | None = None) -> CaseSet:
        return CaseSet(
            rows,
            config.data.images,
            data.space,
            cache=config.data.cache,
            workers=config.data.workers,
            progress=lambda done, total: report.progress(what, done, total),
            margin=beyond,
            slices=data.slices,
        )

    wide = None if moved == Augment() else margin(moved, data.space)
    train = raw(data.train, "reading training scans", wide)
    validation = raw(data.validation, "reading validation scans")
    if parent is not None:
        intensity = parent.spec.intensity
    elif source is not None:
        intensity = source.spec.intensity  # the autoencoder knows images in its own units
    else:
        intensity = fit(config.data.intensity, (case.measured for case in train.one_a_row()))
        if data.slices is not None:
            intensity = intensity.repeated(data.slices.thickness)
    sets = [training_set(manifest, cases, intensity, data.told) for cases in (train, validation)]
    codec, known = fit_codec(config, sets[0], source, parent, device, report)
    spec = make_spec(config, data, len(train), intensity, parent)
    view = views(train.one_a_row(), spec.space)  # which looks at every scan
    cropping = cropping_notes(train.cropped, len(data.train), data.space)
    for note in cropping:
        report.say(f"Note: {note}")
    spec = dataclasses.replace(spec, view=view, codec=codec.fitted, step_mm=steps_mm(train))
    check_sampling(config, spec)
    network = network_of(config, spec, parent)
    objective = objective_of(config, spec, network, parent)
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
        parent,
        (*slab_notes(config), *cropping),
    )


def steps_mm(train: CaseSet) -> tuple[float, float, float] | None:
    """How far the slices of volumes lie apart: least, median and most; None of what is not cut."""
    if train.slices is None:
        return None
    lengths = [float(np.linalg.norm(case.affine[:3, 2])) for case in train.one_a_row()]
    return min(lengths), float(np.median(lengths)), max(lengths)


def training_set(
    manifest: Manifest,
    cases: CaseSet,
    intensity: FittedIntensity,
    conditions: Sequence[AnyCondition],
) -> TrainingSet:
    """The cases as the loop reads them: images in model units, conditions encoded.

    Cases that are kept in memory are scaled there, once.
    """
    encoded = encode_rows(manifest, cases.rows, conditions)
    cases.keep_scaled(intensity)
    kept = cases.intensity is not None

    def images(indices: Sequence[int]) -> torch.Tensor:
        found = cases.at(indices)
        if kept:
            return torch.stack([case.images for case in found])
        scales = [cases.scale_of(case, intensity) for case in found]
        return scaled_batch([case.images for case in found], scales)

    def around(indices: Sequence[int]) -> Surroundings:
        found = cases.at(indices)
        wide = [
            c.around if kept else cases.scale_of(c, intensity).normalise(c.around, axis=0)
            for c in found
        ]
        fields, spacings = [case.field for case in found], [case.spacing for case in found]
        return surroundings(wide, fields, cases.space.size, spacings)

    places = [place for place, _ in cases.items]
    rows = [cases.rows[place].number for place in places]
    if encoded is not None:
        encoded = encoded[places]
    return TrainingSet(images, encoded, rows, None if cases.margin is None else around)


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
            values = classes(name, rows)
            check_no_subjects("data.conditions", name, values, manifest)
            fitted.append(ClassCondition(name=name, values=values))
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


def shape_of(config: Config, data: CheckedData, trunk: ModelSpec | None = None) -> NetworkShape:
    """What the network takes and gives, in the space of its codec; `trunk` is the model that a head
    is trained on.

    A prior on patches is told the coordinates; an autoencoder needs none.
    Errors: ModelError if the codec's model is not an autoencoder of these images.
    """
    channels, objective = codec_channels(config), config.diffusion.objective
    dims, found = config.data.space.dims, 0 if data.label is None else len(data.label.values)
    told = config.data.patch is not None and not isinstance(objective, Autoencoding)
    return NetworkShape(
        dims=dims,
        in_channels=channels,
        out_channels=(
            output_channels(objective, channels, found)
            if trunk is None
            else trunk.shape.out_channels
        ),
        concat_channels=dims if told else 0,
        conditions=data.conditions,
    )


def make_spec(
    config: Config,
    data: CheckedData,
    images: int,
    intensity: FittedIntensity,
    parent: Model | None,
) -> ModelSpec:
    """The specification of the model that this training makes of so many images.

    Errors: ModelError if it cannot go on from `parent`.
    """
    objective, rows = config.diffusion.objective, data.train
    trunk = parent.spec if parent is not None and isinstance(objective, Spread) else None
    shape, sampling = shape_of(config, data, trunk), config.sampling
    if config.codec.kind != "identity":  # the range is that of images
        sampling = dataclasses.replace(sampling, clip="none")
    spec = ModelSpec(
        name=config.name,
        modality=config.modality,
        images=config.data.channels,
        space=data.space,
        slices=data.slices,
        intensity=intensity,
        network=config.network,
        shape=shape,
        role=role_of(config),
        label=data.label,
        coordinates=shape.concat_channels > 0,
        schedule=config.diffusion.schedule,
        target=config.diffusion.target,
        sampling=sampling,
        spread=trunk.spread if trunk else objective.spread,
        lineage=Lineage(
            parent=parent.digest if parent else None,
            manifest_digest=data.manifest.digest(),
            config_digest=config.digest(),
            train_images=images,
            train_subjects=len({row.subject for row in rows}),
            steps=config.train.steps,
            train_split=config.data.train_split,
            validation_split=config.data.validation_split,
            holdout=config.data.holdout,
            version=importlib.metadata.version("medidiff"),
        ),
    )
    if isinstance(objective, Spread) and parent is not None:
        spec = with_head(spec, objective, parent)
    if parent is None:
        return as_student(spec, config)
    if isinstance(objective, Alignment):
        check_encoder(spec, parent)
        return dataclasses.replace(spec, intensity=parent.spec.intensity)
    for name in ("coordinates", "shape", "label"):  # all else was compared by `check_parent`
        ours, theirs = getattr(spec, name), getattr(parent.spec, name)
        if ours != theirs:
            raise ModelError(
                f"fine-tuning: {name} of the configuration differs from the parent's. "
                f"The parent has {name} = {options.tree(theirs)}; write the same."
            )
    return as_student(dataclasses.replace(spec, intensity=parent.spec.intensity), config)
