"""The full-screen live view of a host or fleet: ``hbtrio ctl watch``.

What is known and chosen is one value, the :class:`~hbtrio.cli.ctl.board.model.Board`. Keys and news
make a new one of it, and :func:`~hbtrio.cli.ctl.board.view.picture` makes lines of it; neither
knows of a terminal.
"""
