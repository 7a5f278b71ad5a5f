"""House rules (CONTRIBUTING.md) that the linter does not check: sizes, imports, and the claims of the README."""

import ast
import re
from pathlib import Path

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


def test_files_and_functions_stay_small():
    long = []
    for path in SOURCES:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        if text.count("\n") > MAX_LINES:
            long.append(f"{name} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)) if path.suffix == ".py" else ():
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                long += [f"{name}: {node.name} has {lines} lines"] if lines > MAX_FUNCTION_LINES else []
    assert not long


# From the ground up: a folder imports those before it alone.
ROOMS = ("common", "mamba", "models", "datasets", "engines", "explain", "inference", "reports", "tools", "benchmarks")


def test_no_folder_imports_one_above_it():
    assert set(FOLDERS) == set(ROOMS)
    upwards = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in SOURCES
        if path.suffix == ".py" and path.parent != ROOT
        for module in imported_modules(path)
        if module.split(".")[0] in ROOMS
        and ROOMS.index(module.split(".")[0]) > ROOMS.index(path.relative_to(ROOT).parts[0])
    ]
    assert not upwards


def imported_modules(path):
    """Names of the modules that a file imports, at its head or inside its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_the_order_of_the_folders_is_the_one_that_contributors_read():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert " < ".join(f"`{room}`" for room in ROOMS) in " ".join(text.split())


def test_documents_link_to_what_is_there():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    links = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert len(documents) > 10 and len(links) > len(documents)
    assert not [f"{document.name}: {link}" for document, link in links if not (document.parent / link).exists()]


def test_the_readme_tells_why_every_dependency_is_there():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {re.match(r"[A-Za-z0-9_-]+", line)[0].lower() for line in lines if line and line[0] not in "#-"}
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Dependencies")[2].partition("\n## ")[0]
    reported = set(re.findall(r"[a-z0-9_-]+", section.lower()))
    assert required - reported == set()
