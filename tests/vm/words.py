"""What host and guest say, in the words of the host's events and of the guest's log."""

from __future__ import annotations

from typing import Final

# -- events of the host: kind and reason ------------------------------------------------------

HEARTBEATING: Final = ("heartbeating", "init answered")

#: With the shipped interval of 1000 ms and one miss forgiven, silence is a loss after 3 s.
LOST: Final = ("loss", "no answer for 3 s")
RECOVERED: Final = ("heartbeating", "back after no answer for 3 s")

FAREWELL: Final = ("stopped", "guest exited: Exiting...")

# -- the guest's changes of state -------------------------------------------------------------

#: It has just started; or it had been started before the test, and a host has come.
RELEASED: Final = [
    "from initial to enabling, event=release.",
    "from enabling to enabled, event=init-ack.",
]
FOUND: Final = [
    "from disabled to enabling, event=channel-up.",
    "from enabling to enabled, event=init-ack.",
]

#: It heard no challenge for 5 s, and called anew.
MISSED: Final = [
    "from enabled to enabling, event=challenge-timeout.",
    "from enabling to enabled, event=init-ack.",
]

#: Its host has gone, or its port.
DOWN: Final = ["from enabled to disabled, event=channel-down."]

STOPPED: Final = ["from enabled to initial, event=shutdown."]
