"""The client of the operator API."""
