"""A small web page for this machine alone: drop a video, watch it beside its classes, curve and heat maps.

A browser sends the bytes of a video and never the name of a file, so no request can have one read or deleted. The
bytes lie on the disk while they are received and decoded, in a process of its own that is ended when it takes too
long; the pictures go back with the answer and lie nowhere. A content security policy has the browser refuse every
other address.
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
from inference.drawing import draw_strip
from inference.heat_grid import heat_cells
from inference.heatmaps import colour_bar
from inference.limits import Limits, open_within, stride_for
from inference.predictor import UNSURE, Predictor, ScoresNotFiniteError
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
    """Make the page an ASGI application, to be served on 127.0.0.1.

    Args:
        predictor: the model.
        limits: what a video may be.
        date: of the weights, in words; empty if nobody knows.
    """
    guard = Guard(limits.seconds)
    turn = asyncio.Lock()  # one video at a time: the others wait in line
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
                    # Not awaited when the program ends: a long prediction does not hold it up.
                    answer = await asyncio.to_thread(_look, predictor, upload.name, guard, limits, _width(request))
                    return JSONResponse(answer)
            except UnreadableVideoError as error:
                # What the decoder says stands in brackets, and may name the file here.
                reason = error.reason.partition(" (")[0].replace(upload.name, "the video")
                return PlainTextResponse(printable(f"This file cannot be shown: {reason}."), 422)
            except ScoresNotFiniteError as error:
                return PlainTextResponse(str(error), 500)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody is there to read it

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/theme.css", show_theme),
            Route("/predictions", show_video, methods=["POST"]),
            Mount("/page", StaticFiles(directory=_FILES)),
        ],
        # A page elsewhere whose name was pointed at this machine must not reach this one.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
        lifespan=lifespan,
    )


def look(predictor: Predictor, reader: FrameReader, width: int = WIDEST) -> dict[str, Any]:
    """Find what the page shows of a video; pictures are data URLs.

    Args:
        predictor: the model. reader: of the video. width: of the curve, in pixels.

    Returns:
        frames: their number. classes: the five most probable ones, each with name and probability. unsure: none of
        them is more probable than `UNSURE`. curve: its picture; left, right: where its first and its last frame lie,
        as shares of the width. cells: the frames with heat maps, each with number, caption and pictures without and
        with heat. bar, strongest: the colours of heat, and the logit at their end.

    Raises:
        UnreadableVideoError: frames do not decode.
        ScoresNotFiniteError: the model's scores are no numbers.
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
        # The process that decoded the file has it open, and with it its place on the disk.
        guard.close()


def _from_this_page(request: Request) -> bool:
    """Whether no other page sent a request: browsers name the page that a POST comes from, other programs none."""
    return request.headers.get("origin") in (None, f"{request.url.scheme}://{request.headers['host']}")


async def _receive(request: Request, file: IO[bytes], limits: Limits) -> None:
    async for chunk in request.stream():
        file.write(chunk)
        if file.tell() > limits.megabytes * 2**20:
            raise UnreadableVideoError(file.name, f"it is larger than {limits.megabytes} MB")
    file.flush()


def _about(predictor: Predictor, date: str) -> dict[str, Any]:
    """What the page says of the model, as HTML."""
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
    """The width that a request asks for, within bounds."""
    asked = request.query_params.get("width", "")
    return min(max(int(asked), NARROWEST), WIDEST) if asked.isdecimal() and len(asked) < 6 else WIDEST


def _webp(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="WEBP", quality=85)
    return file.getvalue()


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
