"""The lab: a host and its guests as real processes on one machine, for a tour and for tests."""
