"""What of a run is pushed to a hub, and where to."""

from __future__ import annotations

import re
from typing import Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from pydantic import field_validator, model_validator

from pipeline.config import Section

Kind = Literal["auto", "model", "adapter", "merged", "both"]
REF = re.compile(r"(?!refs/)(?!.*(?:\.\.|//|/$|\.lock$))[A-Za-z0-9][\w./-]{0,99}")
"""A branch or a tag, as git allows both (git-check-ref-format), without what looks like an option."""


REPOSITORY = "expected name or owner/name: letters, digits, - _ and . (none of - and . at an end), at most 96 in all"


class HubConfig(Section):
    push_to_hub: bool = False
    """Push the finished run; `graft push RUN_DIR` does it later."""
    hub_model_id: str | None = None
    """Repository to push to: `me/name`, or `name` for your own account."""
    hub_private_repo: bool = True
    """Make a new repository private; one that is there keeps its visibility."""
    hub_revision: str | None = None
    """Branch to push to, made when it is not there; unset: main."""
    hub_tag: str | None = None
    """Tag for the commit."""
    hub_create_pr: bool = False
    """Open a pull request against the main branch in place of a commit to it."""
    hub_push: Kind = "auto"
    """`adapter`, `merged` into a whole model, or `both`; auto: merged where the adapter's base is a local folder."""
    hub_base_model_id: str | None = None
    """Hub name of the base model, when the run started from a local folder that is on the hub too."""

    @field_validator("hub_model_id", "hub_base_model_id")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                validate_repo_id(value)
            except HFValidationError as error:
                raise ValueError(f"{value!r} cannot be the name of a repository; {REPOSITORY}") from error
        return value

    @field_validator("hub_revision", "hub_tag")
    @classmethod
    def _ref(cls, value: str | None) -> str | None:
        if value is not None and not REF.fullmatch(value):
            raise ValueError(f"{value!r} cannot be the name of a branch or a tag; expected one such as v1.0")
        return value

    @model_validator(mode="after")
    def _together(self) -> HubConfig:
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("push_to_hub needs hub_model_id, the repository to push to, such as me/my-model")
        if self.hub_create_pr and (self.hub_revision or self.hub_tag):
            raise ValueError(
                "hub_create_pr opens a pull request against main, and its commit is tagged when it is merged; leave "
                "out hub_revision and hub_tag"
            )
        return self
