"""A small local web page that shows a video with its classes, probability curve and heat maps.

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
from html import escape
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

from common.figures import svg
from common.palette import theme
from common.terminal import printable
from datasets.readers import FrameReader, Guard, UnreadableVideoError
from inference.defaults import UNSURE
from inference.drawing import draw_strip
from inference.heat_grid import heat_cells
from inference.heatmaps import colour_bar
from inference.limits import Limits, open_within, stride_for
from inference.predictor import Predictor, ScoresNotFiniteError
from inference.timeline import follow

HOSTS = ["127.0.0.1", "localhost"]
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; media-src blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
CELL_WIDTH = 240
NARROWEST, WIDEST = 320, 1072  # pixels of the curve, which is drawn for the width of the reader's page
_FILES = Path(__file__).parent / "page"


def create_app(predictor: Predictor, limits: Limits, date: str = "") -> Starlette:
    """Create the page as an ASGI application, to be served on 127.0.0.1.

    Args:
        predictor: The model.
        limits: Limits of an uploaded video.
        date: Date of the weights; empty if unknown.
    """
    guard = Guard(limits.seconds)
    turn = asyncio.Lock()  # one video at a time, the others wait
    index = Template((_FILES / "index.html").read_text(encoding="utf-8"))
    html = index.substitute(_about(predictor, date), megabytes=limits.megabytes, frames=limits.frames)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
        with TemporaryDirectory(prefix="videomambapro-") as folder:
            yield {"folder": folder}
            guard.close()

    async def show_page(_request: Request) -> Response:
        return HTMLResponse(html, headers=HEADERS)

    async def show_theme(_request: Request) -> Response:
        return Response(theme(), media_type="text/css")

    async def show_video(request: Request) -> Response:
        if not _from_this_page(request):
            return PlainTextResponse("Only this page may send videos.", 403)
        with NamedTemporaryFile(dir=request.state.folder) as upload:
            try:
                await _receive(request, upload, limits)
                async with turn:
                    # Not awaited when the program ends, so a long prediction does not delay the exit.
                    answer = await asyncio.to_thread(_look, predictor, upload.name, guard, limits, _width(request))
                    return JSONResponse(answer)
            except UnreadableVideoError as error:
                # The decoder's message is in parentheses and may contain the path of the temporary file.
                reason = error.reason.partition(" (")[0].replace(upload.name, "the video")
                return PlainTextResponse(printable(f"This file cannot be shown: {reason}."), 422)
            except ScoresNotFiniteError as error:
                return PlainTextResponse(str(error), 500)
            except ClientDisconnect:
                return Response(status_code=400)  # the client is gone

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/theme.css", show_theme),
            Route("/predictions", show_video, methods=["POST"]),
            Mount("/page", StaticFiles(directory=_FILES)),
        ],
        # Against DNS rebinding: another site whose name resolves to this machine must not reach the page.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
        lifespan=lifespan,
    )


def look(predictor: Predictor, reader: FrameReader, width: int = WIDEST) -> dict[str, Any]:
    """Compute what the page shows of a video; all pictures are data URLs.

    Args:
        predictor: The model.
        reader: Reader of the video.
        width: Width of the curve in pixels.

    Returns:
        A dict with `frames`, their number; `classes`, the five most probable ones with name and probability; `unsure`,
        whether all of them are less probable than `UNSURE`; `curve`, its picture, with `left` and `right`, the
        positions of first and last frame as fractions of the width; `cells`, the frames with heat maps, each with
        number, caption and the pictures without and with heat; `bar` and `strongest`, the colour bar and the logit at
        its end.

    Raises:
        UnreadableVideoError: Frames cannot be decoded.
        ScoresNotFiniteError: The model's scores are not finite.
    """
    top = predictor.predict(reader).top(5)
    classes = [{"name": printable(score.name), "probability": score.probability} for score in top]
    window = min(predictor.span, len(reader))
    timeline = follow(predictor, reader, window=window, stride=stride_for(len(reader), window), explain=True)
    strip = draw_strip(timeline.curve, width, 300)
    return {
        "frames": len(reader),
        "classes": classes,
        "unsure": top[0].probability < UNSURE,
        "curve": _data_url(svg(strip.figure), "svg+xml"),
        "left": strip.left / width,
        "right": strip.right / width,
        "cells": [
            {
                "frame": cell.number,
                "caption": cell.caption,
                "picture": _data_url(_webp(cell.picture), "webp"),
                "heated": _data_url(_webp(cell.heated), "webp"),
            }
            for cell in heat_cells(reader, timeline, CELL_WIDTH)
        ],
        "bar": _data_url(_webp(colour_bar(80, 10)), "webp"),
        "strongest": f"{timeline.heat.scale:.2g}",
    }


def _look(predictor: Predictor, path: str, guard: Guard, limits: Limits, width: int) -> dict[str, Any]:
    try:
        return look(predictor, open_within(path, guard, limits), width)
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


def _about(predictor: Predictor, date: str) -> dict[str, Any]:
    """Return the description of the model for the page, as HTML."""
    _, frames, height, width = predictor.plan.clip_shape
    views = (
        f"{predictor.views} view{'s' if predictor.views > 1 else ''} of {frames} frames of {width} × {height} pixels"
    )
    return {
        "model": escape(predictor.model.config.name or "VideoMambaPro"),
        "clips": views,
        "date": date and f", weights of {escape(date)}",
        "classes": len(predictor.label_names),
        "labels": escape(printable(", ".join(predictor.label_names))),
    }


def _width(request: Request) -> int:
    """Return the width that a request asks for, within limits."""
    asked = request.query_params.get("width", "")
    return min(max(int(asked), NARROWEST), WIDEST) if asked.isdecimal() and len(asked) < 6 else WIDEST


def _webp(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="WEBP", quality=85)
    return file.getvalue()


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
