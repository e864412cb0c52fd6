"""A fleet of real daemons in which things go wrong, judged by the simulator's invariants."""
