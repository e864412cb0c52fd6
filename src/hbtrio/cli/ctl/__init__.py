"""Asks a host daemon or an agent what it knows, and makes it ask, tell and act.

Exit status: 0 done, 1 the host refuses or nothing came of it, 2 faulty command line, 3 rejected by
the instance, 4 the command failed, 5 the host can't be reached or went away in the middle, 8
permission denied, 130 interrupted.

The options may stand behind COMMAND as well.
"""

from hbtrio.cli.ctl.arguments import add_arguments, run

__all__ = ["add_arguments", "run"]
