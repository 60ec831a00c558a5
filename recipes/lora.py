"""Train low-rank adapters beside the frozen weights of a checkpoint.

    accelerate launch recipes/lora.py recipes/configs/lora_sst2.yaml --lora.r 8

Only the adapters and the task's head are trained and saved; `lora.merge: true` saves a plain model instead.
"""

from pipeline.api import main
from pipeline.prepare import adapt, from_checkpoint


def build_model(config, task):
    model = from_checkpoint(config, task)  # every weight of the checkpoint, a new head where the task needs one
    return adapt(model, config, task)  # lora: {r: 8}: adapters beside the linear layers, the rest stands still


if __name__ == "__main__":
    main("lora", build_model)
