"""The report at the end of a run, which must never cost the run its result."""

import logging

_logger = logging.getLogger(__name__)


def try_to_report(output_dir: str, dataset) -> None:
    """Write the report of `output_dir` with pictures from `dataset`; whatever goes wrong is a warning and no more.

    Args:
        output_dir: holds results.json, and log.txt where the run trained.
        dataset: that was tested, see `reports.media`.
    """
    try:
        # Imported here: matplotlib takes a second, and its absence must not stop a run either.
        from reports.page import write_report

        _logger.info("wrote %s", write_report(output_dir, dataset))
    except Exception:  # whatever it is, the test's numbers are already written
        _logger.warning("the report could not be written; try `python -m tools.report %s`", output_dir, exc_info=True)
