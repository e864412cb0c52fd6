"""Sockets: TLS, endpoints, unix sockets, link sessions, token files."""
