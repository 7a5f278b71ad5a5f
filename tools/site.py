"""Build the documentation as a site: `make docs`, or `python -m tools.site [--repository ADDRESS]`.

The pages are the README, the other documents and an API reference from the docstrings. They are copied to build/pages,
where links between documents are links between pages and links to other files of the repository lead to the given
address of the repository, or are plain text without one. Zensical (zensical.toml) then builds build/site and fails at
any link that leads nowhere. The pages open without a server and fetch nothing from elsewhere; the search needs one:
python -m http.server -d build/site.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from common.flag_parser import FlagParser

ROOT = Path(__file__).resolve().parent.parent
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
PICTURES = (".png", ".webp")
LINK = re.compile(
    r"(?P<picture>!?)\[(?P<text>[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\]"  # one level of brackets inside
    r"\((?P<target>[^()\s#]+)(?P<place>#[^()\s]*)?\)"
)
IMAGE = re.compile(r'(?<=<img src=")[^":]+(?=")')
API = {
    "Models": ("models.videomambapro", "models.config", "models.checkpoint"),
    "The mixer and the scan": (
        *("mamba.mamba_ssm.modules.mamba_simple", "mamba.mamba_ssm.ops.selective_scan_interface"),
        "mamba.mamba_ssm.ops.causal_conv1d",
    ),
    "Data": ("datasets.build", "datasets.readers", "datasets.sampling", "datasets.transforms"),
    "Objectives and runs": ("engines.objectives.base", "engines.task", "engines.run"),
    "Prediction": ("inference.predictor", "inference.features", "inference.timeline", "inference.heatmaps"),
    "Explanation": ("explain.scans", "explain.hidden_attention", "explain.relevance"),
}


def documents() -> dict[str, str]:
    """Return the pages: path of each document in the repository -> path in the site."""
    pages = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
    pages["weights/README.md"] = "weights_folder.md"
    return pages | {f"docs/{path.name}": path.name for path in (ROOT / "docs").glob("*.md")}


def pictures() -> dict[str, str]:
    """Return the pictures of the documents, likewise."""
    found = (path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*") if path.suffix in PICTURES)
    return {f"docs/{path.as_posix()}": path.as_posix() for path in found}


def page_of(text: str, document: str, places: Mapping[str, str], repository: str) -> str:
    """Rewrite the links of a document for its place in the site.

    Args:
        text: The document.
        document: Its path in the repository. Pictures in HTML are written `<img src="...">`.
        places: Path in the repository -> path in the site, of pages and pictures.
        repository: Address of the files on the web; empty for none.

    Raises:
        FileNotFoundError: A link leads to a file that does not exist.
    """

    def found(target: str) -> str:
        file = os.path.normpath(PurePosixPath(document).parent / target)
        if not (ROOT / file).exists() and file not in places:
            raise FileNotFoundError(f"{document} links to {target}, which does not exist")
        return file

    def beside(file: str) -> str:
        return os.path.relpath(places[file], PurePosixPath(places[document]).parent)

    def rewritten(link: re.Match) -> str:
        target, place = link["target"], link["place"] or ""
        if "://" in target:
            return link[0]
        file = found(target)
        if file in places:
            return f"{link['picture']}[{link['text']}]({beside(file)}{place})"
        return f"[{link['text']}]({repository}/{file}{place})" if repository else link["text"]

    text = IMAGE.sub(lambda source: beside(found(source[0])), text)
    # Python-Markdown wants four spaces in numbered lists, where GitHub accepts three.
    return re.sub(r"^ {3}(?=\S)", "    ", LINK.sub(rewritten, text), flags=re.MULTILINE)


def api_page(title: str, modules: Sequence[str]) -> str:
    """Return a page that mkdocstrings fills with the docstrings of modules."""
    return f"# {title}\n" + "".join(f"\n## {name}\n\n::: {name}\n" for name in modules)


def write_pages(folder: Path, repository: str = "") -> None:
    """Write all pages and pictures of the site, in place of what the folder holds."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = documents()
    places = pages | pictures()
    for document, place in places.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if document in pages:
            text = (ROOT / document).read_text(encoding="utf-8")
            (folder / place).write_text(page_of(text, document, places, repository), encoding="utf-8")
        else:
            shutil.copy(ROOT / document, folder / place)
    (folder / "api").mkdir()
    for title, modules in API.items():
        name = title.lower().replace(" ", "_")
        (folder / "api" / f"{name}.md").write_text(api_page(title, modules), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages and build the site; returns the exit status."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repository",
        default="",
        metavar="ADDRESS",
        help="where the files of the repository are on the web, such as https://github.com/NAME/REPOSITORY/blob/main",
    )
    write_pages(PAGES, parser.parse_args(arguments).repository.rstrip("/"))
    built = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=ROOT, check=False)
    if built.returncode == 0:
        print(f"open {SITE / 'index.html'}")
    return built.returncode


if __name__ == "__main__":
    sys.exit(main())
