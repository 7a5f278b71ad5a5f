"""List the weights that VideoMamba and VideoMambaPro publish, and compare downloaded files with the list.

    python -m tools.weights                      list all files, with the accuracy that their authors report
    python -m tools.weights show FILE            show the address of a file, its contents and the commands that use it
    python -m tools.weights check FILE           compare a downloaded file with the list
    python -m tools.weights document             write docs/weights.md

Nothing is downloaded.
"""

import difflib
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import require_weights
from common.flag_parser import FlagParser
from datasets.presets import get_preset
from engines.recipe import load_recipe, read_yaml

TABLE = Path(__file__).with_suffix(".yaml")
_TITLES = {
    "imagenet": "ImageNet-1K",
    "k400": "Kinetics-400",
    "ssv2": "Something-Something V2",
    "breakfast": "Breakfast",
    "coin": "COIN",
    "video-text": "Video and text",
}
_HEAD = """# Published weights

Written by `python -m tools.weights document` from [tools/weights.yaml](../tools/weights.yaml) and the recipes.

The files belong to their authors; nothing is downloaded automatically. Download one, compare it with the table, and
fine-tune or test it:

```bash
curl -LO {home}videomamba_t16_in1k_res224.pth
python -m tools.weights check videomamba_t16_in1k_res224.pth
python run_class_finetuning.py --finetune videomamba_t16_in1k_res224.pth --model videomamba_tiny ...
```

- VideoMamba's files are at `{home}FILE`, and on
  [Hugging Face]({mirror}) under the same names.
- VideoMamba's weights require `--model videomamba_tiny`, `_small` or `_middle` (type v2, neither of the two changes),
  VideoMambaPro's require `--model videomambapro_tiny`. The error for a file of the other type names the right model.
- Resolution and number of frames may differ from those of the file: positional embeddings are interpolated. A head for
  other classes is not loaded.
- Reported: top-1 in percent as reported by the authors, not measured here. Views (segments x crops) are those of their
  scripts; their table of results states 4 x 3 for Something-Something V2.
- SHA-256 digests are not published; `tools.weights check` prints the one of your file.
- `python -m tools.checkpoint inspect FILE` shows the contents of any checkpoint and the command that tests it.
"""


@dataclass(frozen=True)
class PublishedWeights:
    """A published file.

    Attributes:
        file: Name of the file.
        data: Name of the dataset's file in recipes/, or "video-text".
        model: Registered name of the model; empty if there is none.
        classes: Outputs of the head; 0 if the file has no head.
        frames: Frames of a clip.
        size: Side of a clip in pixels.
        views: Segments and crops of the reported test, such as "4 x 3"; empty for images.
        reported: Top-1 in percent, or "unknown" or "none".
        recipe: Recipe of the published run; empty if there is none.
        address: Address of the file; empty if it is unknown.
        remark: Further information.
    """

    file: str
    data: str
    model: str
    classes: int
    frames: int
    size: int
    views: str
    reported: str
    recipe: str
    address: str
    remark: str

    def commands(self) -> list[str]:
        """Return the command lines that use the file."""
        if not self.model:
            return []
        start = f"python run_class_finetuning.py --model {self.model} --finetune {self.file} ..."
        if not self.classes:
            return [start]
        return [start, f"bash scripts/evaluate.sh --checkpoint {self.file} --data_set {self.data} --data_root DIR"]


def published_weights() -> dict[str, PublishedWeights]:
    """Read the table: file name -> weights."""
    table = read_yaml(TABLE)
    return {file: _complete(file, row, table["homes"]) for file, row in table["files"].items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status, 1 if a file differs from the table."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("show", help="show one file of the table").add_argument("file")
    checking = commands.add_parser("check", help="compare a downloaded file with the table")
    checking.add_argument("file", type=Path)
    checking.add_argument("--name", default="", help="its name in the table (default: that of the file)")
    writing = commands.add_parser("document", help="write docs/weights.md")
    writing.add_argument("--output", type=Path, default=Path("docs/weights.md"), help="file to write (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "show":
            print(_describe(_find(options.file)))
        elif options.command == "check":
            return _check(options.file, _find(options.name or options.file.name))
        elif options.command == "document":
            options.output.write_text(document(), encoding="utf-8")
        else:
            print(_listing())
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def document() -> str:
    """Return the document in Markdown."""
    homes = read_yaml(TABLE)["homes"]
    lines = [_HEAD.format(home=homes["videomamba"], mirror=homes["mirror"].removesuffix("/blob/main/"))]
    for data, title in _TITLES.items():
        rows = [weights for weights in published_weights().values() if weights.data == data]
        lines += [f"## {title}", ""]
        commands = next((weights.commands() for weights in rows if weights.classes), [])
        if commands:
            lines += ["```bash", *(line.replace(rows[0].file, "FILE") for line in commands), "```", ""]
        lines += [
            "| file | model | frames x size | views | reported | remark |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in rows:
            name = f"[{row.file}]({row.address})" if row.address else row.file
            clip = f"{row.frames} x {row.size}"
            lines.append(f"| {name} | {row.model or '-'} | {clip} | {row.views} | {row.reported} | {row.remark} |")
        lines.append("")
    return "\n".join(lines)


def differences(weights: PublishedWeights, path: Path) -> list[str]:
    """Compare a file with the table; return one line per difference.

    Raises:
        FileNotFoundError, CheckpointError: As in `describe_checkpoint`.
    """
    from models.describe import describe_checkpoint  # here because PyTorch takes seconds to import
    from models.videomambapro import registered_config

    facts = describe_checkpoint(path)
    expected = {"num_classes": weights.classes or None, "img_size": weights.size}
    if weights.frames > 1:
        expected["num_frames"] = weights.frames
    config = registered_config(weights.model)
    if config is not None:
        expected |= {name: getattr(config, name) for name in ("embed_dim", "depth", "bimamba_type", "patch_size")}
    found = facts.config | {"num_classes": facts.num_classes}
    return [
        f"{name} is {found.get(name)}, should be {value}"
        for name, value in expected.items()
        if found.get(name) != value
    ]


def _complete(file: str, row: dict, homes: dict[str, str]) -> PublishedWeights:
    """Complete a row of the table with the settings of its recipe."""
    flags, views, reported = {}, "", None
    if "recipe" in row:
        recipe = load_recipe(row["recipe"])
        flags, reported = recipe.flags, recipe.reported.get("videomamba")
        if "test_num_segment" in flags:
            views = f"{flags['test_num_segment']} x {flags['test_num_crop']}"
    data = row.get("data") or row["recipe"].partition("/")[0]
    return PublishedWeights(
        file=file,
        data=data,
        model=row.get("model", flags.get("model", "").replace("videomambapro", "videomamba")),
        classes=row["classes"] if "classes" in row else _classes(flags),
        frames=row.get("frames", flags.get("num_frames")),
        size=row.get("size", flags.get("input_size")),
        views=views,
        reported=str(row.get("reported", reported)),
        recipe=row.get("recipe", ""),
        address=homes["videomamba"] + file if row.get("address", True) else "",
        remark=row.get("remark", ""),
    )


def _classes(flags: dict) -> int:
    return flags.get("nb_classes") or get_preset(flags["data_set"]).num_classes if flags else 0


def _find(name: str) -> PublishedWeights:
    known = published_weights()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        guess = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"{name} is not in the table of published weights{guess} (python -m tools.weights lists it)")
    return known[name]


def _listing() -> str:
    rows = [
        (w.file, w.model or "-", f"{w.frames} x {w.size}", w.data, w.reported, w.remark)
        for w in published_weights().values()
    ]
    rows.insert(0, ("file", "model", "frames x size", "data", "top-1", "remark"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]) for row in rows
    ]
    homes = read_yaml(TABLE)["homes"]
    return "\n".join([*(line.rstrip() for line in lines), "", f"VideoMamba's are at {homes['videomamba']}FILE"])


def _describe(weights: PublishedWeights) -> str:
    from models.videomambapro import registered_config  # here because PyTorch takes seconds to import

    config = registered_config(weights.model)
    rows = {
        "address": weights.address or "not known",
        "trained on": _TITLES[weights.data],
        "recipe": weights.recipe or "none",
        "model": f"{weights.model} ({config.embed_dim} x {config.depth})" if config else "none that is registered",
        "clips": f"{weights.frames} x {weights.size} x {weights.size}",
        "classes": str(weights.classes) if weights.classes else "no head",
        "reported": f"{weights.reported} top-1{f', views {weights.views}' if weights.views else ''}",
        "sha256": "unknown: none is published",
        "remark": weights.remark,
    }
    lines = [f"  {name:<10}  {value}" for name, value in rows.items() if value]
    return "\n".join([weights.file, *lines, *(f"  {command}" for command in weights.commands())])


def _check(path: Path, weights: PublishedWeights) -> int:
    path = require_weights(path)
    wrong = differences(weights, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for difference in wrong:
        print(f"{path}: {difference}")
    if not wrong:
        print(f"{path}: size, type, classes and frames are those of {weights.file}")
    print(f"sha256 {digest} (none is published to compare it with)")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
