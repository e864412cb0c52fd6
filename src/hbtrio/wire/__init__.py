"""Sans-I/O wire formats: bytes in, messages out."""
