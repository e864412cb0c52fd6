"""Fuzzing of every parser: ``make fuzz``. What it found stays in ``corpus``, for test_corpus.py."""
