"""`GET /metrics`: the figures of the whole agent, for Prometheus."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.web.metrics.exposition import Metrics


def metrics_route(metrics: Metrics) -> Route:
    """The route; collecting takes a few milliseconds, so Starlette runs it on a thread of its own pool."""

    def scrape(request: Request) -> Response:
        text, content_type = metrics.text(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    return Route("/metrics", scrape, methods=["GET"])
