"""What the documents point at is there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
COMMAND = re.compile(r"^(?:\S*=\S* )*make ([a-z0-9-]+)", re.MULTILINE)
TARGET = re.compile(r"^([a-z0-9-]+):", re.MULTILINE)
FILE = re.compile(r"(?:manifests|crds|operator|engine|e2e)/[\w./-]+")
NEWCOMERS = ["README.md", "CONTRIBUTING.md"]
DOCUMENTS = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.splitlines()


def anchors(document: Path) -> set[str]:
    """A heading's letters, digits and dashes in lower case, blanks as dashes: what a link's # may name."""
    headings = HEADING.findall(document.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_somewhere(document: Path, *, path: str, anchor: str) -> bool:
    target = document.parent / path if path else document
    return target.exists() and (not anchor or anchor in anchors(target))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_to_a_file_of_the_checkout_and_to_a_heading_in_it(name: str) -> None:
    """Links to the web aside, of which there are few."""
    document = ROOT / name
    links = [(path, anchor) for path, anchor in LINK.findall(document.read_text()) if "://" not in path]
    assert [link for link in links if not leads_somewhere(document, path=link[0], anchor=link[1])] == []


def test_every_design_is_on_the_page_of_the_whole_engine() -> None:
    """A decision that nobody finds is made again."""
    page = ROOT / "engine/DESIGN.md"
    linked = {(page.parent / path).resolve() for path, _ in LINK.findall(page.read_text())}
    written = {ROOT / name for name in DOCUMENTS if name.startswith("engine/") and name != "engine/DESIGN.md"}
    assert written - linked == set()


@pytest.mark.parametrize("name", NEWCOMERS)
def test_every_file_of_a_command_and_every_target_of_make_exists(name: str) -> None:
    """In the blocks that people copy."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.DOTALL))
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    files = {file for file in FILE.findall(blocks) if not (ROOT / file).exists()}
    assert (set(COMMAND.findall(blocks)) - targets, files) == (set(), set())
