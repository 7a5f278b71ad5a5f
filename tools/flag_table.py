"""Writes docs/flags.md: what becomes of the flags of VideoMamba's and VideoMAE's fine-tuning scripts.

python -m tools.flag_table
"""

from collections.abc import Sequence
from pathlib import Path

from common.flag_parser import FlagParser
from engines.published_flags import Fate, PublishedFlag, published_flags

_HEAD = """# Flags of published scripts

Written by `python -m tools.flag_table` from [engines/published_flags.yaml](../engines/published_flags.yaml), the table
that the command line uses.

The command lines of VideoMamba's and VideoMAE's fine-tuning scripts run here as they are; replace the paths, and
VideoMAE's `--model`. Each of their flags has one of four fates:

- **same**: a flag of this repository with the same meaning.
- **replaced**: read as the flag that is named, with one line in the log.
- **ignored**: accepted without effect, with one line in the log that gives the reason.
- **refused**: it would change the result. The run ends with status 2 and a line that says what there is instead.

Dashes and underscores are interchangeable (`--batch-size`), and no flag is abbreviated. Their data set names are
accepted too: `Kinetics-400` is `Kinetics` (dense sampling), `mitv1_sparse` is `Kinetics_sparse`; `LVU` (windows over
long films) and `image_folder` are refused with the reason.

Two differences that no flag shows:

- VideoMamba's script loads ImageNet weights by itself when `--finetune` is missing. Nothing is downloaded here: name
  the file with `--finetune` ([weights.md](weights.md)).
- VideoMAE does not multiply the learning rate by `--num_sample`; VideoMamba and this repository do. The log says
  what `--lr` comes to.
"""
_OWNERS = {"both": "VideoMamba, VideoMAE", "videomamba": "VideoMamba", "videomae": "VideoMAE"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document; returns the exit status."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/flags.md"), help="file to write (%(default)s)")
    parser.parse_args(arguments).output.write_text(document(), encoding="utf-8")
    return 0


def document() -> str:
    """The document, in Markdown."""
    flags = published_flags().values()
    theirs = [
        f"| `{flag.option}` | {_OWNERS[flag.whose]} | {_fate(flag)} | {_cell(flag.remark)} |"
        for flag in flags
        if flag.whose in _OWNERS
    ]
    others = [
        f"| `{flag.option}` | {_fate(flag)} | {_cell(flag.remark)} |" for flag in flags if flag.whose not in _OWNERS
    ]
    return "\n".join([
        _HEAD,
        "## VideoMamba and VideoMAE",
        "",
        "| flag | of | fate | remark |",
        "| --- | --- | --- | --- |",
        *theirs,
        "",
        "## Other code bases",
        "",
        "Names that users of timm, MAE and others try first.",
        "",
        "| flag | fate | remark |",
        "| --- | --- | --- |",
        *others,
        "",
    ])  # fmt: skip


def _fate(flag: PublishedFlag) -> str:
    if flag.fate is Fate.REPLACED:
        return f"`{flag.becomes}`"
    if flag.harmless:
        values = ", ".join(f"`{_cell(value)}`" for value in flag.harmless)
        return f"refused; {values}: ignored"
    return flag.fate.value


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    raise SystemExit(main())
