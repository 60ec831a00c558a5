"""Train a model from random weights.

    accelerate launch recipes/pretrain.py recipes/configs/pretrain_text.yaml --learning_rate 1e-3

The YAML names a tokenizer and an architecture (`model.config`); every weight is drawn by `model.init` and trained.
"""

from pipeline.api import main
from pipeline.prepare import adapt, from_config


def build_model(config, task):
    model = from_config(config, task)  # the architecture of model.config, its weights drawn from train.seed
    return adapt(model, config, task)  # nothing, unless a strategy section adds something


if __name__ == "__main__":
    main("pretrain", build_model)
