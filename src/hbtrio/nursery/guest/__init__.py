"""The trio tasks of `hbtrio guest`."""
