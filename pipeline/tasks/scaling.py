"""The unit of a regression's labels: standardized for the loss, and the labels' own everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation (over all training rows, divided by their number) of the labels."""

    mean: float = 0.0
    std: float = 1.0
    standard: bool = False
    """Whether the loss takes labels less the mean, over the standard deviation."""
    folded: bool = False
    """Whether the head speaks the labels' own unit, as that of a saved model does."""

    @classmethod
    def of(cls, labels: Sequence[float], kind: str) -> Scaling:
        """The scaling of training labels; `kind` is `none` or `standard`."""
        known = np.asarray(list(labels), dtype="f8")
        return cls(float(known.mean()), float(known.std()), standard=kind == "standard")

    def apply(self, labels: Tensor) -> Tensor:
        """Labels as the loss takes them."""
        return (labels - self.mean) / self.std if self.standard else labels

    def learned(self, outputs: Tensor) -> Tensor:
        """What the model says, as the loss takes it."""
        return self.apply(outputs) if self.folded else outputs

    def undo(self, outputs: Tensor) -> Tensor:
        """What the model says, in the labels' own unit."""
        return outputs * self.std + self.mean if self.standard and not self.folded else outputs

    def note(self) -> str:
        """A sentence for people."""
        numbers = f"mean {self.mean:.4g}, standard deviation {self.std:.4g} of the training rows"
        if self.standard:
            return (
                f"label_scaling standard: the loss is over standardized labels ({numbers}); metrics and the saved "
                "model are in the labels' own unit"
            )
        return f"label_scaling none: labels are learned in their own unit ({numbers})"


def output_layers(model: nn.Module, head_modules: Sequence[str]) -> list[nn.Linear]:
    """The layers of the head that give the one number; under PEFT those of the head that is trained."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == 1
        and set(name.split(".")) & set(head_modules)
        and "original_module" not in name.split(".")
    ]


def check_head(model: Any, head_modules: Sequence[str], *, trained: bool) -> None:
    """Raise ConfigError when the head speaks a unit already, or cannot take mean and standard deviation in.

    `trained`: the weights are those of a checkpoint, whose config says what it was made for.
    """
    made_for = model.config.architectures or []
    if trained and any(str(name).endswith("ForSequenceClassification") for name in made_for):
        raise ConfigError(
            "task.label_scaling: the checkpoint has a head already, which speaks the unit it was trained in; standard "
            "is for a new head: leave it out, or start from the checkpoint before it was fine-tuned"
        )
    layers = output_layers(model, head_modules)
    if not layers or any(layer.bias is None for layer in layers):
        raise ConfigError(
            f"task.label_scaling: the head of {type(model).__name__} has no bias that could take the labels' mean in, "
            "so the saved model could not speak their unit; leave it out and bring the labels near 0 to 1 yourself"
        )


def fold(model: nn.Module, head_modules: Sequence[str], scaling: Scaling) -> None:
    """Change the head in place so that it gives the labels' own unit: weight * std, bias * std + mean."""
    with torch.no_grad():
        for layer in output_layers(model, head_modules):
            layer.weight.mul_(scaling.std)
            if layer.bias is not None:
                layer.bias.mul_(scaling.std).add_(scaling.mean)
