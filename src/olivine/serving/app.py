"""The server's routes: models, chat completions, health, metrics, the page.

Answering is in `service`; the socket is in `server` and `connections`.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from olivine import __version__
from olivine.serving.access import Access, Guard
from olivine.serving.http_responses import error_response, json_response
from olivine.serving.limits import Limits
from olivine.serving.metrics import CONTENT_TYPE
from olivine.serving.page_files import is_page, page_response
from olivine.serving.problems import ApiError, quoted
from olivine.serving.served_model import ServedModel
from olivine.serving.service import ChatService


def make_app(models: Sequence[ServedModel], limits: Limits, access: Access) -> FastAPI:
    """Return the server's application; it starts its worker with the first event loop that runs it."""
    service = ChatService(list(models), limits)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.service = service
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _not_found)

    app.add_middleware(Guard, access=access)

    @app.get("/health")
    async def health() -> Response:
        alive = service.worker.alive
        return json_response({"status": "ok" if alive else "the worker has ended"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def listed() -> Response:
        return json_response({"object": "list", "data": [_model_object(model) for model in models]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        return json_response(_model_object(service.find(name)))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await service.answer(request)

    @app.get("/{name}")
    async def page(name: str) -> Response:
        if not is_page(name):
            raise HTTPException(404)
        return page_response(name)

    @app.get("/")
    async def index() -> Response:
        return page_response("")

    return app


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": f"olivine {__version__}"}


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError), "registered for this class"
    return error_response(error)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for this class"
    message = f"{request.method} {quoted(request.url.path)}: this server has no such route."
    return error_response(ApiError(error.status_code, "no_such_route", message))
