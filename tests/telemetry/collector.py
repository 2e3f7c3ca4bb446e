"""A collector of OTLP on loopback: what it takes is decoded, what it answers is said by the test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@dataclass
class Collector:
    """`answers` are the statuses of the next requests, 200 after that."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    metrics: dict[str, list[tuple[dict[str, Any], float]]] = field(default_factory=dict)
    spans: list[Any] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        """Answer one request, and keep what it brings if that is a good answer."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.path, headers))
        body = await request.read()
        status = self.answers.pop(0) if self.answers else 200
        if status == 200 and request.path == "/v1/metrics":
            self._keep_metrics(ExportMetricsServiceRequest.FromString(body))
        elif status == 200:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response(status=status)

    def _keep_metrics(self, sent: ExportMetricsServiceRequest) -> None:
        for resource in sent.resource_metrics:
            assert _values(resource.resource.attributes)["service.name"] == "tollgate"
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    points = getattr(metric, kind).data_points
                    self.metrics[metric.name] = [
                        (
                            _values(point.attributes),
                            point.sum if kind == "histogram" else point.as_int,
                        )
                        for point in points
                    ]

    def span(self, name: str) -> Any:
        """The one span of a name, with its attributes as `said`."""
        (found,) = [span for span in self.spans if span.name == name]
        return found, _values(found.attributes)


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/metrics", collector.take)
    app.router.add_post("/v1/traces", collector.take)
    async with TestServer(app) as server:
        collector.url = str(server.make_url("")).rstrip("/")
        yield collector
