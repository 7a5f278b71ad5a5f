"""A small web page for this machine alone: drop a video, see classes, curve and heat maps.

The page talks to nobody: Gradio's reports, sharing and fonts from elsewhere are off, and a content security policy
has the browser refuse every other address. A video is decoded in a process of its own, which is ended when it takes
too long, and deleted when it has been read; pictures are deleted minutes later, and with the program.
"""

import logging
import os
import shutil
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.readers import FrameReader, Guard, UnreadableVideoError
from inference.drawing import draw_strip
from inference.heat_grid import draw_heat_grid
from inference.limits import Limits, open_within, stride_for
from inference.predictor import Predictor
from inference.timeline import follow

if TYPE_CHECKING:
    from fastapi import FastAPI

_logger = logging.getLogger(__name__)

HOSTS = ["127.0.0.1", "localhost"]
KEEP_PICTURES = 300  # seconds
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


def create_app(predictor: Predictor, limits: Limits, scratch: Path) -> "FastAPI":
    """The page as an ASGI application, to be served on 127.0.0.1.

    Args:
        limits: what a video may be. scratch: an empty folder for what browsers send and are sent; the caller deletes
            it when the program ends.

    Raises:
        ImportError: Gradio is not installed.
    """
    # Read when Gradio is imported.
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "GRADIO_TEMP_DIR": str(scratch),
    }
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    page = _page(gradio, predictor, limits)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_Headers)
    # A page elsewhere whose name was pointed at this machine must not reach this one.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    fonts = ["system-ui", "sans-serif"]
    return gradio.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=HOSTS[0],
        max_file_size=limits.megabytes * 2**20,
        theme=gradio.themes.Default(font=fonts, font_mono=["monospace"]),
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
    )


def _page(gradio, predictor: Predictor, limits: Limits):
    guard = Guard(limits.seconds)

    def show(upload: str | None) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        if upload is None:
            raise gradio.Error("Drop a video first.")
        # Gradio gives a string of a type of its own, for which the decoding process would import Gradio.
        upload = str(upload)
        try:
            return look(predictor, open_within(upload, guard, limits))
        except UnreadableVideoError as error:
            raise gradio.Error(f"This file cannot be shown: {error.reason}.", duration=None) from error
        finally:
            # The process that decoded it had it open.
            guard.close()
            _delete(Path(upload))

    with gradio.Blocks(title="VideoMambaPro", analytics_enabled=False, delete_cache=(60, KEEP_PICTURES)) as page:
        gradio.Markdown(
            f"# VideoMambaPro\nDrop a video of up to {limits.megabytes} MB and {limits.frames} frames. It is read on "
            "this machine alone and deleted when it has been read."
        )
        with gradio.Row():
            video = gradio.File(label="Video", file_types=["video"], type="filepath", elem_id="video")
            classes = gradio.Label(label="Classes", num_top_classes=5, elem_id="classes")
        gradio.Markdown("### Probabilities over time")
        curve = gradio.Image(show_label=False, elem_id="curve", buttons=[], interactive=False)
        gradio.Markdown("### What they rest on: frames, and below each its heat map")
        heat = gradio.Image(show_label=False, elem_id="heat", buttons=[], interactive=False)
        # One video at a time: the others wait in line.
        video.upload(show, video, [classes, curve, heat], concurrency_limit=1, api_visibility="private")
    return page


def look(predictor: Predictor, reader: FrameReader) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """The five most probable classes of a video, the picture of its curve and the grid of its heat maps.

    Raises:
        UnreadableVideoError: frames do not decode.
    """
    top = predictor.predict(reader).top(5)
    window = min(predictor.span, len(reader))
    timeline = follow(predictor, reader, window=window, stride=stride_for(len(reader), window), explain=True)
    return (
        {score.name: score.probability for score in top},
        draw_strip(timeline.curve, 960, 300).picture,
        draw_heat_grid(reader, timeline),
    )


def _delete(upload: Path) -> None:
    """Delete an upload with the folder that Gradio made for it."""
    shutil.rmtree(upload.parent, ignore_errors=True)
    if upload.exists():
        _logger.warning("%s could not be deleted", upload)


class _Headers:
    """ASGI middleware that adds the content security policy to every answer."""

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Callable, send: Callable) -> None:
        async def send_with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, send_with_policy)
