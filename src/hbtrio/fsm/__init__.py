"""Pure state machines: every decision as a table, time as an argument."""
