"""A host that tells whoever is on call, by a command and a signed webhook."""

from __future__ import annotations

import json
import signal

import pytest

from hbtrio.lab.scene import event, open_scene
from hbtrio.wire.alert import signature_headers
from support.real_processes import SOON_S, logged, until
from support.webhook_receiver import webhook_receiver

pytestmark = pytest.mark.processes

SECRET = "0123456789-secret"


async def test_a_loss_is_told_and_its_end_too() -> None:
    async with open_scene() as scene, webhook_receiver() as receiver:
        receiver.answers = [b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n"]
        secret, told = scene.directory / "secret", scene.directory / "told"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        script = f'printf "%s\\n" "$1" >> {told}'
        scene.settings["notify"] = {
            "command": ["sh", "-c", script, "sh", "{kind} {severity} {hostname} {uuid}"],
            "webhook": receiver.url,
            "secret_file": str(secret),
        }
        host = await scene.start_host()
        vm = await scene.add_guest("vm")
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0)
        await vm.start()
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
        assert vm.daemon is not None
        vm.daemon.signal(signal.SIGSTOP)
        await scene.events.wait_for(event("loss", vm), within_s=SOON_S)
        # The first attempt was refused, the second has the same id.
        first, second = await receiver.wait_for(2)
        vm.daemon.signal(signal.SIGCONT)
        _, _, third = await receiver.wait_for(3)
        ids = [one.headers["webhook-id"] for one in (first, second, third)]
        assert ids[0] == ids[1] != ids[2]
        for one, kind in ((second, "loss"), (third, "recovered")):
            data = one.json["data"]
            assert (data["kind"], data["uuid"]) == (kind, vm.uuid)
            moment = int(one.headers["webhook-timestamp"])
            signed = signature_headers(SECRET, one.headers["webhook-id"], moment, one.body)
            assert signed.items() <= one.headers.items()
        await until(lambda: told.exists() and len(told.read_text().splitlines()) == 2)
        name = json.loads(second.body)["data"]["hostname"]
        assert told.read_text().splitlines() == [
            f"loss critical {name} {vm.uuid}",
            f"recovered info {name} {vm.uuid}",
        ]
        await logged(scene.host_log, "webhook: an alert was not delivered: status 503")
        await logged(scene.host_log, "webhook: alerts are delivered again")
        assert await host.stop() == 0
