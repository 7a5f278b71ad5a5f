"""What the linter does not check of the house rules (CONTRIBUTING.md): sizes, and a README that keeps its promises."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests")
SOURCES = sorted(
    path
    for folder in FOLDERS
    for suffix in ("*.py", "*.cpp", "*.h")
    for path in (ROOT / folder).rglob(suffix)
) + sorted(ROOT.glob("*.py"))  # fmt: skip
MAX_LINES = 400
MAX_FUNCTION_LINES = 80
# A kernel is one function to its compiler; its arguments alone are thirty lines.
LONG_FUNCTIONS = {"backward_kernel"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name not in LONG_FUNCTIONS:
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("document", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda path: path.name)
def test_documents_link_to_what_is_there(document):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not broken


def test_the_readme_tells_why_every_dependency_is_there():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {re.match(r"[A-Za-z0-9_-]+", line)[0].lower() for line in lines if line and line[0] not in "#-"}
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Dependencies")[2].partition("\n## ")[0]
    told = set(re.findall(r"[a-z0-9_-]+", section.lower()))
    assert required - told == set()
