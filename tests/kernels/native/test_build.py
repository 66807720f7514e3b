"""Libraries are compiled once, whoever asks and however many at once; without a compiler one warning says so."""

import ctypes
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_search.kernels.native import build as building
from moe_search.kernels.native.build import BuildError, build, buildable, compiler, library_path
from moe_search.kernels.native.level import LEVELS, VARIABLE, chosen_level, usable_levels
from moe_search.kernels.native.library import native_library


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MOE_SEARCH_CACHE", str(tmp_path / "cache"))
    compiler.cache_clear()
    native_library.cache_clear()
    yield
    compiler.cache_clear()
    native_library.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.cpp"
    path.write_text('#include "simd.hpp"\nextern "C" int answer() { return 40 + 2; }\n')
    return path


def test_a_library_is_built_once_and_works(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = build(source, "portable")
    assert capfd.readouterr().err == "moe-search: compiling answer.cpp for this CPU (portable), once\n"
    changed = first.stat().st_mtime_ns
    assert build(source, "portable") == first
    assert capfd.readouterr().err == ""
    assert first.stat().st_mtime_ns == changed
    assert ctypes.CDLL(str(first)).answer() == 42
    assert [path.name for path in first.parent.iterdir() if path.suffix != ".lock"] == [first.name]


def test_many_processes_at_once_build_it_once(source: Path) -> None:
    imports = f"from pathlib import Path; from {building.__name__} import build"
    code = f"{imports}; print(build(Path({str(source)!r}), 'portable'))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(16)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    assert {process.returncode for process in processes} == {0}, said
    assert {out.strip() for out, _ in said} == {str(library_path(source, "portable"))}
    assert sum(err.count("compiling") for _, err in said) == 1


def test_another_source_flag_or_level_is_another_library(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {library_path(source, level) for level in LEVELS}
    monkeypatch.setattr(building, "FLAGS", (*building.FLAGS, "-g"))
    paths.add(library_path(source, "portable"))
    source.write_text(source.read_text() + "// more\n")
    paths.add(library_path(source, "portable"))
    assert len(paths) == len(LEVELS) + 2


def test_a_compilers_error_is_one_sentence_and_leaves_nothing(source: Path) -> None:
    source.write_text("int answer() { return nothing; }\n")
    with pytest.raises(BuildError, match=r"does not compile answer.cpp for portable: .*nothing.*not declared"):
        build(source, "portable")
    assert not library_path(source, "portable").exists()
    assert [path.suffix for path in library_path(source, "portable").parent.iterdir()] == [".lock"]


def test_without_a_compiler_one_warning(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.warns(UserWarning, match=r"PyTorch code stands in for answer.cpp: there is no C\+\+ compiler") as said:
        library = native_library(source, "portable")
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native_library(source, "portable") is library
    assert library.functions is None
    assert "CXX" in library.reason


def test_a_folder_that_cannot_be_written_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MOE_SEARCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(BuildError, match=r"cannot be written .* MOE_SEARCH_CACHE"):
        build(source, "portable")


def test_a_level_that_the_compiler_does_not_know_is_the_next(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old-compiler"
    found = compiler()
    assert found is not None
    old.write_text(f'#!/bin/sh\ncase "$*" in *-mamx*) exit 1;; esac\nexec {found[0]} "$@"\n')
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    building._compiler_knows.cache_clear()
    compiler.cache_clear()
    try:
        assert buildable(source, "amx_bf16") == "avx512_bf16"
        library = native_library(source, "amx_bf16")
    finally:
        building._compiler_knows.cache_clear()
    assert library.level == "avx512_bf16"
    assert library.reason == "C++ built for avx512_bf16: the compiler does not know amx_bf16"
    assert library.functions is not None
    assert library.functions.answer() == 42


def test_levels_are_ordered_and_refused_where_they_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    usable = usable_levels()
    assert usable[-1] == "portable"
    assert list(usable) == [level for level in LEVELS if level in usable]
    assert chosen_level() == usable[0]
    monkeypatch.setenv(VARIABLE, "portable")
    assert chosen_level() == "portable"
    monkeypatch.setenv(VARIABLE, "avx1024")
    with pytest.raises(ValueError, match=f"{VARIABLE} is 'avx1024'; this CPU can run .*portable"):
        chosen_level()
