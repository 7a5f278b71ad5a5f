"""Serve a local web page that shows what a model sees in a video: `python run_demo_app.py --checkpoint FILE`.

It listens on 127.0.0.1 only and requires Starlette and uvicorn (requirements-extras.txt).
"""

import argparse
import logging
import os
import signal
from collections.abc import Sequence
from datetime import datetime

from common.flag_parser import FlagParser
from common.flag_types import positive, positive_int, whole_number
from common.terminal import escape_output
from engines.early_check import check_inference
from inference.defaults import QUICK
from inference.limits import Limits
from mamba.mamba_ssm.variants import SCAN_BACKENDS


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the page's flags."""
    parser = FlagParser(
        description="VideoMambaPro: a local page for videos", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="published checkpoint or our own")
    parser.add_argument(
        "--label_names", default="", metavar="FILE", help="one class name per line; else those in the checkpoint"
    )
    parser.add_argument("--recipe", default="", metavar="NAME", help="recipe of sampling and views, such as k400")
    parser.add_argument("--quick", action="store_true", help="use a single view from the middle")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1; else cuda if available")
    parser.add_argument("--backend", choices=SCAN_BACKENDS, help="backend of the scan; else the fastest available")
    parser.add_argument("--port", type=whole_number(1, 65535), default=7860, help="port on 127.0.0.1")
    parser.add_argument("--max_megabytes", type=positive_int, default=Limits.megabytes, help="size limit of a file")
    parser.add_argument("--max_frames", type=positive_int, default=Limits.frames, help="length limit of a video")
    parser.add_argument(
        "--read_timeout",
        type=positive,
        default=Limits.seconds,
        metavar="SECONDS",
        help="time limit of one read",
    )
    return parser


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; end the process with status 2 if a file is missing."""
    parser = get_parser()
    args = parser.parse_args(words)
    try:
        check_inference(args)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    return args


if __name__ == "__main__":
    escape_output()
    ARGS = parse_arguments()  # before what follows, which takes seconds to import

from common.memory import keep_freed_memory
from engines.logs import setup_logging
from inference.predictor import load_predictor

_logger = logging.getLogger(__name__)

_GRACE = 2  # seconds that a request may still take when the program is stopped


def run(args: argparse.Namespace) -> None:
    """Serve the page until it is stopped."""
    setup_logging(rank=0)
    parser = get_parser()
    try:
        import uvicorn

        from inference.app import HOSTS, create_app
    except ImportError as error:
        parser.error(f"the page requires a missing package ({error}): pip install -r requirements-extras.txt")
    try:
        predictor = load_predictor(
            args.checkpoint,
            device=args.device,
            label_names=args.label_names,
            recipe=args.recipe,
            backend=args.backend,
            **(QUICK if args.quick else {}),
        )
        if predictor.task == "regression":
            raise ValueError(f"{args.checkpoint} predicts numbers (--task regression); the page shows classes")
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    if predictor.device.type == "cpu":
        keep_freed_memory()
    written = datetime.fromtimestamp(os.path.getmtime(args.checkpoint))
    limits = Limits(args.max_megabytes, args.max_frames, args.read_timeout)
    app = create_app(predictor, limits, f"{written:%Y-%m-%d}")
    _logger.info("the page is at http://%s:%d, only for this machine; stop it with Ctrl-C", HOSTS[0], args.port)
    # uvicorn deletes the uploads and then raises the signal again, which also ends a prediction that is still running.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    uvicorn.run(app, host=HOSTS[0], port=args.port, log_level="warning", timeout_graceful_shutdown=_GRACE)


if __name__ == "__main__":
    run(ARGS)
