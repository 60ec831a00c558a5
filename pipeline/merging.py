"""An adapter added into its base: a plain model in a folder of its own, and the proof that it says the same."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from pipeline.adapters import ADAPTER, settings_for
from pipeline.config import load
from pipeline.data import find_rows
from pipeline.encoding import encode_here
from pipeline.errors import ConfigError, UserError
from pipeline.evaluation import collate, without_gradients
from pipeline.export import TOLERANCE, logits_of, readable
from pipeline.failure import written
from pipeline.files import check_place
from pipeline.hub.files import model_files
from pipeline.models.load import quiet
from pipeline.reach import resolve
from pipeline.saved import Saved, about_base, as_start, base_of, find, load_model, recall_task, settings_of
from pipeline.settings import RunConfig
from pipeline.tasks import Task
from pipeline.untouched import untouched

logger = logging.getLogger("graft")
LEFT_BEHIND = {ADAPTER, "config.json", "generation_config.json"}
"""Files of an adapter, beside its weights, that are not so for the merged model."""
OF_THE_RUN = ("config.yaml", "results.json", "manifest.json")
ROWS_TO_COMPARE, TOKENS_TO_COMPARE = 4, 8


@untouched()
def merge(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    base_model: str | None = None,
    revision: str | None = None,
) -> Path:
    """Add the adapter `source` (a run, its model folder, a repository of the hub) into its base, as a model in `out`.

    `base_model` is a base at another place than the adapter says: a folder or a hub id. Tokenizer, image processor and
    what else stands beside the adapter come along, with the config.yaml of its run, so that the folder can be
    predicted with and evaluated. The folder appears whole or not at all.

    An adapter that no run made is known by its own files: what PEFT says of its task, its head, the config of its base.
    `config` is a configuration whose task says it, in place of them or of the run's.

    Merged and unmerged model are compared on rows of the run's own data, else on random tokens; the largest difference
    is logged. Raises ConfigError when there is no adapter, its base is missing or another one, or `out` is there
    already; RunFailed when the disk does not take it; RuntimeError when the two do not agree.
    """
    folder = check_out(Path(out))
    saved, given, task, adapted = adapted_model(source, config, base_model, revision)
    batch, rows = inputs_to_compare(saved, given, task, adapted)
    before = outputs_of(adapted, task, batch, rows)
    try:
        merged: Any = task.exported(adapted.merge_and_unload())  # type: ignore[operator]
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"model: PEFT cannot merge {saved.name}: {error}") from error
    del adapted
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with written(folder, "nothing of it is left"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _write(merged, saved, task, temporary)
        del merged
        worst = difference(before, temporary, task, batch, rows)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("merged and unmerged outputs differ by at most %.2g on %s", worst, compared_on(rows))
    return folder


def merge_plan(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    base_model: str | None = None,
    revision: str | None = None,
) -> list[str]:
    """What `merge` would do, in lines for people: everything is checked as there, and nothing is written."""
    folder = check_out(Path(out))
    saved, given, task, adapted = adapted_model(source, config, base_model, revision)
    _, rows = inputs_to_compare(saved, given, task, adapted)
    sizes = {name: part.numel() * part.element_size() for name, part in adapted.named_parameters()}
    kept = sum(size for name, size in sizes.items() if ".lora_" not in name and ".original_module." not in name)
    return [
        f"model        {saved.shown(given)}",
        f"compared on  {compared_on(rows)}",
        f"would write  {folder}: {task.model_class}, about {kept / 1e6:,.1f} MB of weights",
    ]


def adapted_model(
    source: str | os.PathLike[str],
    config: str | Path | Mapping[str, Any] | None,
    base_model: str | None,
    revision: str | None,
) -> tuple[Saved, Any, Task, nn.Module]:
    """An adapter, the configuration that starts from its base, the task, and the model: the adapter on its base."""
    saved = find(os.fspath(source), revision)
    if not saved.is_adapter:
        raise ConfigError(f"model: {saved.name} is no adapter but a whole model, so there is nothing to merge")
    bare = saved.run is None and config is None
    given = as_start(saved, _of_itself(saved, base_model) if bare else settings_of(saved, config), base_model)
    task = recall_task(saved, given, {})
    adapted: Any = load_model(saved, given, task)
    settings = adapted.active_peft_config
    if settings.is_prompt_learning or settings.is_adaption_prompt:
        raise ConfigError(
            f"model: {saved.name} is an adapter of the kind {settings.peft_type.value}, which is put before the input "
            "and not added to weights, so it cannot be merged; use it with PEFT"
        )
    return saved, given, task, adapted


def _of_itself(saved: Saved, base_model: str | None) -> Any:
    """The configuration of an adapter that no run made."""
    base = base_of(saved, None, base_model)
    try:
        base.revision = resolve(base.model_name_or_path or "", base.revision, what="model.model_name_or_path")
        return load(RunConfig, settings_for(saved.folder, saved.name, base, saved.settings))
    except ConfigError as error:
        raise about_base(saved, error) from error


def compared_on(rows: int) -> str:
    """What merged and unmerged model are compared on."""
    return f"{rows} rows of the run's data" if rows else "random inputs"


def check_out(out: str | Path) -> Path:
    """The new folder; ConfigError when something is there already."""
    folder = Path(out).expanduser()
    if os.path.exists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"out: {out} is there already and nothing is written over; name a new folder")
    check_place(folder, "out")
    return folder


def _write(merged: Any, saved: Saved, task: Task, temporary: Path) -> None:
    with quiet():
        merged.save_pretrained(temporary)
    for name, path in model_files(saved.folder).items():
        if name not in LEFT_BEHIND and ".safetensors" not in name:
            (temporary / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, temporary / name)
    task.save_processing(temporary)  # beside an adapter of another library there may be no tokenizer
    if saved.run is not None:
        for name in OF_THE_RUN:
            with suppress(FileNotFoundError):
                shutil.copyfile(saved.run / name, temporary / name)
    readable(temporary)


def inputs_to_compare(saved: Saved, config: Any, task: Task, model: nn.Module) -> tuple[dict[str, Tensor], int]:
    """A batch of the run's own rows and how many they are; of random inputs, and 0, where the rows are not there."""
    files = config.data.validation_file or config.data.train_file or config.data.test_file
    comparable = type(task).reference is Task.reference  # else the loss wants what the start model says
    with suppress(UserError, OSError, StopIteration):
        if files and comparable:
            columns = task.columns()
            found, problems = find_rows([files] if isinstance(files, str) else files, columns, config.data)
            cells = list(islice(found, ROWS_TO_COMPARE))
            problems.raise_any()  # a file that is gone has no rows either
            from datasets import Dataset  # over a second, which every start of a run would pay

            rows = Dataset.from_dict({name: [row[at] for row in cells] for at, name in enumerate(columns)})
            task.recall(saved.settings, {"validation": rows})  # labels may be written as numbers there
            features = encode_here(task, rows)
            numbers = np.arange(min(ROWS_TO_COMPARE, len(features)))
            return collate(task, features, numbers, seed=0, epoch=0), len(numbers)
    return random_inputs(model), 0


def random_inputs(model: Any) -> dict[str, Tensor]:
    """Inputs of the shape that a model takes, the same every time."""
    draw = torch.Generator().manual_seed(0)
    config = model.config
    if model.main_input_name == "pixel_values":
        sides = config.image_size
        height, width = (sides, sides) if isinstance(sides, int) else sides
        return {"pixel_values": torch.randn((ROWS_TO_COMPARE, config.num_channels, height, width), generator=draw)}
    choices = (2,) if type(model.get_base_model()).__name__.endswith("ForMultipleChoice") else ()
    count = config.get_text_config().vocab_size
    ids = torch.randint(count, (ROWS_TO_COMPARE, *choices, TOKENS_TO_COMPARE), generator=draw)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**batch, "decoder_input_ids": ids} if config.is_encoder_decoder else batch


def outputs_of(model: nn.Module, task: Task, batch: dict[str, Tensor], rows: int) -> Tensor:
    """What the model says about a batch; the task knows no labels for random inputs, and is not asked about them."""
    if rows:
        return logits_of(model, task, batch)
    with without_gradients(model):
        found = [value for value in model(**batch).values() if isinstance(value, Tensor)]
    return torch.cat([value.float().flatten() for value in found])


def difference(before: Tensor, folder: Path, task: Task, batch: dict[str, Tensor], rows: int) -> float:
    """The largest difference to what the model saved in a folder says. Raises RuntimeError when that is no rounding."""
    with quiet():
        again = getattr(transformers, task.model_class).from_pretrained(folder, dtype=torch.float32)
    after = outputs_of(again, task, batch, rows)
    worst = float((before - after).abs().max()) if before.shape == after.shape else float("inf")
    if not worst <= TOLERANCE * max(1.0, float(before.abs().max())):
        raise RuntimeError(
            f"the merged model does not say what the adapter on its base says (largest difference {worst:.3g}); "
            "nothing was written, please report this with the run's config.yaml"
        )
    return worst
