"""Lines as a deployed C client prints them: with %s, so nothing in a text is escaped."""

from __future__ import annotations


def action_response(reason: bytes, *, result: bytes = b"reject", invocation_id: int = 42) -> bytes:
    return (
        b'{"version":3,"revision":1,"msg_type":"action_response","sequence":7,"invocation_id":%d,'
        b'"event_type":"stop","notification_type":"revocable","vote_result":"%s","log_msg":"%s"}'
        % (invocation_id, result, reason)
    )


def init(name: bytes) -> bytes:
    return (
        b'{"version":3,"revision":1,"msg_type":"init","sequence":1,"invocation_id":1804289383,'
        b'"name":"%s","heartbeat_interval_ms":1000,"vote_secs":9,"shutdown_notice_secs":9,'
        b'"suspend_notice_secs":9,"resume_notice_secs":14,"restart_secs":301,'
        b'"corrective_action":"reboot"}' % name
    )
