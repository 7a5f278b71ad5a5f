"""Matplotlib figures as files: PNG on white, or transparent SVG with the text colour and font of the page."""

import io
import re

import matplotlib
from matplotlib.figure import Figure

from common.palette import DARK, LIGHT

_STYLE = f"""<style>
svg {{ color: {LIGHT["ink"]}; }} text {{ fill: currentColor; }}
@media (prefers-color-scheme: dark) {{ svg {{ color: {DARK["ink"]}; }} }}
</style>"""


def png(figure: Figure, dpi: int = 120) -> bytes:
    """Return the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """Return the figure as an SVG file for pages; whatever is black has the text colour of light or dark mode."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    # Without the header, which refers to a DTD at another address.
    text = buffer.getvalue().partition("<svg ")[2]
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text.replace("#000000", "currentColor"))
    start, rest = text.split(">", 1)
    return f"<svg {start}>{_STYLE}{rest}".encode()
