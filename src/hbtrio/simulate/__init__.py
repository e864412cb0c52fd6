"""The fleet simulator: whole fleets on one virtual clock, with faults drawn from a seed."""
