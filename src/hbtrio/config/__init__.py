"""Configuration files: read strictly, faults named with their place."""
