"""The sentences of ``hbtrio ctl why``: one for each state, kind, result, cause and outcome.

Each table has all words of its closed list (docs/acting.md and docs/events.md), which a test
compares with the daemons' own. A newer daemon's word has none; it is then shown as it is.
"""

from __future__ import annotations

from typing import Final

import attrs

#: What a state means.
STATES: Final = {
    "heartbeating": "The guest answers challenges.",
    "waiting": "No guest is heartbeating, so there is nobody to lose.",
    "suspended": "An announced event keeps the guest from answering: silence is no loss.",
    "unwatched": "The VM runs, and no guest has begun to heartbeat; or the guest came back from an "
    "event and fell silent again. Nothing is done about that: somebody has to look.",
    "returning": "The guest is challenged again, and silence counts at the end of RESTART.",
    "restarting": "The VM goes down, and is expected back within RESTART.",
    "lost": "The guest was silent for too long, or the VM failed.",
    "paused": "libvirt says that the vCPUs stand still: silence is no loss.",
    "stopped": "libvirt says that the VM was ended on request: nothing is done to it.",
    "absent": "The guest had left in order, or was known from before the host's restart only, and "
    "is not back. Nothing is done about that.",
    "gone": "The socket of the VM was removed.",
    "not watched": "The administrator has excluded the instance: it has no heartbeat.",
    "unknown": "The host of the instance does not report it.",
}

#: What has happened, by kind; in braces members of the event, and who asked.
KINDS: Final = {
    "heartbeating": "The guest began to answer challenges{reason}.",
    "stopped": "The heartbeat stopped, which is no loss{reason}.",
    "loss": "The instance was lost{reason}. Its guest had asked for {action}.",
    "unhealthy": "The guest was ill and asked for {action}{reason}.",
    "vote": "Vote on {event}{by}: {result}{reason}.",
    "notice": "Notice of {event}{by}: {result}{reason}.",
    "extended": "The guest took more time{reason}.",
    "withdrawn": "The guest would not reject {event} any more{reason}.",
    "overridden": "A reject of the guest was overridden{reason}.",
    "restart-expired": "The VM was not back at the end of RESTART{reason}.",
    "paused": "libvirt paused the VM{reason}.",
    "absent": "The guest was not back; no action follows{reason}.",
    "unwatched": "Nobody watched the VM; no action follows{reason}.",
    "corrective": "The corrective command for {action} ended{reason}.",
    "not-acted": "No corrective command was run{reason}.",
    "action": "Action{by}{reason}.",
    "hold": "The instance was put on hold{by}{reason}.",
    "hold-over": "The hold on the instance ended{by}{reason}.",
    "undelivered": "A report to the VIM was given up{reason}.",
    "host-unreachable": "The agent lost its link to the host{reason}.",
    "host-forgotten": "The agent has forgotten the host{by}{reason}.",
    "host-alarm": "The agent held the alarms of the host back{reason}.",
    "host-alarm-over": "The agent holds the alarms of the host back no longer{reason}.",
}

#: How notices ended.
NOTICES: Final = {
    "complete": "the guest has prepared for it",
    "timeout": "the handlers of the guest did not finish in time",
    "error": "the guest could not answer",
}

#: How votes ended.
VOTES: Final = {
    "accept": "accepted",
    "reject": "rejected",
    "complete": "complete, nobody objected",
    "timeout": "timed out, and silence is consent",
    "error": "no answer was possible",
}

#: How corrective commands ended.
OUTCOMES: Final = {
    "done": "The command ended with status 0; no return within RESTART is a new loss.",
    "not-started": "The program could not be run; it is tried again.",
    "failed": "The command failed.",
    "timed-out": "The command took too long and was killed; RESTART decides.",
    "ended": "An operator took over.",
    "dry-run": "Nothing was run: dry_run is set.",
}


@attrs.frozen
class CauseWords:
    """Why nothing is done, and what ends that."""

    because: str
    until: str


#: Why no corrective command runs.
CAUSES: Final = {
    "hold": CauseWords(
        "An operator has put the instance on hold: it is watched, and nothing is done to it.",
        "It is decided anew when the hold is over; `hbtrio ctl unhold` ends it before its time.",
    ),
    "limit": CauseWords(
        "As many corrective commands were run within an hour as per_hour allows.",
        "It is decided anew when the hour allows the next one{next_at}.",
    ),
    "brake": CauseWords(
        "Too many VMs failed at once, so that the host itself is suspected.",
        "It is decided anew when most of them are back, or after `hbtrio ctl brake release`.",
    ),
    "owner": CauseWords(
        "An action of an operator or of the VIM is in progress{owner}.",
        "It is decided anew when that action has ended or lapsed.",
    ),
    "paused": CauseWords(
        "libvirt says that the VM is paused: a reset would destroy what somebody waits for.",
        "It is decided anew when the VM runs again.",
    ),
    "libvirt-silent": CauseWords(
        "libvirt does not answer: the VM may be paused, and a reset would hang as well.",
        "It is decided anew when libvirt answers. Look after libvirt.",
    ),
    "confirm": CauseWords(
        "The command of confirm said no.",
        "The command of confirm is asked again every 60 s.",
    ),
    "busy": CauseWords(
        "The VM still reads, writes or sends, or nobody can tell.",
        "It is looked at again every 60 s. Perhaps only the guest's daemon has died.",
    ),
    "down": CauseWords(
        "libvirt says that the VM does not run: it may run elsewhere, and must not run twice.",
        "Nothing more is done about this failure. Start the VM if it should run.",
    ),
    "policy": CauseWords(
        "The administrator allows no such command for this instance, or libvirt has not told yet "
        "what holds for it.",
        "It is decided anew when the metadata of the domain says otherwise, or libvirt has told.",
    ),
    "group": CauseWords(
        "As many members of its group as may be unavailable are being taken down, or others were "
        "lost before it.",
        "It is decided anew when that is over, or when the group's max_delay_s is.",
    ),
    "unsure": CauseWords(
        "QEMU failed, and the VM may have been started elsewhere.",
        "Nothing more is done about this failure. Find out where the VM runs, then start it.",
    ),
}

#: What would follow from the next loss.
NEXT: Final = {
    "command": "If the instance were lost now, the host would run {command}{asks}.",
    "dry-run": "If the instance were lost now, the host would report that it would run {command}, "
    "and not run it: dry_run is set.",
    "alarm": "If the instance were lost now, the agent would send the VIM an alarm, which asks for "
    "{action}.",
    "nothing": "If the instance were lost now, nothing would be done: {why}.",
}
