"""The agent's durable store: SQLite in one worker thread."""
