"""Trio tasks: they pass bytes and deadlines to the state machines and carry out their effects."""
