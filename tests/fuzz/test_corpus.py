"""What fuzzing has found once is tried always: every file of the corpus, short and in full length.

``make fuzz`` makes the corpus; a plain run of Python suffices to try it.
"""

from __future__ import annotations

import tracemalloc

import pytest

from fuzz import targets
from fuzz.targets import CORPUS, TARGETS, Target, TooSlow

#: Memory at most: what a parser makes of the longest input, by its length.
MEMORY_PER_BYTE = 150
LEAST_MEMORY = 8 << 20


@pytest.mark.parametrize("name", list(TARGETS))
def test_every_file_of_the_corpus(name: str) -> None:
    target = TARGETS[name]
    files = sorted(target.folder.iterdir())
    assert files
    target.run(b"")
    for file in files:
        try:
            target.run(file.read_bytes())
        except Exception as error:
            error.add_note(f"{file.relative_to(CORPUS)}")
            raise


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TARGETS))
def test_an_input_at_its_limit_takes_bounded_time_and_memory(name: str) -> None:
    target = TARGETS[name]
    for file in sorted(target.folder.iterdir()):
        data = target.grown(file.read_bytes())
        tracemalloc.start()
        try:
            target.run(data)
            _, peak = tracemalloc.get_traced_memory()
        except Exception as error:
            error.add_note(f"{file.relative_to(CORPUS)}, repeated")
            raise
        finally:
            tracemalloc.stop()
        assert peak < LEAST_MEMORY + MEMORY_PER_BYTE * len(data), file.name


def test_the_corpus_has_a_folder_for_each_target_and_no_other() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)


def test_what_takes_the_square_of_its_length_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "LEAST_S", 0.001)

    def square(data: bytes) -> None:
        sum(one == other for one in data for other in data)

    target = Target(square, 1024, byte_s=1e-6)
    target.run(b"x" * 8)
    with pytest.raises(TooSlow, match=r"^square: .* s for 1024 bytes$"):
        target.run(target.grown(b"x" * 8))
