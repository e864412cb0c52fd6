"""Hours of votes, audits, kills and stalls with real processes: `make soak`."""
