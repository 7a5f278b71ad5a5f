"""The report at the end of a run; an error in it must not make the run fail."""

import logging

_logger = logging.getLogger(__name__)


def try_to_report(output_dir: str, dataset) -> None:
    """Write the report of `output_dir` with sample frames from `dataset`; log any error as a warning.

    Args:
        output_dir: Contains results.json, and log.txt if the run trained.
        dataset: The tested data set, see `reports.media`.
    """
    try:
        # Imported here because matplotlib takes a second, and a run must not fail if it is missing.
        from reports.page import write_report

        _logger.info("wrote %s", write_report(output_dir, dataset))
    except Exception:  # the results of the test are already written
        _logger.warning("the report could not be written; try `python -m tools.report %s`", output_dir, exc_info=True)
