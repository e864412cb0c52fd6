"""The worlds of the daemons as this machine has them: its sockets, processes, files and clocks."""
