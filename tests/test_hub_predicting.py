"""A pushed run predicts and is scored by its hub id, at a commit that is written down, as it is from its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.api import read_config, run_recipe
from pipeline.errors import ConfigError
from pipeline.merging import merge
from pipeline.predicting import predict
from pipeline.publishing import push
from pipeline.scoring import evaluate
from tests.hub_online import online
from tests.hub_server import Hub
from tests.synthetic import checkpoint_for, data_of, settings


@pytest.mark.parametrize("strategy", [None, "lora"])
def test_a_hub_id_is_as_good_as_the_run(strategy: str | None, hub: Hub, tmp_path: Path) -> None:
    base = checkpoint_for("text_classification", tmp_path / "base")
    given = settings("text_classification", strategy, base, tmp_path / "run", max_steps=1)
    rows = data_of(read_config("train", given))
    run = run_recipe("train", given, datasets=rows)
    texts = rows["validation"].select_columns("text")
    expected = predict(run.output_dir, texts, tmp_path / "here.jsonl").read_bytes()
    settings_of_push = {"hub_base_model_id": "owner/base"} if strategy else {}
    with online(hub, tmp_path / "home"):
        push(run.output_dir, hub_model_id="owner/mine", **settings_of_push)
    more: dict[str, Any] = {"base_model": str(base)} if strategy else {}
    with online(hub, tmp_path / "other-home"):
        found = predict("owner/mine", texts, tmp_path / "there.jsonl", revision="main", **more)
        scored = evaluate("owner/mine", datasets=rows, output_dir=tmp_path / "scored", **more)
        if strategy:
            assert (merge("owner/mine", tmp_path / "merged", **more) / "config.json").is_file()
        with pytest.raises(ConfigError, match="owner/nobody"):
            predict("owner/nobody", texts)
        with pytest.raises(ConfigError, match="revision: .*other"):
            predict("owner/mine", texts, revision="other")
    assert found.read_bytes() == expected
    assert scored.metrics["validation"] == run.results["metrics"]["validation"]
    written = json.loads((tmp_path / "scored" / "evaluation.json").read_text())
    assert written["model"] == {"name": "owner/mine", "local": False, "revision": written["model"]["revision"]}
    assert len(written["model"]["revision"]) == 40
    assert written["metrics"]["validation"] == run.results["metrics"]["validation"]
