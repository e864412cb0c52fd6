"""Shows the status and events of a host or an agent, and starts votes, notices and actions.

Exit status: 0 done, 1 refused or without a result, 2 faulty command line, 3 rejected by the
instance, 4 the command failed, 5 the daemon can't be reached or went away, 8 permission denied, 130
interrupted.

The options may also follow COMMAND.
"""

from hbtrio.cli.ctl.arguments import add_arguments, run

__all__ = ["add_arguments", "run"]
