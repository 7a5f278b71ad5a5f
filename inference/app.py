"""A small local web page: drop a video, see classes, curve and heat maps.

The browser sends the content of a video and never a file name, so no request can read or delete a file. The content is
stored in a temporary file while it is received and decoded; decoding happens in a separate process with a time limit.
The resulting pictures are only sent with the response. A content security policy makes the browser block all other
addresses.
"""

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from string import Template
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import IO, Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from common.terminal import printable
from datasets.readers import FrameReader, Guard, UnreadableVideoError
from inference.drawing import draw_strip
from inference.heat_grid import draw_heat_grid
from inference.limits import Limits, open_within, stride_for
from inference.predictor import Predictor, ScoresNotFiniteError
from inference.timeline import follow

HOSTS = ["127.0.0.1", "localhost"]
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FILES = Path(__file__).parent / "page"


def create_app(predictor: Predictor, limits: Limits) -> Starlette:
    """Create the page as an ASGI application, to be served on 127.0.0.1.

    Args:
        predictor: the model.
        limits: limits of an uploaded video.
    """
    guard = Guard(limits.seconds)
    turn = asyncio.Lock()  # one video at a time, the others wait
    index = Template((_FILES / "index.html").read_text(encoding="utf-8"))
    html = index.substitute(megabytes=limits.megabytes, frames=limits.frames)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
        with TemporaryDirectory(prefix="videomambapro-") as folder:
            yield {"folder": folder}
            guard.close()

    async def show_page(_request: Request) -> Response:
        return HTMLResponse(html, headers=HEADERS)

    async def show_video(request: Request) -> Response:
        if not _from_this_page(request):
            return PlainTextResponse("Only this page may send videos.", 403)
        with NamedTemporaryFile(dir=request.state.folder) as upload:
            try:
                await _receive(request, upload, limits)
                async with turn:
                    # Not awaited when the program ends, so a long prediction does not delay the exit.
                    return JSONResponse(await asyncio.to_thread(_look, predictor, upload.name, guard, limits))
            except UnreadableVideoError as error:
                return PlainTextResponse(printable(f"This file cannot be shown: {error.reason}."), 422)
            except ScoresNotFiniteError as error:
                return PlainTextResponse(str(error), 500)
            except ClientDisconnect:
                return Response(status_code=400)  # the client is gone

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/predictions", show_video, methods=["POST"]),
            Mount("/page", StaticFiles(directory=_FILES)),
        ],
        # Against DNS rebinding: another site whose name resolves to this machine must not reach the page.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
        lifespan=lifespan,
    )


def look(predictor: Predictor, reader: FrameReader) -> dict[str, Any]:
    """Compute what the page shows of a video.

    Returns:
        a dict with `classes`, the five most probable ones with name and probability, and `curve` and `heat`, pictures
        of the curve and of the heat maps as data URLs.

    Raises:
        UnreadableVideoError: frames cannot be decoded.
        ScoresNotFiniteError: the model's scores are not finite.
    """
    top = predictor.predict(reader).top(5)
    window = min(predictor.span, len(reader))
    timeline = follow(predictor, reader, window=window, stride=stride_for(len(reader), window), explain=True)
    return {
        "classes": [{"name": printable(score.name), "probability": score.probability} for score in top],
        "curve": _data_url(draw_strip(timeline.curve, 960, 300).picture),
        "heat": _data_url(draw_heat_grid(reader, timeline)),
    }


def _look(predictor: Predictor, path: str, guard: Guard, limits: Limits) -> dict[str, Any]:
    try:
        return look(predictor, open_within(path, guard, limits))
    finally:
        # The decoding process still has the file open, which would keep its disk space allocated.
        guard.close()


def _from_this_page(request: Request) -> bool:
    """Return whether a request does not come from another site, according to the Origin header that browsers send."""
    return request.headers.get("origin") in (None, f"{request.url.scheme}://{request.headers['host']}")


async def _receive(request: Request, file: IO[bytes], limits: Limits) -> None:
    async for chunk in request.stream():
        file.write(chunk)
        if file.tell() > limits.megabytes * 2**20:
            raise UnreadableVideoError(file.name, f"it is larger than {limits.megabytes} MB")
    file.flush()


def _data_url(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
