"""Runs on images."""

from __future__ import annotations

from benchmarks.quality.places import DATA, Experiment

MNIST = {
    "task": {"name": "image_classification", "random_crop": 2},
    "model": {
        "config": {
            "model_type": "vit",
            "image_size": 28,
            "patch_size": 7,
            "num_channels": 1,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        }
    },
    "data": {"train_file": f"{DATA}/mnist_png/train.zip", "validation_file": f"{DATA}/mnist_png/test.parquet"},
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "weight_decay": 0.05,
    "learning_rate": 2e-3,
    "train_batch_size": 64,
    "num_train_epochs": 8,
    "seed": 0,
}
REFERENCE = "a small convolutional network should reach 0.97-0.985 from these 10,000 images; no number for a ViT"
EXPERIMENTS: dict[str, Experiment] = {
    "mnist_scratch": ("pretrain", MNIST, REFERENCE),
    "mnist_30_epochs": ("pretrain", {**MNIST, "num_train_epochs": 30}, REFERENCE),
}
