"""OpenTelemetry: what a collector on the loopback is sent."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve.conftest import SECRET
from support import models
from support.otlp import collecting
from support.serving import serving

from interlock.errors import ConfigError
from interlock.serve.metrics import Metrics
from interlock.serve.settings import Settings
from interlock.serve.telemetry import CLOSE_SECONDS, Telemetry

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_a_request_is_a_span_under_the_callers_with_its_stages(tmp_path: Path) -> None:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    model = {"affine": {"path": "affine.onnx"}}
    with (
        collecting() as collector,
        serving(tmp_path, model, otlp_endpoint=collector.url, otlp_seconds=0.2) as server,
    ):
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-secret": SECRET}
        reply = server.infer("affine", np.ones((2, 3)), headers=headers, body={"id": SECRET})
        assert reply.status_code == 200, reply.text
        assert server.get("/v2/models/none", params={"q": SECRET}).status_code == 404
        collector.wait_for(
            lambda: (
                any(
                    point.as_double == 2
                    for point in collector.metrics["interlock_answers"].sum.data_points
                )
                if "interlock_answers" in collector.metrics
                else False
            )
        )
        assert server.stop() == 0
        collector.wait_for(lambda: any(span.name == "interlock model" for span in collector.spans))
    (request,) = [span for span in collector.spans if span.name == "interlock infer"]
    assert request.trace_id.hex() == TRACE
    told = {a.key: a.value for a in request.attributes}
    assert told["interlock.model"].string_value == "affine"
    assert told["interlock.outcome"].string_value == "accepted"
    assert told["interlock.request_id"].string_value == reply.headers["x-request-id"]
    inside = [span for span in collector.spans if span.parent_span_id == request.span_id]
    assert {span.name for span in inside} == {"decode", "answer", "encode"}
    for span in inside:
        assert request.start_time_unix_nano <= span.start_time_unix_nano + 10**6
        assert span.end_time_unix_nano <= request.end_time_unix_nano + 10**6
    seconds = collector.metrics["interlock_request_seconds"].histogram
    (point,) = [p for p in seconds.data_points if p.attributes[0].value.string_value == "infer"]
    assert point.count == 1
    assert sum(point.bucket_counts) == 1
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    # The registry keeps neither, and what stands there is shown as a request's seconds.
    assert not point.HasField("min")
    assert not point.HasField("max")
    assert SECRET.encode() not in collector.raw


def test_a_collector_that_is_away_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    away: dict[str, Any] = {"otlp_endpoint": "http://127.0.0.1:9", "otlp_seconds": 0.1}
    with serving(tmp_path, {"affine": {"path": "affine.onnx"}}, **away) as server:
        assert server.infer("affine", np.ones((1, 3))).status_code == 200
        assert server.stop() == 0


def test_a_collector_that_never_answers_holds_up_no_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        telemetry = Telemetry(Settings(otlp_endpoint=url, otlp_share=1.0), Metrics().registry)
        telemetry.start()
        for _ in range(2000):  # several batches, each of which is waited for
            telemetry.request((), {"endpoint": "infer"}, 200, 0.1)
        closing = threading.Thread(target=telemetry.close, daemon=True)
        closing.start()
        closing.join(2 * CLOSE_SECONDS)
        assert not closing.is_alive()


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="otlp_endpoint"):
        Telemetry(Settings(otlp_endpoint="localhost:4318"), Metrics().registry)
