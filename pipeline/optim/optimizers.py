"""The optimizers by name. A new one is one function and one line in `OPTIMIZERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field
from torch import nn, optim

from pipeline.config import Section, resolve
from pipeline.optim.rules import Movement, parameter_groups


class OptimConfig(Section):
    """How the weights are moved."""

    name: str = "adamw"
    """adamw, adam, sgd, rmsprop or adagrad; or your own as `my_module:make_optimizer`, called as (groups, config)."""
    learning_rate: float = Field(5e-5, gt=0)
    """At its highest; the schedule and the rules of a strategy multiply it."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled for adamw; for the others the classic L2 term in the gradient, as in their papers. Never on biases
    and normalization weights."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """How much of the mean gradient is kept from step to step."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """The same for the mean squared gradient."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """Added to the root of the mean squared gradient."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd; 0 turns it off. rmsprop runs without momentum."""
    lr_scheduler_type: str = "linear"
    """linear, cosine, constant; or your own as `my_module:schedule`, called as (progress between 0 and 1)."""
    warmup_steps: float = Field(0, ge=0)
    """Steps of linear warm-up; a number below 1 is a share of all steps."""


Groups = list[dict[str, Any]]


def adamw(groups: Groups, config: OptimConfig) -> optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), fused: five times faster than the loop on a CPU."""
    betas = (config.adam_beta1, config.adam_beta2)
    return optim.AdamW(groups, betas=betas, eps=config.adam_epsilon, fused=True)


def adam(groups: Groups, config: OptimConfig) -> optim.Optimizer:
    """Adam (Kingma & Ba 2015); weight decay is the coupled L2 term of the paper."""
    return optim.Adam(groups, betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon, fused=True)


def sgd(groups: Groups, config: OptimConfig) -> optim.Optimizer:
    """Stochastic gradient descent with momentum."""
    return optim.SGD(groups, momentum=config.momentum, fused=True)


def rmsprop(groups: Groups, config: OptimConfig) -> optim.Optimizer:
    """RMSprop (Hinton 2012, lecture 6e)."""
    return optim.RMSprop(groups)


def adagrad(groups: Groups, config: OptimConfig) -> optim.Optimizer:
    """Adagrad (Duchi et al. 2011); PyTorch has no fused one on a GPU."""
    return optim.Adagrad(groups)


OPTIMIZERS: dict[str, Callable[[Groups, OptimConfig], optim.Optimizer]] = {
    "adamw": adamw,
    "adam": adam,
    "sgd": sgd,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
}


def make_optimizer(model: nn.Module, found: dict[str, Movement], config: OptimConfig) -> optim.Optimizer:
    """The optimizer over the parameters that move, grouped by their rules."""
    groups = parameter_groups(model, found, config.learning_rate)
    for group in groups:
        assert group["params"], "an empty group would be an optimizer that does nothing"
    return resolve(OPTIMIZERS, config.name, what="optim.name")(groups, config)
