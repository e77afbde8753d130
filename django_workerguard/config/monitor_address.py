"""The address of the monitor, as the option `monitor-bind` has it, and what else the monitor needs. Pure."""

from __future__ import annotations

import re
from dataclasses import field
from socket import AF_INET, AF_INET6, inet_pton

from django_workerguard.config.unix_path import LONGEST_PATH
from django_workerguard.values import value_class

WITHOUT_TOKEN = "without-token"  # noqa: S105 - a word in the option, no token
_TCP = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<four>[^:\[\]]+)):(?P<port>[0-9]{1,5})")
_LOOPBACK = (inet_pton(AF_INET6, "::1"), inet_pton(AF_INET6, "::ffff:127.0.0.0")[:13])


@value_class
class MonitorAddress:
    """An IP address with a port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""
    without_token: bool = field(default=False, compare=False)  # a public address may be used without a token

    @classmethod
    def parse(cls, text: str) -> MonitorAddress | None:
        """Parse the option; None for an empty text. Raises ValueError. Names are refused: to look one up takes time."""
        words = text.split(" ")
        without_token = len(words) > 1 and words[-1] == WITHOUT_TOKEN
        place = " ".join(words[:-1] if without_token else words).strip()
        if not place:
            return None
        if place.startswith("unix:"):
            return cls(path=_path(place.removeprefix("unix:")), without_token=without_token)
        match = _TCP.fullmatch(place)
        host = match and (match["six"] or ("127.0.0.1" if match["four"] == "localhost" else match["four"]))
        if not match or not host or not _is_ip(host, six=bool(match["six"])) or int(match["port"]) > 65535:
            raise ValueError(
                f"{text!r} is not of the form ADDRESS:PORT (an IP address or localhost), [ADDRESS]:PORT or unix:PATH"
            )
        return cls(host=host, port=int(match["port"]), without_token=without_token)

    @property
    def is_public(self) -> bool:
        """Whether other hosts may be able to connect."""
        if self.path:
            return False
        if ":" not in self.host:
            return inet_pton(AF_INET, self.host)[0] != 127
        packed = inet_pton(AF_INET6, self.host)
        return packed not in _LOOPBACK and packed[:13] not in _LOOPBACK

    @property
    def family(self) -> int:
        return AF_INET6 if ":" in self.host else AF_INET

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@value_class(kw_only=True)
class MonitorSettings:
    """Where the monitor listens, if at all, and what it needs to answer."""

    address: MonitorAddress | None = None
    where: str = field(default="", compare=False)  # the address was set
    token: str = ""
    uid: int = 0
    gid: int = 0
    project: str = "/"
    run_dir: str | None = None


def _path(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"{path!r} is not the absolute path of a unix socket")
    if len(path.encode(errors="surrogateescape")) > LONGEST_PATH:
        raise ValueError(f"the path of a unix socket has at most {LONGEST_PATH} bytes")
    return path


def _is_ip(host: str, *, six: bool) -> bool:
    try:
        inet_pton(AF_INET6 if six else AF_INET, host)
    except (OSError, ValueError):  # ValueError: a null character
        return False
    return True
