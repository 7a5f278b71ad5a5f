"""Data that benchmarks write once: again for other settings, and after an interruption."""

import pytest

from common.files import write_once


def test_what_is_there_is_not_written_again_and_what_was_interrupted_is(tmp_path):
    marker, written = tmp_path / "settings.json", []

    def write(settings, fails=False):
        def fill():
            written.append(settings)
            if fails:
                raise KeyboardInterrupt

        return write_once(marker, settings, fill)

    assert write({"size": (1, 2)}) and not write({"size": (1, 2)})
    with pytest.raises(KeyboardInterrupt):
        write({"size": 3}, fails=True)
    assert write({"size": (1, 2)}), "the other settings have overwritten a part of it"
    assert written == [{"size": (1, 2)}, {"size": 3}, {"size": (1, 2)}]
