"""Write docs/flags.md, the handling of flags from other code bases: `python -m tools.flag_table`."""

from collections.abc import Sequence
from pathlib import Path

from common.flag_parser import FlagParser
from engines.published_flags import TABLES_OF_SCRIPTS, Handling, PublishedFlag, published_flags

_HEAD = """# Flags of published scripts

Written by `python -m tools.flag_table` from [engines/published_flags.yaml](../engines/published_flags.yaml), the table
that the command line uses.

The command lines of VideoMamba's and VideoMAE's fine-tuning scripts work here; only the paths and VideoMAE's
`--model` have to be replaced. Each of their flags is handled in one of four ways:

- **same**: a flag of this repository with the same meaning.
- **replaced**: read as the named flag, with one line in the log.
- **ignored**: accepted without effect, with one line in the log that gives the reason.
- **refused**: it would change the result. The run ends with status 2 and a line that names the alternative.

Dashes and underscores are interchangeable (`--batch-size`), and flags cannot be abbreviated. The published dataset
names are accepted too: `Kinetics-400` is `Kinetics` (dense sampling), `mitv1_sparse` is `Kinetics_sparse`;
`image_folder` is refused with a reason.

Two differences are not visible in any flag:

- VideoMamba's script loads ImageNet weights automatically when `--finetune` is missing. Nothing is downloaded here:
  name the file with `--finetune` ([weights.md](weights.md)).
- VideoMAE does not multiply the learning rate by `--num_sample`; VideoMamba and this repository do. The log contains
  the resulting learning rate.
"""
_OWNERS = {"both": "VideoMamba, VideoMAE", "videomamba": "VideoMamba", "videomae": "VideoMAE"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document; returns the exit status."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/flags.md"), help="file to write (%(default)s)")
    parser.parse_args(arguments).output.write_text(document(), encoding="utf-8")
    return 0


def document() -> str:
    """Return the document in Markdown."""
    flags = published_flags().values()
    published = [
        f"| `{flag.option}` | {_OWNERS[flag.origin]} | {_handling(flag)} | {_cell(flag.remark)} |"
        for flag in flags
        if flag.origin in _OWNERS
    ]
    others = [
        f"| `{flag.option}` | {_handling(flag)} | {_cell(flag.remark)} |"
        for flag in flags
        if flag.origin not in _OWNERS
    ]
    (script,) = TABLES_OF_SCRIPTS
    of_pretraining = [
        f"| `{flag.option}` | {_handling(flag)} | {_cell(flag.remark)} |"
        for name, flag in published_flags(script).items()
        if flag != published_flags().get(name)
    ]
    return "\n".join([
        _HEAD,
        "## VideoMamba and VideoMAE",
        "",
        "| flag | code base | handling | remark |",
        "| --- | --- | --- | --- |",
        *published,
        "",
        "## VideoMamba's masked pretraining",
        "",
        f"Flags of its `run_videomamba_pretraining.py` in `{script}`, where they differ from those above.",
        "",
        "| flag | handling | remark |",
        "| --- | --- | --- |",
        *of_pretraining,
        "",
        "## Other code bases",
        "",
        "Names that users of timm, MAE and other code bases may try.",
        "",
        "| flag | handling | remark |",
        "| --- | --- | --- |",
        *others,
        "",
    ])  # fmt: skip


def _handling(flag: PublishedFlag) -> str:
    if flag.handling is Handling.REPLACED:
        return f"`{flag.replacement}`"
    if flag.harmless:
        values = ", ".join(f"`{_cell(value)}`" for value in flag.harmless)
        return f"refused; {values}: ignored"
    return flag.handling.value


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    raise SystemExit(main())
