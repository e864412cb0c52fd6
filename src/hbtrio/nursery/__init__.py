"""Trio tasks: they carry bytes and deadlines to the state machines and do what those say."""
