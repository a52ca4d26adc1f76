"""The ASGI app of one worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from router.serving import chat, plans
from router.serving.access import Access, read_tokens
from router.serving.faults import FAULTS, add_handlers
from router.serving.intake import Intake
from router.serving.live import Live
from router.serving.metrics import Metrics
from router.serving.no_log import NoLog
from router.serving.observation import Observation
from router.serving.records import Recorder
from router.serving.routes import routing, watching
from router.serving.routing_queue import RoutingQueue
from router.serving.settings import ServeSettings


def create_app(settings: ServeSettings) -> FastAPI:
    """The service. On `app.state` stand settings, live and metrics, and while it runs recorder and
    queue.

    Raises RouterError where tokens cannot be read or the settings are at odds; and at its start
    where the artifact, the log or an upstream's key is at fault.
    """
    app = FastAPI(
        title="query-router",
        summary="Which LLM shall answer a prompt?",
        lifespan=_lifespan,
        openapi_url="/openapi.json" if settings.docs else None,
        redoc_url=None,
        responses=FAULTS,
    )
    app.state.settings = settings
    app.state.live = Live(settings.live)
    app.state.metrics = Metrics(app.state.live.describe)
    tokens = read_tokens(settings.access)
    # Told by the OpenAPI page alone; `Access` looks at the token before the body is read.
    locked = [Security(HTTPBearer(auto_error=False))] if tokens else []
    app.include_router(routing, dependencies=locked)
    app.include_router(plans.routing, dependencies=locked)
    app.include_router(watching)
    if settings.upstreams is not None:
        app.include_router(chat.routes(settings.upstreams), dependencies=locked)
    add_handlers(app)
    _surround(app, settings, tokens)
    return app


def _surround(app: FastAPI, settings: ServeSettings, tokens: Sequence[bytes]) -> None:
    """The last one is the outermost: what is turned away is named and counted too."""
    methods = {path: set(told) for path, told in app.openapi()["paths"].items()}
    app.add_middleware(
        Intake,
        paths=[path for path, told in methods.items() if "post" in told],
        limits=settings.limits,
        retry_after_seconds=settings.queue.retry_after_seconds,
    )
    app.add_middleware(Access, digests=tokens, open_metrics=settings.access.open_metrics)
    app.add_middleware(
        Observation, metrics=app.state.metrics, paths=set(methods), log=settings.console.requests
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state, settings = app.state, app.state.settings
    async with AsyncExitStack() as stack:
        stack.push_async_callback(run_in_threadpool, state.live.close)
        await run_in_threadpool(state.live.start)
        no_log = settings.log.folder is None
        state.recorder = NoLog() if no_log else Recorder(settings.log, state.metrics)
        stack.push_async_callback(state.recorder.close)
        state.queue = RoutingQueue(settings.queue, state.metrics)
        stack.push_async_callback(state.queue.close)
        yield
