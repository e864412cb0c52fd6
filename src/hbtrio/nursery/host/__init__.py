"""The trio tasks of `hbtrio host`."""
