"""The operating system: processes, the reaper, systemd, lock files, open files."""
