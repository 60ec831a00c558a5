"""Freeze: some of the weights keep their values, and backward stops where nothing below moves."""

from __future__ import annotations

import re
from difflib import get_close_matches

from pydantic import Field
from torch import nn

from pipeline.config import Section
from pipeline.errors import ConfigError
from pipeline.models.inspect import embedding_prefixes, layer_prefixes
from pipeline.optim.rules import Rule
from pipeline.strategies.base import Strategy, TaskView


class Freeze(Strategy):
    """By the number of early layers (the embeddings go with them), by regex, or all but the task's head."""

    class Config(Section):
        num_layers: int | None = Field(None, ge=0)
        """How many layers from the input on keep their weights, and the embeddings with them; 0 freezes the
        embeddings alone."""
        patterns: list[str] = []
        """Regular expressions (re.search) of parameter names that keep their weights."""
        head_only: bool = False
        """Train the task's head and nothing else."""

    def rules(self, model: nn.Module, task: TaskView) -> list[Rule]:
        config = self.config
        if config.num_layers is None and not config.patterns and not config.head_only:
            raise ConfigError("freeze: says nothing to freeze; give num_layers, patterns or head_only: true")
        rules = [Rule(pattern, 0.0, reason=f"freeze.patterns {pattern}") for pattern in self._checked(model)]
        if config.head_only:
            rules += [Rule(_head(task), reason="the task's head"), Rule(".", 0.0, reason="freeze.head_only")]
        elif config.num_layers is not None:
            layers = layer_prefixes(model)
            if config.num_layers > len(layers):
                raise ConfigError(
                    f"freeze.num_layers: {config.num_layers} is more than this model's {len(layers)} layers"
                )
            frozen = [*embedding_prefixes(model), *layers[: config.num_layers]]
            names = "|".join(re.escape(prefix) for prefix in frozen)
            rules.append(Rule(rf"(^|\.)({names})\.", 0.0, reason=f"freeze.num_layers {config.num_layers}"))
        return rules

    def _checked(self, model: nn.Module) -> list[str]:
        names, patterns, problems = [name for name, _ in model.named_parameters()], self.config.patterns, []
        for pattern in patterns:
            try:
                found = any(re.search(pattern, name) for name in names)
            except re.error as error:
                problems.append(f"freeze.patterns: {pattern!r} is not a regular expression ({error})")
                continue
            if not found:
                near = get_close_matches(pattern, names, n=1, cutoff=0.0)[0]
                problems.append(
                    f"freeze.patterns: {pattern!r} matches no parameter of this model; one of its names is {near}"
                )
        if not problems and all(any(re.search(pattern, name) for pattern in patterns) for name in names):
            problems.append("freeze.patterns: they match every parameter, so nothing is left to train; leave some out")
        if problems:
            raise ConfigError(problems)
        return list(patterns)


def _head(task: TaskView) -> str:
    if not task.head_modules or task.new_parameters is None:
        raise ConfigError(
            "freeze.head_only: this task brings no head of its own (a language model's output is tied to its "
            "embeddings); freeze all but the last layers with num_layers instead"
        )
    return task.new_parameters
