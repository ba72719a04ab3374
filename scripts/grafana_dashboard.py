# One panel a line reads better than ten.
# ruff: noqa: E501
"""Write examples/serve/grafana.json: a dashboard for `interlock serve` on a Prometheus.

python scripts/grafana_dashboard.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "examples" / "serve" / "grafana.json"

RATE = "[$__rate_interval]"
AT = '{instance=~"$instance"}'
OF = '{instance=~"$instance",model=~"$model"}'


def quantile(share: float, metric: str, by: str, where: str = OF) -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{where}{RATE})))"


def rate(metric: str, by: str, where: str = OF) -> str:
    """A counter's rate."""
    return f"sum by ({by}) (rate({metric}{where}{RATE}))"


# Title, unit, kind, and expression -> legend of each panel, row by row.
ROWS: dict[str, list[tuple[str, str, str, dict[str, str]]]] = {
    "Is it well": [
        ("Ready", "bool_yes_no", "stat", {f"min by (model) (interlock_model_ready{OF})": "{{model}}"}),
        ("What runs", "none", "table", {f"interlock_model_info{OF}": ""}),
        ("Canary", "s", "timeseries", {f"interlock_canary_seconds{OF}": "{{model}}"}),
    ],
    "Requests": [
        ("Requests", "reqps", "timeseries", {rate("interlock_requests_total", "endpoint, code", AT): "{{endpoint}} {{code}}"}),
        ("Share of errors", "percentunit", "timeseries", {
            'sum(rate(interlock_requests_total{instance=~"$instance",code=~"5.."}' + RATE + ")) / "
            f"sum(rate(interlock_requests_total{AT}{RATE}))": "5xx",
            'sum(rate(interlock_requests_total{instance=~"$instance",code="429"}' + RATE + ")) / "
            f"sum(rate(interlock_requests_total{AT}{RATE}))": "429",
        }),
        ("Errors by type", "reqps", "timeseries", {rate("interlock_errors_total", "model, code"): "{{model}} {{code}}"}),
        ("Latency", "s", "timeseries", {
            quantile(share, "interlock_request_seconds", "endpoint", AT): f"P{share * 100:.0f} {{{{endpoint}}}}"
            for share in (0.5, 0.95, 0.99)
        }),
        ("P99 by stage", "s", "timeseries", {quantile(0.99, "interlock_stage_seconds", "model, stage"): "{{model}} {{stage}}"}),
        ("Queue", "short", "timeseries", {
            f"interlock_queue_requests{OF}": "{{model}} waiting",
            f"interlock_running_requests{OF}": "{{model}} running",
        }),
    ],
    "Answers": [
        ("Rows by status", "short", "timeseries", {rate("interlock_answers_total", "model, status"): "{{model}} {{status}}"}),
        ("Steps of routes", "short", "timeseries", {rate("interlock_route_steps_total", "model, step, result"): "{{model}} {{step}} {{result}}"}),
        ("Reasons", "short", "timeseries", {f"topk(10, {rate('interlock_reasons_total', 'model, step, reason')})": "{{step}}: {{reason}}"}),
        ("Rows of a request, of a batch", "short", "timeseries", {
            f"{rate('interlock_request_rows_sum', 'model')} / {rate('interlock_request_rows_count', 'model')}": "{{model}} request",
            f"{rate('interlock_batch_rows_sum', 'model')} / {rate('interlock_batch_rows_count', 'model')}": "{{model}} batch",
        }),
        ("Confidence", "short", "heatmap", {f"sum by (le) (increase(interlock_confidence_bucket{OF}{RATE}))": "{{le}}"}),
        ("Seen by rules (l1) and model (l2)", "short", "timeseries", {rate("interlock_detections_total", "model, seen_by"): "{{model}} {{seen_by}}"}),
        ("Labelled answers", "short", "timeseries", {rate("interlock_feedback_total", "model, version, outcome"): "{{model}} {{version}} {{outcome}}"}),
        ("Rollout", "percent", "timeseries", {
            f"interlock_rollout_percent{OF}": "{{model}} canary",
            f"100 * interlock_rollout_active{OF}": "{{model}} {{mode}} under way",
        }),
    ],
    "Machine": [
        ("Memory of workers", "bytes", "timeseries", {f"interlock_worker_resident_bytes{OF}": "{{model}}"}),
        ("Memory of the server", "bytes", "timeseries", {f"process_resident_memory_bytes{AT}": "{{instance}}"}),
        ("CPU", "short", "timeseries", {
            rate("interlock_worker_cpu_seconds_total", "model"): "{{model}}",
            rate("process_cpu_seconds_total", "instance", AT): "server",
        }),
        ("Processes replaced", "short", "timeseries", {f"increase(interlock_worker_replaced_total{OF}{RATE})": "{{model}}"}),
        ("Load time", "s", "stat", {f"interlock_model_load_seconds{OF}": "{{model}}"}),
        ("Read from disk at load", "bytes", "stat", {f"interlock_model_load_read_bytes{OF}": "{{model}}"}),
        ("Open files", "short", "timeseries", {f"process_open_fds{AT}": "{{instance}}"}),
    ],
}  # fmt: skip

SOURCE = {"type": "prometheus", "uid": "${source}"}


def panel(number: int, about: tuple[str, str, str, dict[str, str]], x: int, y: int) -> Any:
    """One panel, 8 of 24 columns wide."""
    title, unit, kind, expressions = about
    return {
        "id": number,
        "title": title,
        "type": kind,
        "datasource": SOURCE,
        "gridPos": {"h": 7, "w": 8, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend,
                **({"format": "table", "instant": True} if kind == "table" else {}),
                **({"format": "heatmap"} if kind == "heatmap" else {}),
            }
            for index, (expression, legend) in enumerate(expressions.items())
        ],
    }


def variable(name: str, query: str) -> dict[str, Any]:
    """A choice at the top of the page: all values of a label."""
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[Any] = []
    y = 0
    for title, row in ROWS.items():
        place = {"h": 1, "w": 24, "x": 0, "y": y}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place})
        y += 1
        for index, about in enumerate(row):
            panels.append(panel(len(panels) + 1, about, index % 3 * 8, y + index // 3 * 7))
        y += -(-len(row) // 3) * 7
    return {
        "title": "Interlock server",
        "uid": "interlock-serve",
        "tags": ["interlock"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus"},
                variable("instance", "label_values(interlock_model_ready, instance)"),
                variable("model", "label_values(interlock_model_ready, model)"),
            ]
        },
        "panels": panels,
    }


def main() -> None:
    """Write the file."""
    PAGE.write_text(json.dumps(dashboard(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
