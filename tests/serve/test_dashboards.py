"""The files for Grafana and Prometheus name metrics that the server has, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grafana_dashboard
import pytest
import yaml
from support.markdown import ROOT
from support.serving import Running

FILES = ROOT / "examples" / "serve"


def expressions() -> dict[str, str]:
    """Where it stands -> expression."""
    found: dict[str, str] = {}
    for group in yaml.safe_load((FILES / "alerts.yml").read_text())["groups"]:
        found |= {rule["alert"]: rule["expr"] for rule in group["rules"]}
    for panel in json.loads((FILES / "grafana.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


def test_every_metric_that_is_asked_for_exists(server: Running) -> None:
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", server.metrics(), flags=re.M))
    names = set(kinds) | {"up"}
    for name, kind in kinds.items():
        if kind == "histogram":
            names |= {f"{name}_{end}" for end in ("bucket", "sum", "count")}
    asked = expressions()
    assert len(asked) > 30
    for place, expression in asked.items():
        used = set(re.findall(r"\b((?:interlock|process|python)_\w+|up)\b", expression))
        assert used, place
        assert used <= names, place


def test_labels_that_are_asked_for_exist(server: Running) -> None:
    server.infer("affine", [[1.0, 2.0, 3.0]])
    server.get("/health")
    text = server.metrics()
    for expression in expressions().values():
        for metric, selector in re.findall(r"\b(interlock_\w+){([^}]*)}", expression):
            samples = re.findall(rf"^{metric}{{([^}}]*)}}", text, flags=re.M)
            for label in re.findall(r"(\w+)=~?\"", selector):
                if label != "instance" and samples:
                    assert any(f'{label}="' in sample for sample in samples), (metric, label)


def test_a_first_rollback_is_an_increase(server: Running) -> None:
    """Prometheus sees none in a series that begins with 1, so they begin with 0."""
    name = "interlock_rollout_decisions_total"
    assert f'increase({name}{{decision="rolled_back"}}' in expressions()["InterlockRolledBack"]
    for trigger in ("errors", "p99", "memory", "refused", "false_positives", "operator"):
        series = f'{name}{{decision="rolled_back",model="affine",trigger="{trigger}"}} 0.0'
        assert series in server.metrics()


def test_a_first_false_positive_has_a_day_before_it_to_be_compared_with(server: Running) -> None:
    """A share of a series that is not there yet is nothing, and nothing is above it."""
    name = "interlock_feedback_total"
    asked = expressions()["InterlockFalsePositives"]
    assert f'increase({name}{{outcome="false_positive"}}[1d] offset 1h)' in asked
    for version in ("stable", "candidate"):
        for outcome in ("false_positive", "true_negative"):
            labels = f'model="affine",outcome="{outcome}",version="{version}"'
            assert f"{name}{{{labels}}} 0.0" in server.metrics()


def test_a_model_that_fails_on_whatever_it_is_asked_raises_an_alert(server: Running) -> None:
    """It answers 422, which is no error of the server, and is an error all the same."""
    name = "interlock_answers_total"
    asked = expressions()["InterlockFailedAnswers"]
    assert f'{name}{{status="failed"}}' in asked
    assert "> 0.05 *" in asked
    index = {"name": "i", "shape": [1], "datatype": "INT64", "data": [77]}
    reply = server.client.post("/v2/models/gather/infer", json={"inputs": [index]})
    assert reply.status_code == 422
    assert re.search(rf'^{name}{{model="gather",status="failed"}} [1-9]', server.metrics(), re.M)


def test_the_dashboard_is_what_its_script_writes() -> None:
    written: Any = json.loads((FILES / "grafana.json").read_text())
    assert written == json.loads(json.dumps(grafana_dashboard.dashboard()))
    ids = [panel["id"] for panel in written["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("what", [("rules", "alerts.yml"), ("config", "prometheus.yml")])
def test_prometheus_accepts_the_files(what: tuple[str, str], tmp_path: Path) -> None:
    found = subprocess.run(
        ["promtool", "check", what[0], str(FILES / what[1])], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr
