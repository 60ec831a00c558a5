"""Ask a hub again when it is busy or gone for a moment, also where huggingface_hub gives up at once."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from huggingface_hub.utils import logging as hub_logging

from pipeline.safe_text import masked

logger = logging.getLogger("graft")
T = TypeVar("T")
TRIES = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before the second try, doubled before each further one; and the most that a hub may ask us to wait."""
IDLE_SECONDS = 300.0
"""How long an answer may take; huggingface_hub itself would wait for ever."""
BUSY = {408, 409, 412, 429, 500, 502, 503, 504}
"""Answers that pass: busy, broken for a moment, or another commit came in between."""


class AskedToWait(Exception):
    """The hub wants a longer pause than a run should take."""

    def __init__(self, seconds: float):
        super().__init__(f"the hub asks to wait {seconds:,.0f} s")


def patiently(ask: Callable[[], T]) -> T:
    """What `ask` returns, tried up to five times while the hub is busy or does not answer.

    `ask` must be harmless to repeat. Raises what the last try raised, AskedToWait for a pause above a minute.
    """
    for attempt in range(TRIES):
        try:
            with bounded():
                return ask()
        except Exception as error:
            if attempt + 1 == TRIES or not passes(error):
                raise
            wait = max(retry_after(error), min(FIRST_WAIT * 2**attempt, LONGEST_WAIT))
            logger.warning("%s; trying again in %.0f s (%d of %d)", short_reason(error), wait, attempt + 2, TRIES)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


@contextmanager
def bounded() -> Iterator[None]:
    """Requests inside end after a time without an answer, and a long Retry-After is an error instead of a sleep."""
    client = get_session()
    timeout, hooks = client.timeout, client.event_hooks
    client.timeout = IDLE_SECONDS
    client.event_hooks = {**hooks, "response": [*hooks.get("response", []), _refuse_long_waits]}
    try:
        yield
    finally:
        client.timeout, client.event_hooks = timeout, hooks


def _refuse_long_waits(response: Any) -> None:
    if response.status_code >= 400 and (seconds := wait_of(response)) > LONGEST_WAIT:
        raise AskedToWait(seconds)


def wait_of(response: Any) -> float:
    """Seconds that an answer asks to wait (Retry-After: a number or a date); 0 when it does not."""
    given = response.headers.get("Retry-After", "").strip()
    if given.isdigit():
        return float(given)
    try:
        return max(0.0, (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def retry_after(error: BaseException) -> float:
    found = http_error(error)
    return wait_of(found.response) if isinstance(found, HfHubHTTPError) else 0.0


def http_error(error: BaseException | None) -> HTTPError | None:
    """What went wrong between us and the hub, also where huggingface_hub wraps it (an upload in a thread)."""
    while error is not None and not isinstance(error, HTTPError):
        error = error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """The hub's answer, such as 503; None when there was none."""
    found = http_error(error)
    return found.response.status_code if isinstance(found, HfHubHTTPError) else None


def passes(error: BaseException) -> bool:
    """Whether another try may go well."""
    status = status_of(error)
    return status in BUSY if status is not None else http_error(error) is not None


def short_reason(error: BaseException) -> str:
    """A sentence without a secret, for a line of the terminal."""
    status, endpoint = status_of(error), masked(constants.ENDPOINT)
    if status == 401:
        return f"the hub ({endpoint}) does not accept the token, or there is none; log in with `hf auth login`"
    if status == 403:
        return f"the token may not do this on the hub ({endpoint}): {_said(error)}"
    if status == 429:
        return f"the hub ({endpoint}) asks to slow down (429)"
    if status is not None:
        return f"the hub ({endpoint}) answers {status}: {_said(error)}"
    if http_error(error) is not None:
        return f"the hub ({endpoint}) does not answer ({type(http_error(error)).__name__})"
    while error.__cause__ is not None:
        error = error.__cause__
    return masked(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


def _said(error: BaseException) -> str:
    found = http_error(error)
    said = found.server_message if isinstance(found, HfHubHTTPError) else None
    return masked(" ".join((said or str(error)).split())[:200])


@contextmanager
def quietly() -> Iterator[None]:
    """Keep huggingface_hub's own warnings off the screen, and its progress bars where there is no terminal."""
    level, bars = hub_logging.get_verbosity(), not are_progress_bars_disabled()
    hub_logging.set_verbosity_error()
    if bars and not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)
        if bars:
            enable_progress_bars()


@contextmanager
def online() -> Iterator[None]:
    """Lift offline mode, which a run takes on when the hub did not answer at its start."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
