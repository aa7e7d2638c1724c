"""The model that a training starts from (`--from`): whether there is one, and whether it fits, told
before any scan is read."""

from __future__ import annotations

import dataclasses

from medidiff import options
from medidiff.config import Config
from medidiff.errors import ModelError
from medidiff.jobs.objectives import role_of
from medidiff.model import Model
from medidiff.networks import AnyNetwork, UNetOptions
from medidiff.spec import ModelSpec
from medidiff.training.objectives.alignment import Alignment
from medidiff.training.objectives.consistency import ConsistencyTraining
from medidiff.training.objectives.spread import Spread


def check_parent(config: Config, parent: Model | None) -> None:
    """Errors: ModelError if a parent is needed and not given, or a training cannot go on from the
    one that is."""
    if parent is None:
        needs = parent_notes(config)
        if needs:
            raise ModelError(needs[0])
    elif isinstance(config.diffusion.objective, Alignment):
        _check_encoder(parent.spec)
    else:
        _check_same(config, parent.spec)


def parent_notes(config: Config) -> list[str]:
    """What is to be said of a configuration that can only be trained from another model."""
    objective = config.diffusion.objective
    if isinstance(objective, Spread):
        return [
            "diffusion.objective of kind 'spread' trains a head on a trained prior: name it by "
            "--from (medidiff train ... --from MODEL)"
        ]
    if isinstance(objective, ConsistencyTraining) and objective.teacher == "parent":
        return [
            "diffusion.objective.teacher is the parent: name it by --from (medidiff train ... "
            "--from MODEL), or choose another teacher"
        ]
    return []


def _check_same(config: Config, parent: ModelSpec) -> None:
    """What is known before scans are read; the network's shape is compared after."""
    objective = config.diffusion.objective
    conditions = tuple(condition.name for condition in parent.shape.conditions)
    pairs: dict[str, tuple[object, object]] = {
        "role": (role_of(config), parent.role),
        "modality": (config.modality, parent.modality),
        "data.images": (config.data.channels, parent.images),
        "data.conditions": (config.data.conditions, conditions),
        "network": (_weights(config.network), _weights(parent.network)),
        "diffusion.schedule": (config.diffusion.schedule, parent.schedule),
        "diffusion.target": (config.diffusion.target, parent.target),
        "spread": (objective.spread, parent.spread),
    }
    if isinstance(objective, Spread):  # the trunk may have learned a variance
        del pairs["spread"]
    found = [
        f"  {each.key}: {each.old} in the parent, found {each.new}"
        for name, (ours, theirs) in pairs.items()
        for each in options.differences(options.tree(theirs), options.tree(ours), name)
    ]
    if found:
        told = f"fine-tuning: the parent {parent.name} is another; write what it has:"
        raise ModelError("\n".join([told, *found]))


def _weights(network: AnyNetwork) -> AnyNetwork:
    """The network without what is no part of its weights: dropout, and what is computed again."""
    if isinstance(network, UNetOptions):
        return dataclasses.replace(network, dropout=0.0, checkpoint_levels=())
    return network


def _check_encoder(parent: ModelSpec) -> None:
    if parent.role != "encoder":
        raise ModelError(
            f"{parent.name} is a model of role {parent.role!r}; alignment freezes an encoder "
            "(--from a model of diffusion.objective 'alignment'), or starts without a model"
        )
