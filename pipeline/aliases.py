"""What settings are called elsewhere: old transformers names and other trainers' names, for error messages only."""

from __future__ import annotations

RENAMED: dict[str, str] = {
    # sections
    "training": "train",
    "trainer": "train",
    "evaluation": "eval",
    "peft": "lora",
    "checkpointing": "checkpoint",
    # model
    "base_model": "model.model_name_or_path",
    "model_name": "model.model_name_or_path",
    "model_path": "model.model_name_or_path",
    "model_id": "model.model_name_or_path",
    "pretrained_model_name_or_path": "model.model_name_or_path",
    "checkpoint_dir": "model.model_name_or_path",
    "model.name": "model.model_name_or_path",
    "model.path": "model.model_name_or_path",
    "tokenizer": "model.tokenizer_name_or_path",
    "tokenizer_name": "model.tokenizer_name_or_path",
    "model_config": "model.config",
    "config_name": "model.config",
    "config_overrides": "model.config",
    "model_revision": "model.revision",
    "attention_implementation": "model.attn_implementation",
    "init_scheme": "model.init",
    "initialization": "model.init",
    # data
    "data_files": "data.train_file",
    "train_data": "data.train_file",
    "train_path": "data.train_file",
    "eval_file": "data.validation_file",
    "valid_file": "data.validation_file",
    "dev_file": "data.validation_file",
    "eval_dataset": "data.validation_file",
    "dataset_config_name": "data.dataset_config",
    "dataset_split": "data.dataset_train_split",
    "text_field": "data.text_column",
    "dataset_text_field": "data.text_column",
    "text_column_name": "data.text_column",
    "label_column_name": "data.label_column",
    "label_field": "data.label_column",
    "sequence_len": "data.max_length",
    "cutoff_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "model_max_length": "data.max_length",
    "block_size": "data.max_length",
    "seq_length": "data.max_length",
    "val_size": "data.validation_split_fraction",
    "val_set_size": "data.validation_split_fraction",
    "test_size": "data.validation_split_fraction",
    "max_samples": "data.max_train_samples",
    "sample_packing": "data.packing",
    "neat_packing": "data.packing",
    "packing_strategy": "data.packing",
    "field_messages": "data.messages_column",
    # strategies
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "rank": "lora.r",
    "alpha": "lora.lora_alpha",
    "lora.dropout": "lora.lora_dropout",
    "lora_target": "lora.target_modules",
    "lora_target_modules": "lora.target_modules",
    "freeze_layers": "freeze.num_layers",
    "num_freeze_layers": "freeze.num_layers",
    "freeze_trainable_layers": "freeze.num_layers",
    # optim
    "lr": "optim.learning_rate",
    "optimizer": "optim.name",
    "optimizer_name": "optim.name",
    "optim.type": "optim.name",
    "optim.optimizer": "optim.name",
    "scheduler": "optim.lr_scheduler_type",
    "lr_scheduler": "optim.lr_scheduler_type",
    "schedule": "optim.lr_scheduler_type",
    "lr_warmup_steps": "optim.warmup_steps",
    "num_warmup_steps": "optim.warmup_steps",
    "wd": "optim.weight_decay",
    # train
    "num_epochs": "train.num_train_epochs",
    "epochs": "train.num_train_epochs",
    "max_epochs": "train.num_train_epochs",
    "num_train_steps": "train.max_steps",
    "max_train_steps": "train.max_steps",
    "global_batch_size": "train.train_batch_size",
    "precision": "train.mixed_precision",
    "dtype": "train.mixed_precision",
    "torch_dtype": "train.mixed_precision",
    "gradient_clipping": "train.max_grad_norm",
    "grad_clip": "train.max_grad_norm",
    "clip_grad_norm": "train.max_grad_norm",
    "activation_checkpointing": "train.gradient_checkpointing",
    "enable_activation_checkpointing": "train.gradient_checkpointing",
    "random_seed": "train.seed",
    # eval, checkpoint, output
    "per_device_eval_batch_size": "eval.eval_batch_size",
    "best_metric": "eval.metric_for_best_model",
    "patience": "eval.early_stopping_patience",
    "save_limit": "checkpoint.save_total_limit",
    "resume_from_checkpoint": "checkpoint.resume",
    "auto_resume_from_checkpoints": "checkpoint.resume",
    "push_to_hub_model_id": "hub.hub_model_id",
    "export_hub_model_id": "hub.hub_model_id",
    "hub_repo_id": "hub.hub_model_id",
    "repo_id": "hub.hub_model_id",
    "hub_branch": "hub.hub_revision",
    "hub_private": "hub.hub_private_repo",
    "private": "hub.hub_private_repo",
    "create_pr": "hub.hub_create_pr",
    "out_dir": "output_dir",
    "output_folder": "output_dir",
}
"""Name elsewhere -> name here. A name in one section only is written with it (`lora.dropout`)."""

TOKEN = "a secret does not belong in a configuration, which is saved; log in with `hf auth login` or set HF_TOKEN"

INSTEAD: dict[str, str] = {
    "chat_template": "write it in the task: `task: {name: causal_lm, chat_template: chatml}`",
    "template": "name the format of conversations in the task: `task: {name: causal_lm, chat_template: chatml}`",
    "train_on_inputs": "write it in the task: `task: {name: causal_lm, assistant_only_loss: false}`",
    "assistant_only_loss": "write it in the task: `task: {name: causal_lm, assistant_only_loss: false}`",
    "completion_only_loss": "with data.prompt_column and data.response_column only the response is learned",
    "per_device_train_batch_size": (
        "set train.train_batch_size, the rows one optimizer step sees on all devices together, and "
        "train.micro_batch_size for what fits in memory at once"
    ),
    "batch_size": (
        "set train.train_batch_size, the rows one optimizer step sees on all devices together (train.micro_batch_size "
        "is what fits in memory at once)"
    ),
    "gradient_accumulation_steps": (
        "it follows from train.train_batch_size (rows per optimizer step, all devices together) and "
        "train.micro_batch_size (rows in memory at once)"
    ),
    "warmup_ratio": "set optim.warmup_steps to a number below 1; it is then the share of all steps",
    "bf16": "set train.mixed_precision: bf16",
    "fp16": "set train.mixed_precision: fp16",
    "finetuning_type": "a strategy is on when its section is there: `lora: {}`, `freeze: {}`, or none for all weights",
    "adapter": "a strategy is on when its section is there: write `lora: {}`",
    "adapters": "a strategy is on when its section is there: write `lora: {}`",
    "use_peft": "a strategy is on when its section is there: write `lora: {}`",
    "use_lora": "a strategy is on when its section is there: write `lora: {}`",
    "evaluation_strategy": "set eval.eval_steps to evaluate every so many steps",
    "eval_strategy": "set eval.eval_steps to evaluate every so many steps",
    "evals_per_epoch": "set eval.eval_steps to evaluate every so many steps",
    "save_strategy": "set checkpoint.save_steps to save every so many steps",
    "dataset": "name files in data.train_file, or a dataset of the hub in data.dataset_name",
    "datasets": "name files in data.train_file, or a dataset of the hub in data.dataset_name",
    "dataset_dir": "paths in data.train_file count from the folder you are in; leave it out",
    "save_only_model": "a run can always be gone on with; how much is kept says checkpoint.save_total_limit",
    "plot_loss": "curves.png is drawn after every run; leave it out",
    "overwrite_output_dir": "set checkpoint.resume: never to start over, auto to continue",
    "hub_token": TOKEN,
    "push_to_hub_token": TOKEN,
    "push_to_hub_organization": "write it before the slash: hub.hub_model_id: organization/name",
    "hub_strategy": "the finished model is pushed once, at the end; `graft push RUN_DIR` pushes again",
    "hub_always_push": "the finished model is pushed once, at the end; `graft push RUN_DIR` pushes again",
    "hf_token": TOKEN,
    "api_key": TOKEN,
    "wandb_api_key": TOKEN,
    "password": TOKEN,
    "token": TOKEN,
    "use_auth_token": TOKEN,
    "trust_remote_code": "code from the hub is never run",
    "load_in_8bit": "quantized weights are not supported",
    "load_in_4bit": "quantized weights are not supported",
    "quantization": "quantized weights are not supported",
    "deepspeed": "choose it with `accelerate launch --config_file ...`",
    "num_processes": "choose it with `accelerate launch --num_processes ...`",
    "no_cuda": "choose the device with `accelerate launch --cpu`",
    "use_cpu": "choose the device with `accelerate launch --cpu`",
    "do_train": "the command says it: `graft train`",
    "do_eval": "validation runs whenever there are validation rows",
    "stage": "set `task:` (causal_lm for sft and pt, preference for dpo, ...)",
    "task_name": "set `task:`",
    "task_type": "set `task:`",
    "group_by_length": "set train.train_sampling_strategy: group_by_length",
    "fp32": "set train.mixed_precision: no",
}
"""Name elsewhere -> what to do here, where it is not one setting of another name."""

TASK_NAMES: dict[str, str] = {
    **dict.fromkeys(("sft", "clm", "pt", "language_modeling", "text_generation", "chat", "instruct"), "causal_lm"),
    **dict.fromkeys(("mlm", "fill_mask"), "masked_lm"),
    **dict.fromkeys(("sequence_classification", "regression", "sentiment_analysis"), "text_classification"),
    **dict.fromkeys(("ner", "pos", "tagging"), "token_classification"),
    **dict.fromkeys(("qa", "squad", "extractive_qa"), "question_answering"),
    **dict.fromkeys(("translation", "summarization", "text2text", "text2text_generation"), "seq2seq"),
    **dict.fromkeys(("vision", "image"), "image_classification"),
    **dict.fromkeys(("swag", "multiple_choice_qa"), "multiple_choice"),
    **dict.fromkeys(("sentence_similarity", "feature_extraction", "retrieval"), "embedding"),
    "dpo": "preference",
}
"""What other tools call a task -> its name here."""
ONLY_MARKED = (
    "answers that are only marked good or bad (KTO) are not learned from; give pairs of answers to task: preference, "
    "or the good rows alone to task: causal_lm"
)
NO_TASK: dict[str, str] = {
    "kto": ONLY_MARKED,
    **dict.fromkeys(
        ("rm", "reward", "reward_modeling", "ppo", "grpo", "orpo", "simpo"),
        "is not done here; preferences are learned from pairs of answers by task: preference (DPO)",
    ),
}
"""What other tools call a task that is not there -> what to do."""
SCALAR_SECTIONS: dict[str, str] = {
    "optim": "name",
    "model": "model_name_or_path",
    "data": "train_file",
    "lora": "r",
    "freeze": "num_layers",
    "layerwise": "decay",
    "l1": "weight",
    "l2sp": "weight",
}
"""Section -> the key most likely meant when the section is given as one value (`optim: adamw`)."""


def foreign_name(key: str, section: str | None = None) -> str | None:
    """What to write instead of a key known from elsewhere, or None."""
    for name in ([f"{section}.{key}"] if section else []) + [key]:
        if name in RENAMED:
            return f"its name here is {RENAMED[name]!r}"
        if name in INSTEAD:
            return INSTEAD[name]
    return None
