"""An HTTP/1.1 server for ASGI applications, on h11."""
