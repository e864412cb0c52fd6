"""All parsers: for each what must hold for any bytes, and how many bytes it is given at most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import thread_time
from typing import Final

import attrs

from fuzz import messages, services, texts
from hbtrio.config.source import LIMIT_BYTES
from hbtrio.http.limits import HttpLimits
from hbtrio.simulate import schedule_file
from hbtrio.wire.lines import MAX_LINE_BYTES
from hbtrio.wire.link_codec import MAX_LINK_LINE

CORPUS: Final = Path(__file__).with_name("corpus")

#: Processor time that any input may take, in seconds. What a parser is given at most takes some
#: milliseconds; with the square of its length it would be far more than this.
LEAST_S: Final = 0.5


class TooSlow(Exception):
    """An input takes more processor time than its length accounts for."""


@attrs.frozen
class Target:
    """A parser.

    Args:
        check: raises if a property does not hold for an input.
        limit: the longest input that the parser's callers pass on, in bytes.
        byte_s: processor time that each byte may take, in seconds.
    """

    check: Callable[[bytes], None]
    limit: int
    byte_s: float = 10e-6

    @property
    def name(self) -> str:
        """The target's name, and that of its folder in the corpus."""
        return self.check.__name__

    @property
    def folder(self) -> Path:
        """Where its corpus is."""
        return CORPUS / self.name

    def run(self, data: bytes) -> None:
        """Checks an input.

        Raises:
            TooSlow: it takes too long, three times in a row.
            Exception: a property does not hold.
        """
        allowed_s = LEAST_S + self.byte_s * len(data)
        for _ in range(3):
            start = thread_time()
            self.check(data)
            taken_s = thread_time() - start
            if taken_s <= allowed_s:
                return
        raise TooSlow(f"{self.name}: {taken_s:.2f} s for {len(data)} bytes")

    def grown(self, data: bytes) -> bytes:
        """An input repeated up to the limit, which shows what takes more than linear time."""
        return (data * (self.limit // len(data) + 1))[: self.limit] if data else b""


TARGETS: Final = {
    target.name: target
    for target in (
        Target(messages.channel_line, MAX_LINE_BYTES),
        Target(messages.channel_message, 2048),
        Target(messages.lines, 65_536),
        Target(messages.applications, 65_536),
        Target(messages.application_lists, 65_536),
        Target(messages.link_from_host, MAX_LINK_LINE),
        Target(messages.link_from_agent, MAX_LINK_LINE),
        Target(messages.operator_replies, 65_536),
        Target(messages.operator_requests, HttpLimits().max_body_bytes),
        Target(messages.vim_bodies, HttpLimits().max_body_bytes),
        Target(messages.vim_answers, 65_536),
        Target(messages.vim_reasons, 16_384),
        Target(messages.virsh_domains, 65_536),
        Target(messages.virsh_events, 16_384),
        Target(messages.virsh_channels, 65_536),
        Target(services.http_requests, 131_072),
        Target(services.store_texts, 1024),
        Target(services.store_files, 256),
        Target(texts.host_config, LIMIT_BYTES),
        Target(texts.agent_config, LIMIT_BYTES),
        Target(texts.guest_config, LIMIT_BYTES),
        Target(texts.certificates, 1 << 18, byte_s=1e-6),
        Target(texts.times, 16_384),
        Target(texts.event_filters, 16_384),
        Target(texts.fault_schedules, schedule_file.LIMIT_BYTES),
        Target(texts.arguments, 16_384),
        Target(texts.addresses, 16_384),
        Target(texts.tokens, 2048),
        Target(texts.begin_by_headers, 16_384),
        Target(texts.channel_names, 65_536),
        Target(texts.shown_texts, 65_536),
        Target(texts.commands, 16_384),
    )
}
