"""How the native library is built, named and found."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bowsprit_engine.errors import WorldError
from bowsprit_engine.kernels import native
from bowsprit_engine.kernels.native import find_libraries, load
from bowsprit_engine.native import build as native_build
from bowsprit_engine.native.variants import (
    COMMON_FLAGS,
    LOOKUP,
    VARIANTS,
    Variant,
    build_dir,
    content_hash,
    cpu_features,
    search_path,
    usable,
)

AVX2 = frozenset({"avx2", "fma", "bmi2"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
AVX512_BF16 = AVX512 | {"avx512_bf16"}
AMX = AVX512_BF16 | {"amx_tile", "amx_bf16"}
UNKNOWN = Variant(name="avx2", flags=("-mno-such-thing",), cpu_features=AVX2, activations="float32")


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (AMX, ["amxbf16", "avx512bf16", "avx512", "avx2"]),
        (AVX512_BF16, ["avx512bf16", "avx512", "avx2"]),
        (AVX512, ["avx512", "avx2"]),
        (AVX512 - {"avx512vl"}, ["avx2"]),
        (AVX2, ["avx2"]),
        (AVX2 - {"fma"}, []),
        (frozenset(), []),
    ],
)
def test_a_processor_runs_the_variants_whose_features_it_has(features, expected):
    """The best first."""
    assert expected == [variant.name for variant in usable(features)]


def test_a_variant_can_be_chosen_by_name(tmp_path):
    """To compare instruction sets; one that the processor lacks is refused with those that it has."""
    (tmp_path / "libbowsprit_avx2.so").write_bytes(b"")

    assert [tmp_path / "libbowsprit_avx2.so"] == find_libraries(AVX512, (tmp_path,), "avx2")
    with pytest.raises(WorldError, match=r"BOWSPRIT_NATIVE_VARIANT is 'avx512bf16', this processor runs avx2"):
        find_libraries(AVX2, (tmp_path,), "avx512bf16")


def test_a_library_whose_instructions_the_system_refuses_is_passed_over(monkeypatch):
    """A sandbox may refuse AMX's tiles although the processor has them; the next variant serves."""

    class Library:
        def __init__(self, path):
            self.path = path

        def bowsprit_is_permitted(self):
            return int("amx" not in str(self.path))

    monkeypatch.setattr(native, "load", Library)
    refused, next_best = Path("libbowsprit_amxbf16.so"), Path("libbowsprit_avx512bf16.so")

    assert next_best == native.first_permitted([refused, next_best]).path
    with pytest.raises(WorldError, match=r"refuses the instructions of libbowsprit_amxbf16.so"):
        native.first_permitted([refused])


def test_features_are_read_from_cpuinfo(tmp_path):
    """And are none on a system without it."""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 fma\n")

    assert frozenset({"fpu", "avx2", "fma"}) == cpu_features(tmp_path / "cpuinfo")
    assert frozenset() == cpu_features(tmp_path / "nowhere")


def test_the_first_folder_that_has_a_library_wins(tmp_path):
    """A better variant in a later folder wins over a lesser one in an earlier."""
    for name in ("a/libbowsprit_avx2.so", "b/libbowsprit_avx2.so", "b/libbowsprit_avx512bf16.so"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    folders = (tmp_path / "none", tmp_path / "a", tmp_path / "b")

    lesser, better = tmp_path / "a" / "libbowsprit_avx2.so", tmp_path / "b" / "libbowsprit_avx512bf16.so"
    assert [lesser] == find_libraries(AVX2, folders)
    assert [better, lesser] == find_libraries(AMX, folders)


def test_a_missing_library_says_where_it_was_looked_for_and_how_to_build_it(tmp_path):
    """Both folders are in the message."""
    with pytest.raises(WorldError) as missing:
        find_libraries(AVX2, (tmp_path / "a", tmp_path / "b"))

    for part in (str(tmp_path / "a"), str(tmp_path / "b"), "libbowsprit_avx2.so", "bowsprit_engine.native.build"):
        assert part in str(missing.value)


def test_a_processor_without_avx2_is_told_so(tmp_path):
    """It isn't a matter of a missing file."""
    with pytest.raises(WorldError, match="need a processor with AVX2"):
        find_libraries(frozenset({"sse2"}), (tmp_path,))


def test_a_file_that_is_no_library_is_named(tmp_path):
    """The loader's own words are kept."""
    (tmp_path / "libbowsprit_avx2.so").write_text("not ELF")

    with pytest.raises(WorldError, match=r"libbowsprit_avx2.so: not loadable"):
        load(tmp_path / "libbowsprit_avx2.so")


def test_a_library_that_is_another_one_is_named():
    """It lacks the functions of this one."""
    with pytest.raises(WorldError, match=r"libm.so.6: not loadable: .*bowsprit_build"):
        load(Path("libm.so.6"))


def test_a_library_of_other_sources_is_refused(tmp_path):
    """Beside newer Python its structures are not those that it would be handed."""
    source, library = tmp_path / "stale.cpp", tmp_path / "libbowsprit_avx2.so"
    source.write_text('extern "C" const char* bowsprit_build() { return "0123456789abcdef"; }')
    compiler = native_build.find_compiler()
    subprocess.run([*compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)

    with pytest.raises(WorldError, match=rf"built from sources 0123456789abcdef, these are {content_hash()}"):
        load(library)


def test_the_cache_folder_comes_after_the_package(monkeypatch, tmp_path):
    """And follows BOWSPRIT_CACHE_DIR."""
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path))

    assert tmp_path / "native" / content_hash() == build_dir()
    assert build_dir() == search_path()[1]


def test_a_build_is_named_by_its_sources_and_flags(tmp_path):
    """A changed line, a new file and another flag each give another name."""
    (tmp_path / "a.cpp").write_text("int a;")
    names = [content_hash(folder=tmp_path)]
    (tmp_path / "a.cpp").write_text("int b;")
    names.append(content_hash(folder=tmp_path))
    (tmp_path / "b.hpp").write_text("")
    names.append(content_hash(folder=tmp_path))
    names.append(content_hash(VARIANTS[:1], tmp_path))
    names.append(content_hash((LOOKUP,), tmp_path))

    assert len(set(names)) == 5


def test_products_are_never_fused_behind_the_kernels_back():
    """Contraction would differ between tile shapes, and rows with it."""
    assert "-ffp-contract=off" in COMMON_FLAGS


def test_a_missing_compiler_is_named_with_its_remedy(monkeypatch, tmp_path):
    """No traceback of a failed subprocess."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)

    with pytest.raises(WorldError, match=r"no C\+\+ compiler 'g\+\+' in PATH: install g\+\+"):
        native_build.build(tmp_path / "out")


def test_the_compiler_may_have_a_wrapper_and_arguments(monkeypatch):
    """As build systems and make understand CXX; empty is as good as absent."""
    monkeypatch.setenv("CXX", "env LANG=C g++")
    assert [shutil.which("env"), "LANG=C", "g++"] == native_build.find_compiler()
    monkeypatch.setenv("CXX", "")
    assert [shutil.which("g++")] == native_build.find_compiler()


def test_a_folder_that_cannot_be_written_is_named_with_a_remedy(monkeypatch, tmp_path, capsys):
    """A read-only home, a full disk: the command ends with one line, not with a traceback."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path / "file"))

    assert native_build.main([]) == 1
    line = capsys.readouterr().err
    for part in ("can't be built in", str(build_dir()), "BOWSPRIT_CACHE_DIR"):
        assert part in line


@pytest.mark.parametrize(("refused", "made"), [(VARIANTS[-1], LOOKUP), (LOOKUP, VARIANTS[-1])])
def test_what_cannot_be_built_holds_up_nothing_else(monkeypatch, tmp_path, capsys, refused, made):
    """Kernels that this compiler can't make are no reason to look up in Python, and not the other way round."""
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *{refused.file_name}*) echo no such thing >&2; exit 1;; esac\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(native_build, "VARIANTS", VARIANTS[-1:])
    monkeypatch.setattr(native_build.platform, "machine", lambda: "x86_64")

    assert native_build.main([]) == 1
    printed = capsys.readouterr()
    assert [Path(line).name for line in printed.out.splitlines()] == [made.file_name]
    assert f"failed on {refused.name}:\nno such thing" in printed.err


def test_kernels_are_built_where_there_are_any():
    """They are of x86's vectors; look-up is for whatever compiles it."""
    assert native_build.wanted("x86_64") == ((LOOKUP,), VARIANTS)
    assert native_build.wanted("aarch64") == ((LOOKUP,),)


def test_two_builders_never_write_the_same_file(monkeypatch, tmp_path):
    """Processes of two containers that share a cache may have the same pid."""
    written = []

    def compile_quickly(command, **options):
        written.append(command[-1])
        Path(command[-1]).write_text("compiled")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", compile_quickly)
    for _ in range(2):
        library = native_build.build(tmp_path, VARIANTS[-1:])[0]
        assert (library.read_text(), library.stat().st_mode & 0o555) == ("compiled", 0o555)
        assert [library] == list(tmp_path.iterdir())
        library.unlink()

    assert len(set(written)) == 2


def test_a_failed_compilation_keeps_the_compilers_words(monkeypatch, tmp_path):
    """And leaves no file behind."""
    with pytest.raises(WorldError, match="no-such-thing"):
        native_build.build(tmp_path, [UNKNOWN])
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_exists_is_not_made_again(tmp_path):
    """The file is trusted by its folder's name."""
    (tmp_path / "libbowsprit_avx2.so").write_text("made before")

    assert [tmp_path / "libbowsprit_avx2.so"] == native_build.build(tmp_path, VARIANTS[-1:])
    assert (tmp_path / "libbowsprit_avx2.so").read_text() == "made before"


def test_every_variant_compiles_and_loads_and_says_its_name():
    """The one for a processor that this machine isn't too: loading runs none of its kernels."""
    paths = native_build.build(build_dir())

    assert [load(path).bowsprit_variant().decode() for path in paths] == [variant.name for variant in VARIANTS]


def test_a_library_shares_no_symbol_with_others():
    """Unique symbols are one for the whole process, and an open library would use another's libstdc++."""
    libraries = [
        next(path for folder in search_path(of) if (path := folder / of[-1].file_name).is_file())
        for of in (VARIANTS, (LOOKUP,))
    ]
    for library in libraries:
        check_symbols(library)


def check_symbols(library):
    names = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    tags = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    kinds = {line.split()[-2] for line in names.splitlines()}

    assert "bowsprit_build" in names
    assert "u" not in kinds
    assert "_ZTISt9exception" not in names
    assert "SYMBOLIC" in tags
