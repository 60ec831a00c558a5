"""Push a finished run to a hub: the model, its card and its numbers, in one commit; a run is never the worse for it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import constants

from pipeline.config import load
from pipeline.errors import ConfigError, DataError, SaysAll, UserError
from pipeline.hub import HubConfig
from pipeline.hub.cleaning import clean_json, clean_run, on_hub
from pipeline.hub.files import MERGED, VOCABULARIES, left_out, model_files, refuse_secrets, run_files
from pipeline.hub.patience import online, quietly, short_reason
from pipeline.hub.settings import Kind
from pipeline.hub.upload import Pushed, signed_in, upload
from pipeline.merging import merge
from pipeline.reports.card import write_card
from pipeline.reports.read import read_run
from pipeline.safe_text import clean, masked
from pipeline.untouched import untouched
from pipeline.yaml_file import read_mapping

TEXTS = ("config.yaml", "manifest.json", "results.json", "data.json", "metrics.jsonl")


class NotPushed(SaysAll, Exception):
    """A push that did not come to its end; the run is whole, and `command` pushes it later."""

    exit_code = 1

    def __init__(self, reason: str, command: str):
        self.reason, self.command = reason, command
        super().__init__(f"not pushed: {reason}\nto push it later: {command}")


@dataclass
class Staged:
    """What would be sent: name in the repository -> file; and what is to be said about it."""

    files: dict[str, Path]
    notes: list[str]


@untouched()
def push(run_dir: str | os.PathLike[str], hub_model_id: str | None = None, **settings: Any) -> Pushed:
    """Push a finished run to the repository `hub_model_id` of the hub behind HF_ENDPOINT, in one commit.

    `settings` are those of the `hub` section; what is not given is as the run's own configuration has it. Returns what
    came of it. Raises ConfigError or DataError for a mistake (nothing was sent then), NotPushed when the hub did not
    take it; its text ends with the command that pushes later.
    """
    config = settings_of(Path(run_dir), {**settings, **({"hub_model_id": hub_model_id} if hub_model_id else {})})
    return _push(Path(run_dir), config)


def settings_of(run_dir: Path, overrides: Sequence[str] | Mapping[str, Any]) -> HubConfig:
    """The `hub` section of a run's configuration, with the overrides. Raises ConfigError or DataError."""
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: there is no such run folder")
    file = run_dir / "config.yaml"
    own = read_mapping(file).values.get("hub") if file.is_file() else None
    config = load(HubConfig, {**(own or {}), "push_to_hub": False}, overrides)
    if config.hub_model_id is None:
        raise ConfigError("hub_model_id: is not set; name the repository to push to, such as --hub_model_id me/name")
    return config


def _push(run_dir: Path, config: HubConfig) -> Pushed:
    with ExitStack() as held:
        try:
            kind = what_to_push(run_dir, config)
            if constants.is_offline_mode():
                raise NotPushed("offline mode is on (HF_HUB_OFFLINE)", later(run_dir, config))
            held.enter_context(quietly())
            facts = signed_in(config)
            staged = held.enter_context(stage(run_dir, config, facts.name, kind))
            pushed = upload(staged.files, config, facts, f"Model of the run {facts.name.split('/')[-1]} (graft)")
        except (UserError, NotPushed):
            raise
        except Exception as error:
            raise NotPushed(short_reason(error), later(run_dir, config)) from error
    pushed.notes.extend(staged.notes)
    return pushed


def what_to_push(run_dir: Path, config: HubConfig) -> Kind:
    """`model`, `adapter`, `merged` or `both`. Raises DataError without a finished run, ConfigError for a wrong kind."""
    run = read_run(run_dir)
    if run.manifest.get("status") != "finished" or not (run_dir / "model").is_dir():
        raise DataError(
            f"{run_dir}: this run is not finished (its status is {run.manifest.get('status')!r}), and has no model to "
            "push; finish it with the command that started it"
        )
    kind, is_adapter = config.hub_push, (run_dir / "model" / "adapter_config.json").is_file()
    if is_adapter and kind == "model":
        raise ConfigError("hub_push: this run made an adapter; expected adapter, merged or both")
    if not is_adapter and kind not in ("auto", "model"):
        raise ConfigError(f"hub_push: this run made a whole model, not an adapter; leave out {kind}")
    if kind != "auto":
        return kind
    if not is_adapter:
        return "model"
    return "adapter" if config.hub_base_model_id or on_hub(base_of(run_dir)) else "merged"


def base_of(run_dir: Path) -> str:
    """The name of the model or folder that a run's adapter belongs to."""
    settings = json.loads((run_dir / "model" / "adapter_config.json").read_text(encoding="utf-8"))
    return str(settings.get("base_model_name_or_path"))


@contextmanager
def stage(run_dir: Path, config: HubConfig, name: str, kind: Kind) -> Iterator[Staged]:
    """The files to send, cleaned and searched for secrets; weights stay where they are, texts are copies.

    The card is written from the cleaned copies, so it cannot say more than they do.
    """
    with TemporaryDirectory(prefix="graft-push-", ignore_cleanup_errors=True) as temporary:
        run, model = Path(temporary, "run"), (run_dir / "model").absolute()
        run.mkdir()
        clean_run(run_dir, run, TEXTS, config.hub_base_model_id)
        for figure in (path for pattern in ("*.png", "*.svg") for path in run_dir.glob(pattern)):
            (run / figure.name).symlink_to(figure.absolute())
        merged, notes = Path(temporary, MERGED), []
        if kind in ("merged", "both"):
            merge(run_dir, merged)
        root = merged if kind == "merged" else model
        (run / "model").symlink_to(root)
        base = config.hub_base_model_id
        write_card(run, name, hub_revision=config.hub_revision, hub_base_model_id=base, merged=kind == "both")
        files = _cleaned(model_files(root), Path(temporary, "texts"), base)
        if kind == "both":
            more = _cleaned(model_files(merged), Path(temporary, "merged-texts"), base)
            files |= {f"{MERGED}/{path}": file for path, file in more.items()}
        if left := left_out(model):
            notes.append(f"not sent, being on no list of what a model needs: {', '.join(left)}")
        if kind == "merged" and config.hub_push == "auto":
            notes.append("the adapter's base is a folder of this machine, so it was pushed merged into it")
        elif kind == "adapter" and not config.hub_base_model_id and not on_hub(base_of(run_dir)):
            notes.append(
                "nobody else can load this adapter: its base is a folder here (--hub_base_model_id, --hub_push)"
            )
        files |= run_files(run)
        refuse_secrets(files)
        yield Staged(files, notes)


def _cleaned(files: dict[str, Path], texts: Path, base_model_id: str | None) -> dict[str, Path]:
    """The files of a model, with copies in `texts` for those that held a local path."""
    found = dict(files)
    for name, path in files.items():
        if path.suffix == ".json" and path.name not in VOCABULARIES:
            changed = clean_json(path, base_model_id)
            if changed is not None:
                found[name] = texts / name
                found[name].parent.mkdir(parents=True, exist_ok=True)
                found[name].write_text(changed, encoding="utf-8")
    return found


def push_finished(run_dir: Path, config: HubConfig, *, offline: bool) -> str:
    """Push at the end of a run and say what came of it; never raises. `offline`: the user asked for offline mode."""
    try:
        with heeding_sigterm(), nullcontext() if offline else online():
            return words(_push(run_dir, config))
    except NotPushed as error:
        return str(error)
    except KeyboardInterrupt:
        return str(NotPushed("stopped", later(run_dir, config)))
    except Exception as error:  # whatever it is, the run is finished and whole
        return str(NotPushed(short_reason(error), later(run_dir, config)))


class Terminated(KeyboardInterrupt):
    """SIGTERM came, from a scheduler whose time is up."""


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """Let SIGTERM end what is inside as Ctrl-C does, so that the last line can be said."""
    if threading.current_thread() is not threading.main_thread():  # only that one hears signals
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def words(pushed: Pushed) -> str:
    return "\n".join([*pushed.notes, str(pushed)])


def later(run_dir: Path, config: HubConfig) -> str:
    """The command that pushes a run, quoted for the shell."""
    parts = ["graft", "push", str(run_dir)]
    for key, field in HubConfig.model_fields.items():
        value = getattr(config, key)
        if key != "push_to_hub" and value != field.default:
            parts += [f"--{key}", str(value).lower() if isinstance(value, bool) else value]
    return shlex.join(parts)


def push_command(run_dir: Path, arguments: Sequence[str]) -> int:
    """`graft push`: returns 0 when the hub has the files, 1 when it did not take them, 130 or 143 when stopped."""
    given = [word for word in arguments if word not in ("--dry_run", "--dry-run")]
    config = settings_of(run_dir, given)
    try:
        if len(given) < len(arguments):
            show(run_dir, config)
        else:
            with heeding_sigterm():
                _say(words(_push(run_dir, config)))
    except NotPushed as error:
        _say(f"graft push: {error}")
        return error.exit_code
    except KeyboardInterrupt as stop:
        _say(str(NotPushed("stopped", later(run_dir, config))))
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    return 0


def show(run_dir: Path, config: HubConfig) -> None:
    """Print what would be sent, and where to; no hub is asked."""
    with quietly(), stage(run_dir, config, str(config.hub_model_id), what_to_push(run_dir, config)) as staged:
        for name, path in sorted(staged.files.items()):
            print(f"{path.stat().st_size:>14,}  {clean(name)}")
        total = sum(path.stat().st_size for path in staged.files.values())
        print(f"{total:>14,}  bytes in {len(staged.files)} files would go to {config.hub_model_id}")
        for note in staged.notes:
            print(clean(note))


def _say(text: str) -> None:
    print(clean(masked(text), keep_lines=True), file=sys.stderr, flush=True)
