"""A small configuration model of the same shape as a run's, and a reader that writes YAML to a file first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, field_validator, model_validator

from pipeline.config import Section, check_section, load
from pipeline.errors import ConfigError


class TaskSettings(Section):
    name: str
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class ModelSettings(Section):
    model_name_or_path: str | None = None
    """Checkpoint to start from."""
    config: dict[str, Any] | str | None = None
    dropout: float | None = Field(default=None, ge=0, lt=1)
    depth_scaled: bool = False

    @model_validator(mode="after")
    def one_start(self) -> ModelSettings:
        if self.model_name_or_path and self.config:
            raise ValueError("give model_name_or_path or config, not both")
        return self


class DataSettings(Section):
    train_file: str | list[str] | None = None
    text_column: str | list[str] | None = None
    label_names: list[str] | None = None
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    max_length: int | None = Field(default=None, ge=2)
    max_train_samples: Annotated[int, Field(ge=1)] | None = None


class LoraSettings(Section):
    r: int = Field(default=8, ge=1)
    target_modules: str | list[str] = "all-linear"


class WeightSettings(Section):
    weight: float = Field(default=1.0, gt=0)


class ReplaySettings(Section):
    train_file: str | None = None


class OptimSettings(Section):
    name: str = "adamw"
    learning_rate: float = Field(default=5e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)

    @field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        if name not in ("adamw", "sgd"):
            raise ConfigError(f"optim.name: unknown name {name!r}; did you mean 'adamw'?")
        return name


class TrainSettings(Section):
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    seed: int = Field(default=0, ge=0)


class Run(Section):
    task: Any
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    lora: LoraSettings | None = None
    l1: WeightSettings | None = None
    l2sp: WeightSettings | None = None
    replay: ReplaySettings | None = None
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    extensions: dict[str, dict[str, Any]] = {}
    output_dir: str = "runs/run"

    @field_validator("task", mode="before")
    @classmethod
    def task_settings(cls, value: Any) -> TaskSettings:
        if not isinstance(value, str | dict):
            raise ValueError(f"expected the name of a task, got {value!r}")
        return check_section(TaskSettings, {"name": value} if isinstance(value, str) else value, name="task")


def extra(name: str) -> type[Section]:
    if name != "mine:Strategy":
        raise ConfigError(f"unknown strategy {name!r}")
    return WeightSettings


class Reader:
    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, text: str, *flags: str) -> Run:
        (self.folder / "run.yaml").write_text(text, encoding="utf-8")
        return load(Run, "run.yaml", flags, extra_section=extra)

    def problems(self, text: str, *flags: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self(text, *flags)
        return caught.value.problems

    def problem(self, text: str, *flags: str) -> str:
        problems = self.problems(text, *flags)
        assert len(problems) == 1, problems
        return problems[0]
