"""How random weights are drawn: schemes by name, depth scaling, and the proof that every tensor was drawn."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipeline.config import resolve
from pipeline.errors import ConfigError
from pipeline.models.inspect import layer_lists

logger = logging.getLogger(__name__)

Scheme = Callable[[Tensor, float, Generator], float]
"""Fills a weight (outputs, inputs, *kernel) in place and returns the standard deviation it should now have.

The float given is the standard deviation the architecture's config asks for (`initializer_range`).
"""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
RESIDUAL_OUTPUTS = [
    "o_proj",
    "out_proj",
    "down_proj",
    "c_proj",
    "fc2",
    "wo",
    "Wo",
    "out_lin",
    "lin2",
    "fc_out",
    "dense_4h_to_h",
    "ffn_output",
    "output.dense",
    "attention.dense",
    "self_attn.dense",
    "SelfAttention.o",
    "EncDecAttention.o",
]
"""Ends of the names of the linear layers that write into the residual stream, over the architectures we know."""
TRUNCATED_SPREAD = 0.8796256610342398
"""Standard deviation of a standard normal cut at two standard deviations."""


def fans(weight: Tensor) -> tuple[int, int]:
    """Inputs and outputs of one unit of a weight (outputs, inputs, *kernel)."""
    receptive_field = weight[0, 0].numel()
    return weight.shape[1] * receptive_field, weight.shape[0] * receptive_field


def xavier_uniform(weight: Tensor, std: float, generator: Generator) -> float:
    """Glorot and Bengio 2010, equation 16."""
    nn.init.xavier_uniform_(weight, generator=generator)
    return math.sqrt(2 / sum(fans(weight)))


def xavier_normal(weight: Tensor, std: float, generator: Generator) -> float:
    """Glorot and Bengio 2010, with a normal distribution of the same variance."""
    nn.init.xavier_normal_(weight, generator=generator)
    return math.sqrt(2 / sum(fans(weight)))


def he_uniform(weight: Tensor, std: float, generator: Generator) -> float:
    """He et al. 2015, equation 10, uniform, fan-in."""
    nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
    return math.sqrt(2 / fans(weight)[0])


def he_normal(weight: Tensor, std: float, generator: Generator) -> float:
    """He et al. 2015, equation 10, fan-in."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    return math.sqrt(2 / fans(weight)[0])


def lecun_normal(weight: Tensor, std: float, generator: Generator) -> float:
    """LeCun et al. 1998, section 4.6: variance 1 / fan-in."""
    nn.init.kaiming_normal_(weight, nonlinearity="linear", generator=generator)
    return math.sqrt(1 / fans(weight)[0])


def orthogonal(weight: Tensor, std: float, generator: Generator) -> float:
    """Saxe et al. 2014: rows (or columns, whichever are fewer) are orthonormal."""
    nn.init.orthogonal_(weight, generator=generator)
    return math.sqrt(1 / max(weight.shape[0], weight[0].numel()))


def trunc_normal(weight: Tensor, std: float, generator: Generator) -> float:
    """Normal with the config's standard deviation, redrawn beyond two of them, as BERT's authors trained it."""
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)
    return TRUNCATED_SPREAD * std


def default(weight: Tensor, std: float, generator: Generator) -> float:
    """What the architecture's authors chose; transformers has drawn it already."""
    return weight.std(correction=0).item()


INITS: dict[str, Scheme] = {
    "default": default,
    "xavier_uniform": xavier_uniform,
    "xavier_normal": xavier_normal,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
    "lecun_normal": lecun_normal,
    "orthogonal": orthogonal,
    "trunc_normal": trunc_normal,
}


@torch.no_grad()
def initialize(model: PreTrainedModel, scheme: str = "default", *, depth_scaled: bool = False, seed: int = 0) -> None:
    """Draw every weight of `model` anew, in place; the same seed gives the same weights.

    Embeddings, biases and norms get what the architecture's authors chose (normal with `initializer_range`, zeros,
    ones). A scheme other than `default` then draws the weight matrices of linear and convolution layers; a fused
    projection such as GPT-2's `c_attn` counts as one matrix, and a head tied to the embedding follows the embedding.
    Each matrix has its own generator, made from the seed and its name, so a wider head moves no other weight.
    The global random state is left as it was.

    Raises RuntimeError naming the tensors when one was skipped: transformers passes over flagged tensors in silence.
    """
    draw = resolve(INITS, scheme, what="model.init")
    _architecture_default(model, seed)
    std = _config_std(model)
    expected: dict[str, float] = {}
    for name, weight in _matrices(model):
        expected[name] = draw(weight, std, _generator(weight, seed, name))
    if scheme != "default":
        _warn_of_others(model, scheme)
    if depth_scaled:
        scale_by_depth(model, expected, redraw_seed=seed if scheme == "default" else None)
    verify(model, expected, orthonormal=scheme == "orthogonal" and not depth_scaled)


def scale_by_depth(model: PreTrainedModel, expected: dict[str, float], *, redraw_seed: int | None) -> None:
    """Multiply the projections that write into the residual stream by 1/sqrt(2 * layers) (GPT-2, section 2.3).

    Under the default scheme they are drawn anew around the config's standard deviation instead, since some
    architectures (GPT-2, ModernBERT) scale them already and would be scaled twice.
    """
    stacks = layer_lists(model)
    # ALBERT has one block and runs it num_hidden_layers times.
    alone = int(model.config.get_text_config().num_hidden_layers) if len(stacks) == 1 else 0
    depths = {f"{prefix}.": alone or len(prefixes) for prefixes in stacks for prefix in prefixes}
    matched = 0
    for name, weight in _matrices(model):
        depth = next((depth for prefix, depth in depths.items() if name.startswith(prefix)), None)
        if depth is None or not name.removesuffix(".weight").endswith(tuple(f".{end}" for end in RESIDUAL_OUTPUTS)):
            continue
        matched += 1
        factor = 1 / math.sqrt(2 * depth)
        if redraw_seed is not None and "initializer_range" in model.config.to_dict():
            expected[name] = _config_std(model)
            nn.init.normal_(weight, std=expected[name], generator=_generator(weight, redraw_seed, name))
        weight.mul_(factor)
        expected[name] *= factor
    if not matched:
        raise ConfigError(
            f"model.depth_scaled: no projection into the residual stream is known for {model.config.model_type}; "
            "leave depth_scaled out"
        )


def verify(model: PreTrainedModel, expected: dict[str, float], *, orthonormal: bool = False) -> None:
    """Check each tensor against what was to be drawn; RuntimeError names those that differ.

    The sample's standard deviation may miss by six standard errors (1/sqrt(2n)) for its number of elements n.
    """
    skipped = {name for name, parameter in model.named_parameters() if not parameter.isfinite().all()}
    problems = [f"{name}: was never written (transformers has no rule for it, or passed over it)" for name in skipped]
    for name, weight in _matrices(model):
        if name in skipped:
            continue
        measured, wanted = weight.std(correction=0).item(), expected[name]
        if not abs(measured - wanted) <= wanted * (1e-3 + 6 / math.sqrt(2 * weight.numel())):
            problems.append(f"{name}: standard deviation {measured:.4g}, drawn with {wanted:.4g}")
        elif orthonormal and (error := _orthogonality_error(weight)) > 1e-3:
            problems.append(f"{name}: not orthogonal (largest error {error:.2g})")
    if problems:
        raise RuntimeError("initialization did not reach these tensors:\n  " + "\n  ".join(problems))


def _architecture_default(model: PreTrainedModel, seed: int) -> None:
    # NaN marks what transformers passes over, which would otherwise keep whatever memory held.
    for parameter in model.parameters():
        parameter.fill_(math.nan)
    for part in (*model.modules(), *model.parameters(), *model.buffers()):
        vars(part).pop("_is_hf_initialized", None)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model.initialize_weights()
    model.tie_weights()
    for module in model.modules():
        # A head tied to the embedding is drawn after it and fills the padding row again.
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx].zero_()


def _matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and weights (outputs, inputs, *kernel) of linear and convolution layers that are not tied to embeddings."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, Conv1D, *CONVOLUTIONS)) or id(module.weight) in embeddings:
            continue
        weight = module.weight.detach()
        yield f"{name}.weight", weight.T if isinstance(module, Conv1D) else weight


def _warn_of_others(model: nn.Module, scheme: str) -> None:
    """Say which stacks of matrices (experts kept in one tensor) stay as the architecture drew them."""
    covered = {name for name, _ in _matrices(model)}
    others = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 3 and parameter.shape[0] > 1 and name not in covered
    ]
    if others:
        logger.warning(
            "model.init: %s applies to linear and convolution layers; %d other stacked tensors keep the architecture's "
            "own initialization, such as %s",
            scheme,
            len(others),
            others[0],
        )


def _generator(weight: Tensor, seed: int, name: str) -> Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator(device=weight.device).manual_seed(int.from_bytes(digest[:7], "big"))


def _config_std(model: PreTrainedModel) -> float:
    # 0.02 is what transformers itself takes for an architecture whose config names none.
    return float(model.config.get_text_config().to_dict().get("initializer_range") or 0.02)


def _orthogonality_error(weight: Tensor) -> float:
    matrix = weight.flatten(1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return (matrix @ matrix.T - torch.eye(len(matrix), device=weight.device)).abs().max().item()
