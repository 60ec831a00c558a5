"""Repeat a run from its folder, or run any combination of start and strategies that a configuration describes.

    accelerate launch recipes/train.py runs/mine/config.yaml --output_dir runs/again

The other recipes are this one with a check that the configuration is what their name says.
"""

from pipeline.api import main
from pipeline.prepare import adapt, start_model


def build_model(config, task):
    model = start_model(config, task)  # model.model_name_or_path: a checkpoint; model.config: random weights
    return adapt(model, config, task)  # what the strategy sections add


if __name__ == "__main__":
    main("train", build_model)
