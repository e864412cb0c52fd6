"""The invariants of a fleet, each with its sentence and its excuses; ``every`` lists them."""
