"""hbtrio: guest heartbeat, voting and notification for virtual machines, on Trio."""

__version__ = "0.1.0"
