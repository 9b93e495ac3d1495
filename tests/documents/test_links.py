"""What the documents for newcomers point at is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
COMMAND = re.compile(r"^(?:\S*=\S* )*make ([a-z0-9-]+)", re.MULTILINE)
TARGET = re.compile(r"^([a-z0-9-]+):", re.MULTILINE)
FILE = re.compile(r"(?:manifests|crds|operator|engine|e2e)/[\w./-]+")
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_to_a_file_of_the_checkout(name: str) -> None:
    """Links to the web aside, of which there are few."""
    document = ROOT / name
    links = [link for link in LINK.findall(document.read_text()) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_of_a_command_and_every_target_of_make_exists(name: str) -> None:
    """In the blocks that people copy."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.DOTALL))
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    files = {file for file in FILE.findall(blocks) if not (ROOT / file).exists()}
    assert (set(COMMAND.findall(blocks)) - targets, files) == (set(), set())
