"""The reference of the server lists its settings with their defaults, and its metrics."""

import re
from typing import Any

import msgspec
from support.markdown import ROOT

from interlock.serve.metrics import Metrics
from interlock.serve.rollout.metrics import RolloutMetrics
from interlock.serve.settings import ModelSettings, Settings

TEXT = (ROOT / "docs" / "reference" / "serve.md").read_text()


def defaults(kind: Any) -> dict[str, str]:
    """Name -> default, as the page writes it."""
    words = {"None": "none", "False": "false", "True": "true", "NODEFAULT": "required"}
    found = {field.name: str(field.default) for field in msgspec.structs.fields(kind)}
    return {name: words.get(value, value) for name, value in found.items()}


def test_every_setting_is_listed_with_its_default_and_what_it_is() -> None:
    settings = TEXT.partition("## Settings")[2].partition("## Metrics")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| (\S+) \| \S.* \|$", settings, flags=re.M))
    expected = defaults(Settings) | defaults(ModelSettings)
    del expected["models"]
    assert listed == expected


def test_every_metric_is_listed() -> None:
    listed = set(re.findall(r"`(interlock_[a-z_]+?)(?:_total)?`", TEXT))
    registry = Metrics().registry
    RolloutMetrics(registry, [])
    kept = {family.name for family in registry.collect()}
    assert {name for name in kept if name.startswith("interlock_")} <= listed
