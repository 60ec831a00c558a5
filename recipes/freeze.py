"""Tune the later layers of a checkpoint; the early ones keep their weights.

    accelerate launch recipes/freeze.py recipes/configs/freeze_sst2.yaml --freeze.num_layers 4

Backward stops below the first layer that moves, so a step costs less time and memory than full tuning.
"""

from pipeline.api import main
from pipeline.prepare import adapt, from_checkpoint


def build_model(config, task):
    model = from_checkpoint(config, task)  # every weight of the checkpoint, a new head where the task needs one
    return adapt(model, config, task)  # freeze: {num_layers: 4} is a rule: those parameters get learning rate 0


if __name__ == "__main__":
    main("freeze", build_model)
