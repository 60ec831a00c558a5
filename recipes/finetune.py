"""Tune every weight of a checkpoint.

    accelerate launch recipes/finetune.py recipes/configs/finetune_sst2.yaml --learning_rate 2e-5

A task that needs a head of its own (classification) gets a new one; it is trained with the rest.
"""

from pipeline.api import main
from pipeline.prepare import adapt, from_checkpoint


def build_model(config, task):
    model = from_checkpoint(config, task)  # every weight of the checkpoint, a new head where the task needs one
    return adapt(model, config, task)  # nothing: all of it moves


if __name__ == "__main__":
    main("finetune", build_model)
