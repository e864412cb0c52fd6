"""The HTTP faces of the daemons: host, agent, VIM; authorisation, status, metrics, OpenAPI."""
