"""LoRA: low-rank adapters beside frozen linear layers (Hu et al. 2021), through PEFT."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from pipeline.config import Section
from pipeline.errors import ConfigError, nearest
from pipeline.models.inspect import LINEAR, lora_target_modules
from pipeline.models.load import quiet
from pipeline.strategies.base import Strategy, TaskView

TASK_TYPES = {
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
    "AutoModel": "FEATURE_EXTRACTION",
}
"""PEFT's name for what the model does; it decides which Auto class loads the adapter again."""


class LoRA(Strategy):
    """The base keeps its weights; the adapters and the task's head are trained and saved."""

    class Config(Section):
        r: int = Field(16, ge=1)
        """Rank of the update."""
        lora_alpha: float = Field(32, gt=0)
        """The update is scaled by lora_alpha / r (by lora_alpha / sqrt(r) with rsLoRA)."""
        lora_dropout: float = Field(0.0, ge=0, lt=1)
        """Share of the input that an adapter does not see in a training step."""
        target_modules: list[str] | Literal["all-linear"] | None = None
        """Names of the linear layers that get an adapter; unset: those of attention and feed-forward in every layer."""
        use_dora: bool = False
        """Learn magnitude and direction apart (Liu et al. 2024)."""
        use_rslora: bool = False
        """Rank-stabilized scaling (Kalajdzievski 2023)."""
        merge: bool = False
        """Save the model with the adapters added into its weights instead of the adapters alone."""

    def check(self, model: nn.Module, task: TaskView) -> None:
        wanted = self.config.target_modules
        modules = {name.rsplit(".", 1)[-1]: module for name, module in model.named_modules()}
        missing = (
            [name for name in wanted if name.rsplit(".", 1)[-1] not in modules] if isinstance(wanted, list) else []
        )
        if missing:
            linear = [name for name, module in modules.items() if isinstance(module, LINEAR)]
            raise ConfigError(
                [f"lora.target_modules: this model has no module {name!r}; {nearest(name, linear)}" for name in missing]
            )

    def wrap(self, model: nn.Module, task: TaskView) -> nn.Module:
        from peft import LoraConfig, get_peft_model  # costs seconds to import; only LoRA runs need it

        config = self.config
        self.check(model, task)
        targets = config.target_modules or lora_target_modules(model)
        settings = LoraConfig(
            r=config.r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets,
            use_dora=config.use_dora,
            use_rslora=config.use_rslora,
            modules_to_save=head_modules(model, task) or None,
            task_type=TASK_TYPES.get(task.model_class),
        )
        with quiet():
            return get_peft_model(model, settings)

    def exported(self, model: nn.Module) -> nn.Module:
        if self.config.merge:
            return model.merge_and_unload()  # type: ignore[operator]
        for settings in model.peft_config.values():  # type: ignore[operator]
            in_order(settings)
        return model


def in_order(settings: Any) -> None:
    """Sort what peft keeps as sets, which it would write in an order of this Python process alone."""
    for key, value in vars(settings).items():
        if isinstance(value, set):
            setattr(settings, key, sorted(value))


def head_modules(model: nn.Module, task: TaskView) -> list[str]:
    """Full names of the outermost modules of the task's head that hold weights of their own.

    Weights tied to the embeddings are left out: they are the checkpoint's, not the head's.
    """
    tied = {id(parameter) for parameter in model.get_input_embeddings().parameters()}  # type: ignore[operator]
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        parameters = list(module.parameters())
        if name.rsplit(".", 1)[-1] in task.head_modules and parameters and not inside:
            if any(id(parameter) in tied for parameter in parameters):
                found += [f"{name}.{child}" for child, part in module.named_children() if not _holds(part, tied)]
            else:
                found.append(name)
    return found


def _holds(module: nn.Module, tied: set[int]) -> bool:
    parameters = list(module.parameters())
    return not parameters or any(id(parameter) in tied for parameter in parameters)
