"""Create the folder that a tool writes to."""

from pathlib import Path


def make_output_folder(output: Path) -> None:
    """Create a folder, and those above it, unless it exists.

    Raises:
        NotADirectoryError: A file has that name.
        OSError: The folder cannot be created.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"{output} is a file; name another folder with --output") from error
