"""The application: endpoints, errors, the page's files and the layers around them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from unembed import __version__
from unembed.server import api_docs, defences, http_errors, published_demo, v1
from unembed.server.batching import Batcher
from unembed.server.body_limits import Intake
from unembed.server.context import Context
from unembed.server.gate import Gate
from unembed.server.models import Models
from unembed.server.settings import Settings
from unembed.server.telemetry import Telemetry

DESCRIPTION = (
    "Text recovered from embeddings by masked diffusion. Embeddings are not anonymous: this shows what they give away."
)


class PageFiles(StaticFiles):
    """The page's files; a browser asks whether they changed each time."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, with its cache header."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def create_app(models: Models, settings: Settings | None = None) -> FastAPI:
    """The server's ASGI application; its thread runs from startup to shutdown.

    Raises:
        ConfigError: an allowed origin is none.
    """
    settings = settings or Settings()
    telemetry = Telemetry()
    batcher = Batcher(
        telemetry, settings.max_batch, settings.max_waiting, settings.time_limit, settings.threads, models.pace
    )
    telemetry.watch(batcher, settings.max_batch)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await asyncio.to_thread(batcher.close, settings.drain_seconds)

    app = FastAPI(
        title="unembed",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.batcher = batcher
    app.state.settings = settings
    context = Context(settings, models, batcher)
    http_errors.install(app)
    app.include_router(published_demo.router(context))
    app.include_router(v1.router(context))
    app.include_router(defences.router(context))
    app.mount("/static", PageFiles(directory=published_demo.WEB, check_dir=False))

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(api_docs.render(app.openapi(), str(request.base_url).rstrip("/")))

    # The last one added is the outermost.
    app.add_middleware(Intake, settings=settings, dimension=max(one.inverter.recipe.dimension for one in models.all))
    app.add_middleware(Gate, settings=settings)
    # No answer holds a secret, so that its length tells nothing (BREACH). Event streams and images are left alone.
    app.add_middleware(GZipMiddleware, compresslevel=5)
    telemetry.install(app)
    return app
