"""The lab: hosts and guests as real processes on one machine, for the tour and for tests."""
