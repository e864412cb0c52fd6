"""JSON values of any depth, for properties."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def nested(
    leaves: st.SearchStrategy[Any],
    keys: st.SearchStrategy[str],
    *,
    most: int | None = None,
    max_leaves: int = 100,
) -> st.SearchStrategy[Any]:
    """Leaves, and lists and objects of them.

    Defined here alone: hypothesis reads the source of ``extend`` from the file when a strategy is
    first used, and warns of what has come to those lines if the file was edited since its import.

    Args:
        leaves: the simple values.
        keys: the keys of objects.
        most: how many elements a list or object has at most.
        max_leaves: how many simple values there are at most.
    """

    def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(inner, max_size=most) | st.dictionaries(keys, inner, max_size=most)

    return st.recursive(leaves, containers, max_leaves=max_leaves)
