"""Composes each daemon of what runs beside what, in a world that is handed in.

A world holds all that reaches outside: sockets, processes, files, clocks and random numbers. The
commands run a daemon in the machine's world, :mod:`hbtrio.daemons.machine`; a simulation passes in
a world of its own and runs the same daemon.
"""
