"""OpenTelemetry, extra `otel`: requests as traces and the metrics, sent by OTLP over HTTP.

Off unless `otlp_endpoint` is set. What is sent are the fields that the log has and the metrics that
`/metrics` shows, so nothing that a client sent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, cast

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

import interlock
from interlock.kernel.errors import ConfigError, MissingExtraError
from interlock.serve.settings import Settings

CLOSE_SECONDS = 6.0
"""Longest time that a server which ends gives its collector."""
_SCOPE = "interlock.serve"
_ATTRIBUTES = ("endpoint", "model", "outcome", "rows", "code", "request_id")


def endpoint_of(settings: Settings) -> str:
    """Where traces and metrics go; raises ConfigError for what is no URL."""
    endpoint = (settings.otlp_endpoint or "").rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError("otlp_endpoint must be an http or https URL")
    return endpoint


class Telemetry:
    """Sends spans as requests end and the registry's metrics every `otlp_seconds`."""

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        """Raise MissingExtraError without the extra, ConfigError for an endpoint that is no URL."""
        endpoint = endpoint_of(settings)
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace.propagation.tracecontext import (
                TraceContextTextMapPropagator,
            )
        except ImportError:
            raise MissingExtraError("otel", "OpenTelemetry") from None
        self._registry = registry
        self._began = time.time_ns()
        self._resource = Resource.create(
            {"service.name": "interlock", "service.version": interlock.__version__}
        )
        self._provider = TracerProvider(
            resource=self._resource,
            sampler=ParentBased(TraceIdRatioBased(settings.otlp_share)),
            shutdown_on_exit=False,
        )
        self._spans = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(self._spans))
        self._tracer = self._provider.get_tracer(_SCOPE, interlock.__version__)
        self._propagator = TraceContextTextMapPropagator()
        self._metrics = OTLPMetricExporter(endpoint=f"{endpoint}/v1/metrics", timeout=5)
        self._seconds = settings.otlp_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="interlock-otlp", daemon=True)

    def start(self) -> None:
        """Send metrics from now on."""
        self._thread.start()

    def request(
        self, headers: Iterable[tuple[bytes, bytes]], state: Mapping[str, Any], status: int,
        seconds: float,
    ) -> None:  # fmt: skip
        """One request that has just ended, with its stages, under the caller's trace if it has one.

        headers  of the request, names in lower case; only `traceparent` is read
        state    the request's fields; "stages" holds name, `time.perf_counter` at the start and
                 seconds of each
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        ended = time.time_ns()
        given = [value for name, value in headers if name == b"traceparent"]
        carrier = {"traceparent": given[0].decode("latin-1")} if len(given) == 1 else {}
        span = self._tracer.start_span(
            f"interlock {state.get('endpoint', 'none')}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=ended - int(seconds * 1e9),
            attributes={
                "http.response.status_code": status,
                **{f"interlock.{k}": state[k] for k in _ATTRIBUTES if state.get(k)},
            },
        )
        if span.is_recording():
            inside = set_span_in_context(span)
            for name, began, took in state.get("stages", ()):
                start = int(began * 1e9) + self._offset()
                self._tracer.start_span(name, context=inside, start_time=start).end(
                    end_time=start + int(took * 1e9)
                )
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=ended)

    def close(self) -> None:
        """Send what is left, for `CLOSE_SECONDS` at most."""
        until = time.monotonic() + CLOSE_SECONDS
        self._stop.set()
        # It sends one batch after the other, each of which a slow collector may hold up.
        spans = threading.Thread(
            target=self._provider.shutdown, name="interlock-otlp-spans", daemon=True
        )
        spans.start()
        for thread in (self._thread, spans):
            thread.join(max(0.0, until - time.monotonic()))
        if spans.is_alive():
            self._spans.shutdown()  # type: ignore[no-untyped-call]
        self._metrics.shutdown()

    @staticmethod
    def _offset() -> int:
        """Nanoseconds from the clock of `time.perf_counter` to that of the day."""
        return time.time_ns() - time.perf_counter_ns()

    def _send(self) -> None:
        while not self._stop.wait(self._seconds):
            self._send_once()
        self._send_once()

    def _send_once(self) -> None:
        try:
            self._metrics.export(self.collect())
        except Exception as error:  # noqa: BLE001 - a collector that is away must not end this
            logging.getLogger("opentelemetry").warning("metrics not sent: %s", type(error).__name__)

    def collect(self) -> Any:
        """The registry's metrics as OpenTelemetry has them, cumulative."""
        from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        now = time.time_ns()
        found = [self._converted(family, now) for family in self._registry.collect()]
        scope = InstrumentationScope(_SCOPE, interlock.__version__)
        metrics = [metric for metric in found if metric is not None]
        return MetricsData(
            [ResourceMetrics(self._resource, [ScopeMetrics(scope, metrics, "")], "")]
        )

    def _converted(self, family: Metric, now: int) -> Any:
        from opentelemetry.sdk.metrics.export import (
            AggregationTemporality,
            Gauge,
            Histogram,
            HistogramDataPoint,
            NumberDataPoint,
            Sum,
        )
        from opentelemetry.sdk.metrics.export import Metric as Sent

        unit = "s" if family.name.endswith("_seconds") else ""
        data: Any
        if family.type == "histogram":
            points = [
                HistogramDataPoint(
                    attributes=labels, start_time_unix_nano=self._began, time_unix_nano=now,
                    count=sum(counts), sum=total, bucket_counts=counts, explicit_bounds=bounds,
                    # Not known, and optional in the protocol, which the package's types forget.
                    min=cast("float", None), max=cast("float", None),
                )
                for labels, bounds, counts, total in _histograms(family)
            ]  # fmt: skip
            data = Histogram(points, AggregationTemporality.CUMULATIVE)
        else:
            numbers = [
                NumberDataPoint(sample.labels, self._began, now, sample.value)
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            data = (
                Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True)
                if family.type == "counter"
                else Gauge(numbers)
            )
        if not data.data_points:
            return None
        return Sent(family.name, family.documentation, unit, data)


def _histograms(
    family: Metric,
) -> list[tuple[dict[str, str], list[float], list[int], float]]:
    """Labels, upper bounds, counts between them and the sum of each series of a histogram."""
    series: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        one = series.setdefault(
            tuple(sorted(labels.items())), {"labels": labels, "buckets": [], "sum": 0.0}
        )
        if sample.name.endswith("_bucket"):
            one["buckets"].append((float(sample.labels["le"]), int(sample.value)))
        elif sample.name.endswith("_sum"):
            one["sum"] = sample.value
    found = []
    for one in series.values():
        bounds = [bound for bound, _ in one["buckets"] if bound != float("inf")]
        upto = [count for _, count in one["buckets"]]
        counts = [count - before for count, before in zip(upto, [0, *upto], strict=False)]
        found.append((one["labels"], bounds, counts, one["sum"]))
    return found
