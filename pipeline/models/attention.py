"""Attention kernels that are packages of their own: refused with the line that installs them, never fetched."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from pipeline.errors import ConfigError
from pipeline.models.settings import ModelConfig

KEY = "model.attn_implementation"
PACKAGES = {
    "flash_attention_2": ("flash-attn", is_flash_attn_2_available, "pip install --no-build-isolation flash-attn"),
    "flash_attention_3": (
        "flash-attn-3",
        is_flash_attn_3_available,
        "pip install --no-build-isolation 'git+https://github.com/Dao-AILab/flash-attention#subdirectory=hopper'",
    ),
}
"""Kernel -> its package, whether transformers can use it here, and the line that builds it against the torch here."""


def attention(config: ModelConfig, named: str | None) -> dict[str, str]:
    """What `from_pretrained` and `from_config` are told of the attention kernel: the one asked for.

    `named` is the one that the model's own config names, which counts where none is asked for. ConfigError for a kernel
    that cannot be used here: where the package `kernels` is installed, transformers would fetch one from the hub
    in its place and run it.
    """
    asked = config.attn_implementation
    problem = unusable(asked or named or "")
    if problem is not None:
        raise ConfigError(f"{KEY}: {problem}" + ("" if asked else "; the model's own config names that kernel"))
    return {} if asked is None else {"attn_implementation": asked}


def unusable(name: str) -> str | None:
    """What stands against a kernel on this machine."""
    if not name.startswith("flash_attention"):
        return None
    if name not in PACKAGES:
        return f"{name} is not known here; set sdpa"
    package, is_usable, line = PACKAGES[name]
    if is_usable():
        return None
    try:
        found = version(package)
    except PackageNotFoundError:
        return f"{name} needs the package {package}: {line}; or set sdpa, which needs none"
    return f"{name} needs a GPU that {package} {found} runs on, and there is none here; set sdpa"
