"""The VIM that asks how instances are: how long each GET takes.

    python -m bench.queries SECONDS INSTANCES NAME=PORT=UUID...

One request after the other, a target's and the next one's by turns, the instances in a round. The
time begins before the connection is made and ends when the answer is read whole. It ends with a
JSON object: of each target a list of seconds.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Final

from bench.vim_wire import Target, is_whole
from support.agent_world import request_bytes
from support.guest_farm import uuid_of

#: Between two requests, in seconds.
_PAUSE_S: Final = 0.01


def _seconds(target: Target, uuid: str) -> float:
    request, answer = request_bytes("GET", f"/v1/instances/{uuid}"), bytearray()
    began = time.perf_counter()
    with target.dial() as asking:
        asking.sendall(request)
        while not is_whole(answer):
            data = asking.recv(65536)
            if not data:
                break
            answer += data
    took_s = time.perf_counter() - began
    if b" 200 " not in answer or b'"status":"enabled"' not in answer:
        raise SystemExit(f"{target.name}: {bytes(answer)!r}")
    return took_s


def main(seconds: float, instances: int, targets: list[Target]) -> dict[str, list[float]]:
    """Asks for as long."""
    taken: dict[str, list[float]] = {target.name: [] for target in targets}
    until = time.perf_counter() + seconds
    for index in itertools.cycle(range(instances)):
        if time.perf_counter() >= until:
            break
        for target in targets:
            taken[target.name].append(_seconds(target, uuid_of(index)))
            time.sleep(_PAUSE_S)
    return taken


if __name__ == "__main__":
    _targets = [Target.parse(text) for text in sys.argv[3:]]
    print(json.dumps(main(float(sys.argv[1]), int(sys.argv[2]), _targets)))
