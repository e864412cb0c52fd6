"""The host's side of one instance's heartbeat: its table, its machine, their effects."""
