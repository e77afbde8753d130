"""The systemd unit. Pure."""

from __future__ import annotations

import os

from django_workerguard.config.options import GuardOptions
from django_workerguard.from_uwsgi.formats.arguments import serve_arguments
from django_workerguard.from_uwsgi.translate.application import SETTINGS
from django_workerguard.from_uwsgi.translate.translation import Translation

NAME = "mysite"
OF_USER = frozenset({"USER", "GROUP"})
OF_UNIT = OF_USER | {"CHDIR", "PIDFILE"}
BEYOND_MERCY = 15  # seconds: the server ends by itself before systemd kills it
TAIL = """\
WatchdogSec=30
KillMode=mixed
OOMPolicy=continue
TimeoutStartSec=300
TimeoutStopSec={stop}
Restart=always
RestartPreventExitStatus=2

[Install]
WantedBy=multi-user.target
"""


def unit(translation: Translation) -> str:
    """Return a unit file."""
    mercy = translation.settings.get("WORKER_RELOAD_MERCY", GuardOptions().worker_reload_mercy)
    python = (
        translation.python if translation.python.startswith("/") else f"/usr/bin/env {translation.python}"
    )
    start = [python, "-m", "django_workerguard", "serve"]
    # only root can give the socket to somebody: then the server itself gives its workers the user
    of_unit = OF_UNIT - OF_USER if "SOCKET_OWNER" in translation.settings else OF_UNIT
    arguments = [_word(word) for group in serve_arguments(translation, without=of_unit) for word in group]
    lines = [
        "# /etc/systemd/system/mysite.service",
        "[Unit]",
        f"Description={_directory_name(translation)}",
        "After=network.target",
        "",
        "[Service]",
        "Type=notify",
        *([f"User={_plain(translation.user)}"] if translation.user and of_unit >= OF_USER else []),
        *([f"Group={_plain(translation.group)}"] if translation.group and of_unit >= OF_USER else []),
        *([f"WorkingDirectory={_plain(translation.directory)}"] if translation.directory else []),
        *(
            f"Environment={_word(f'{name}={value}', quoted=True)}"
            for name, value in translation.environ.items()
            if name != SETTINGS
        ),
        f"RuntimeDirectory={_directory_name(translation)}",
        *translation.unit,
        f"ExecStart={' '.join([*start, *arguments])}",
        f"ExecReload={python} -m django_workerguard.cli reload --wait",
    ]
    return "\n".join(lines) + "\n" + TAIL.format(stop=int(mercy) + BEYOND_MERCY)


def _directory_name(translation: Translation) -> str:
    name = os.path.basename(translation.directory.rstrip("/"))
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else NAME


def _plain(value: str) -> str:
    return value.replace("%", "%%").replace("\n", " ")


def _word(text: str, *, quoted: bool = False) -> str:
    """Write one word of a command as systemd reads it: it puts in variables and % specifiers."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    escaped = escaped if quoted else escaped.replace("$", "$$")
    simple = text and all(char.isalnum() or char in "-_./:=,@+" for char in text)
    return escaped if simple and not quoted else f'"{escaped}"'
