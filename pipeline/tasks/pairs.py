"""Prompts and responses to tokens, with the loss on the responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.tasks.base import Features


def encode_pairs(tokenizer: Any, prompts: Sequence[str], responses: Sequence[str], *, max_length: int) -> Features:
    """Prompt and response are tokenized apart, so that no token straddles the border of what is learned.

    Features as those of `encode_chats`; EOS behind a response is learned too. A response that does not fit in
    `max_length` is cut at the end; a prompt never is.
    """
    eos = tokenizer.eos_token_id
    heads = tokenizer(list(prompts), verbose=False)["input_ids"]
    tails = tokenizer(list(responses), add_special_tokens=False, verbose=False)["input_ids"]
    names = ("input_ids", "trained", "num_trained", "num_prompt_tokens", "num_bytes", "full_length")
    features: Features = {name: [] for name in names}
    for head, tail, response in zip(heads, tails, responses, strict=True):
        head = head[:-1] if head and head[-1] == eos else head
        tail = tail if eos is None else [*tail, eos]
        kept = max(0, min(len(tail), max_length - len(head)))
        features["input_ids"].append(head + tail[:kept])
        features["trained"].append([0] * len(head) + [1] * kept)
        features["num_trained"].append(kept)
        features["num_prompt_tokens"].append(len(head))
        features["num_bytes"].append(len(response.encode("utf-8", "surrogatepass")) * kept / max(1, len(tail)))
        features["full_length"].append(len(head) + len(tail))
    return features
