"""The decoding libraries that this machine has: tests run with each, and name what keeps the others away."""

import pytest

from datasets.readers import DECODERS, require_reader


def why_not(reader: str) -> str:
    """What keeps a library from being used; empty if nothing does."""
    try:
        require_reader(reader)
    except ValueError as error:
        return str(error)
    return ""


INSTALLED = [name for name in DECODERS if not why_not(name)]
each_decoder = pytest.mark.parametrize(
    "by",
    [pytest.param(name, marks=pytest.mark.skipif(name not in INSTALLED, reason=why_not(name))) for name in DECODERS],
)
