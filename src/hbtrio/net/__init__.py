"""Sockets: TLS, endpoints, unix sockets, sessions of the link, token files."""
