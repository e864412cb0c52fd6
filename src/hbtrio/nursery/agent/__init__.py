"""The trio tasks of `hbtrio agent`."""
