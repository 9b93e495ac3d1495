"""How the native library is built, named and found."""

from pathlib import Path

import pytest

from bowsprit_engine.errors import WorldError
from bowsprit_engine.kernels import native
from bowsprit_engine.kernels.native import find_libraries, load
from bowsprit_engine.native import build as native_build
from bowsprit_engine.native.variants import (
    COMMON_FLAGS,
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

    assert len(set(names)) == 4


def test_products_are_never_fused_behind_the_kernels_back():
    """Contraction would differ between tile shapes, and rows with it."""
    assert "-ffp-contract=off" in COMMON_FLAGS


def test_a_missing_compiler_is_named_with_its_remedy(monkeypatch, tmp_path):
    """No traceback of a failed subprocess."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)

    with pytest.raises(WorldError, match=r"no C\+\+ compiler 'g\+\+' in PATH: install g\+\+"):
        native_build.build(tmp_path / "out")


def test_a_failed_compilation_keeps_the_compilers_words(monkeypatch, tmp_path):
    """And leaves no file behind."""
    variant = Variant(name="avx2", flags=("-mno-such-thing",), cpu_features=AVX2, activations="float32")

    with pytest.raises(WorldError, match="no-such-thing"):
        native_build.build(tmp_path, [variant])
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
