"""torchrun's record of how a process failed, written whole or not at all."""

import os
from functools import partial

from torch.distributed.elastic.multiprocessing.errors import ErrorHandler
from torch.distributed.elastic.multiprocessing.errors import record as record_with

_VARIABLE = "TORCHELASTIC_ERROR_FILE"


class WholeErrorFile(ErrorHandler):
    """Writes the error file of torchrun under another name first, and renames it.

    When one process is killed, the others fail at their next communication and record that, while torchrun is already
    ending them. If a file is half written by then, torchrun fails to parse it and reports that in place of the cause.
    """

    def record_exception(self, e: BaseException) -> None:
        """Write the exception to the file that torchrun names, if it names one."""
        path = os.environ.get(_VARIABLE)
        if not path:
            return super().record_exception(e)
        os.environ[_VARIABLE] = part = f"{path}.part"
        try:
            super().record_exception(e)
            os.replace(part, path)
        finally:
            os.environ[_VARIABLE] = path


record = partial(record_with, error_handler=WholeErrorFile())
"""Decorator of a script's main function: lets torchrun show the traceback of the process that failed first."""
