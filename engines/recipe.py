"""Recipes: published runs as data. `recipes/k400.yaml` holds a table of runs, `k400/tiny_f16_res224` is one of them.

A file has these keys:
    about     a short description
    script    the run script that its runs are for
    inherits  another file, whose base, groups and runs are inherited and can be overridden
    base      flags of all runs
    groups    flags that several runs share, by name
    runs      the runs, by name; NAME_f16_res224 sets num_frames 16 and input_size 224; for frames
              that are not square, write input_size: [128, 224]

Base, groups and runs contain flags under their names on the command line, and in addition
    use       groups or runs of the file to start from; later ones override earlier ones
    batch     the published batch: "64x8" is batch_size x processes, "2x32x2" adds update_freq accumulated batches
    choices   rows of flags for lists of different lengths; the first row whose conditions hold applies. `videos: N`
              holds for up to N training videos, `weights: true` if the run starts from a file, `weights: false` if it
              does not; `about` describes the row in words
    finetune  a path in the repository
    init      the recipe whose weights belong in --finetune, or a description of them
    teacher   the recipe whose weights belong in --teacher; this and `reported` apply to a single run
    reported  published top-1 in percent, by model; mAP for action detection
"""

import copy
import difflib
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
_FILE_KEYS = {"about", "script", "inherits", "base", "groups", "runs"}
_NOT_INHERITED = ("teacher", "reported")
_CONDITIONS = {"videos", "weights"}
_BATCH = re.compile(r"(\d+)x(\d+)(?:x(\d+))?")
_NAME_FLAGS = {r"_f(\d+)(?:_|$)": ("num_frames",), r"_res(\d+)(?:_|$)": ("input_size",)}


class RecipeError(ValueError):
    """A recipe does not exist or cannot be used; the message names the file."""


@dataclass(frozen=True)
class Recipe:
    """One run, with everything that it inherits.

    Attributes:
        name: "k400/tiny_f16_res224", or "k400" for only the base of the file.
        file: the recipe file.
        script: the run script that it is for.
        flags: name of a flag -> value as in the file.
        global_batch: videos per optimizer step over all processes; 0 if the recipe does not set it.
        init: recipe or description of the weights that it fine-tunes; empty for none.
        teacher: recipe of the weights that it distils from; empty for none.
        reported: model family -> published top-1, or mAP, in percent.
        choices: rows of conditions and flags, see `choose`.
    """

    name: str
    file: Path
    script: str
    flags: dict[str, Any]
    global_batch: int = 0
    init: str = ""
    teacher: str = ""
    reported: dict[str, float] = field(default_factory=dict)
    choices: list[dict[str, Any]] = field(default_factory=list)

    def choose(self, videos: int, *, weights: bool) -> dict[str, Any]:
        """Return the flags, and `about`, of the first of `choices` that fits.

        Args:
            videos: in the training list.
            weights: whether the run starts from a file.

        Raises:
            RecipeError: none fits.
        """
        for row in self.choices:
            if videos <= row.get("videos", videos) and weights == row.get("weights", weights):
                return {key: value for key, value in row.items() if key not in _CONDITIONS}
        remedy = "leave --finetune out" if weights else f"give --finetune FILE ({self.init or 'weights'})"
        raise RecipeError(f"{self.name} does not fit: {remedy}")

    def check_script(self, script: str) -> None:
        """Raise the RecipeError that names the recipe's script, unless it is `script`."""
        if self.script != script:
            raise RecipeError(f"recipe {self.name} ({self.file}) is for {self.script}, not for {script}")


def load_recipe(name: str, folder: Path = RECIPES) -> Recipe:
    """Load the recipe "FILE/RUN", or with "FILE" the flags that all its runs share.

    Raises:
        RecipeError: the file or run does not exist, or the file is invalid.
    """
    file_name, _, run = name.partition("/")
    content = _read_family(file_name, folder, name)
    file = folder / f"{file_name}.yaml"
    known = content["groups"] | content["runs"]
    if run and run not in content["runs"]:
        near = difflib.get_close_matches(run, content["runs"], n=3) or list(content["runs"])
        raise RecipeError(f"{file} has no run {run!r}; the closest are: {', '.join(near) or 'none'}")
    settings = content["base"] | (_resolve(run, known, file, ()) if run else {})
    settings |= {flag: size for flag, size in _flags_of_name(run).items() if flag not in settings}
    settings.pop("use", None)
    init = settings.pop("init", "")
    choices = settings.pop("choices", [])
    batch = settings.pop("batch", None)
    if settings.get("finetune"):
        settings["finetune"] = str(folder.parent / settings["finetune"])
    for key in _NOT_INHERITED:
        settings.pop(key, None)
    flags, global_batch = settings, 0
    if batch is not None:
        batch_size, processes, accumulated = _read_batch(batch, file, name)
        flags |= {"batch_size": batch_size, "update_freq": accumulated}
        global_batch = batch_size * processes * accumulated
    if init and "/" not in init and init in content["runs"]:
        init = f"{file_name}/{init}"
    own = content["runs"].get(run, {})
    return Recipe(
        name,
        file,
        content["script"],
        flags,
        global_batch,
        init,
        own.get("teacher", ""),
        own.get("reported", {}),
        choices,
    )


def recipe_names(folder: Path = RECIPES) -> list[str]:
    """Return all runs of all files as "FILE/RUN", sorted by file."""
    names = []
    for file in sorted(folder.glob("*.yaml")):
        names += [f"{file.stem}/{run}" for run in _read_family(file.stem, folder, file.stem)["runs"]]
    return names


class _Loader(yaml.SafeLoader):
    """A YAML loader that rejects duplicate keys, of which PyYAML silently drops one."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> Any:
    """Read a YAML (or JSON) file.

    Raises:
        RecipeError: the file does not exist, is not YAML, or has a duplicate key; the message names file and line.
    """
    if not file.is_file():
        raise RecipeError(f"{file} does not exist")
    try:
        return copy.deepcopy(_parsed(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file} cannot be read: {error}") from error


@functools.cache
def _parsed(text: str) -> Any:
    """Parse YAML, which takes ten milliseconds a file; who looks at all recipes asks for each file dozens of times."""
    return yaml.load(text, _Loader)


def _read_family(file_name: str, folder: Path, asked: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a file with what it inherits, as {script, base, groups, runs}."""
    file = folder / f"{file_name}.yaml"
    if not file.is_file():
        available = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise RecipeError(f"there is no recipe {asked!r}: no file {file}; available: {available or 'none'}")
    if file_name in above:
        raise RecipeError(f"{file} inherits itself: {' -> '.join([*above, file_name])}")
    content = read_yaml(file)
    if not isinstance(content, dict) or content.keys() - _FILE_KEYS:
        unknown = sorted(map(str, content.keys() - _FILE_KEYS)) if isinstance(content, dict) else [repr(content)]
        raise RecipeError(
            f"{file}: unknown {', '.join(unknown)}; the possible keys are {', '.join(sorted(_FILE_KEYS))}"
        )
    own = {key: content.get(key) or {} for key in ("base", "groups", "runs")} | {"script": content.get("script", "")}
    if "inherits" not in content:
        return own
    parent = _read_family(content["inherits"], folder, content["inherits"], (*above, file_name))
    runs = {run: {k: v for k, v in flags.items() if k not in _NOT_INHERITED} for run, flags in parent["runs"].items()}
    return {
        "script": own["script"] or parent["script"],
        "base": parent["base"] | own["base"],
        "groups": _merge(parent["groups"], own["groups"]),
        "runs": _merge(runs, own["runs"]),
    }


def _merge(parent: dict[str, dict], own: dict[str, dict]) -> dict[str, dict]:
    return {name: parent.get(name, {}) | own.get(name, {}) for name in parent | own}


def _resolve(name: str, known: dict[str, dict], file: Path, above: tuple[str, ...]) -> dict[str, Any]:
    """Return the flags of a group or run, including those of everything that it uses."""
    if name not in known:
        raise RecipeError(f"{file}: {above[-1]} uses {name!r}, which is neither a group nor a run of the file")
    if name in above:
        raise RecipeError(f"{file}: {name} uses itself: {' -> '.join([*above, name])}")
    used = known[name].get("use", [])
    flags: dict[str, Any] = {}
    for other in [used] if isinstance(used, str) else used:
        flags |= _resolve(other, known, file, (*above, name))
    return flags | known[name]


def _flags_of_name(run: str) -> dict[str, int]:
    """Return the frames and resolution given in a run's name."""
    flags = {}
    for pattern, names in _NAME_FLAGS.items():
        found = re.search(pattern, run)
        if found:
            flags |= {name: int(found[1]) for name in names}
    return flags


def _read_batch(batch: Any, file: Path, name: str) -> tuple[int, int, int]:
    found = _BATCH.fullmatch(str(batch))
    if not found or "0" in found.groups():
        raise RecipeError(f'{file}: batch of {name} must look like 64x8 (videos x processes) or 2x32x2, not "{batch}"')
    return int(found[1]), int(found[2]), int(found[3] or 1)
