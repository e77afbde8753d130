"""The service of a compose file, and the manifest for Kubernetes. Pure.

Strings are written as in JSON, which YAML reads too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from django_workerguard.config.options import GuardOptions
from django_workerguard.from_uwsgi.formats.arguments import variables
from django_workerguard.from_uwsgi.translate.translation import Translation

# what the container's own definition says: user, directory, file of the process
OF_CONTAINER = frozenset({"CHDIR", "USER", "GROUP", "PIDFILE"})
PORT = 8000
BEYOND_MERCY = 15  # seconds
COMMAND = '["python", "-m", "django_workerguard", "serve"]'


def _environment(translation: Translation) -> dict[str, str]:
    without = {f"WORKERGUARD_{key}" for key in OF_CONTAINER}
    values = {name: value for name, value in variables(translation).items() if name not in without}
    if "WORKERGUARD_BIND" not in values:
        values["WORKERGUARD_BIND"] = f"0.0.0.0:{PORT}"
    return values


def _ports(translation: Translation) -> list[int]:
    binds = translation.settings.get("BIND", [f"0.0.0.0:{PORT}"])
    ports = [re.search(r":(\d+)$", bind) for bind in binds if not bind.startswith(("unix:", "fd:"))]
    return list(dict.fromkeys(int(found[1]) for found in ports if found and int(found[1])))


def _grace(translation: Translation) -> int:
    return (
        int(translation.settings.get("WORKER_RELOAD_MERCY", GuardOptions().worker_reload_mercy))
        + BEYOND_MERCY
    )


def _block(lines: Iterable[str], indent: int) -> str:
    return "".join(f"{' ' * indent}{line}\n" for line in lines)


def compose(translation: Translation) -> str:
    """Return a compose file with one service."""
    ports = _ports(translation)
    environment = {name: value.replace("$", "$$") for name, value in _environment(translation).items()}
    return (
        "services:\n  web:\n    build: .\n"
        + _block([f"command: {COMMAND}"], 4)
        + (_block([f"working_dir: {_text(translation.directory)}"], 4) if translation.directory else "")
        + (_block([f"user: {_text(_user(translation))}"], 4) if translation.user else "")
        + ("    ports:\n" + _block((f'- "{port}:{port}"' for port in ports), 6) if ports else "")
        + "    environment:\n"
        + _block((f"{name}: {_text(value)}" for name, value in environment.items()), 6)
        + '    healthcheck:\n      test: ["CMD", "workerguard", "probe", "ready"]\n      interval: 5s\n'
        "      timeout: 5s\n      start_period: 120s\n      retries: 3\n    restart: unless-stopped\n"
        f"    stop_grace_period: {_grace(translation)}s\n    shm_size: 64m\n"
    )


def kubernetes(translation: Translation) -> str:
    """Return a Deployment. Its image and its name are to be replaced."""
    ports = _ports(translation)
    return (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: mysite\nspec:\n  selector:\n    matchLabels:\n"
        "      app: mysite\n  template:\n    metadata:\n      labels:\n        app: mysite\n    spec:\n"
        f"      terminationGracePeriodSeconds: {_grace(translation)}\n      enableServiceLinks: false\n"
        "      containers:\n        - name: web\n          image: registry.example.org/mysite:1\n"
        + _block([f"command: {COMMAND}"], 10)
        + (_block([f"workingDir: {_text(translation.directory)}"], 10) if translation.directory else "")
        + ("          ports:\n" + _block((f"- containerPort: {port}" for port in ports), 12) if ports else "")
        + "          env:\n"
        + "".join(
            _block([f"- name: {_text(name)}", f"  value: {_text(value.replace('$(', '$$('))}"], 12)
            for name, value in _environment(translation).items()
        )
        + _probe("startupProbe", "startup", period=2, failures=330)
        + _probe("readinessProbe", "ready", period=5, failures=3)
        + _probe("livenessProbe", "live", period=10, failures=3)
        + _security(translation)
        + "          volumeMounts:\n            - name: shm\n              mountPath: /dev/shm\n      volumes:\n"
        "        - name: shm\n          emptyDir:\n            medium: Memory\n            sizeLimit: 64Mi\n"
    )


def _probe(name: str, kind: str, *, period: int, failures: int) -> str:
    return (
        f"          {name}:\n            exec:\n              command: [workerguard, probe, {kind}]\n"
        f"            periodSeconds: {period}\n            timeoutSeconds: 5\n            failureThreshold: {failures}\n"
    )


def _security(translation: Translation) -> str:
    """Return the user. Kubernetes takes numbers only; a name stays that of the image."""
    lines = [f"runAsUser: {int(translation.user)}"] if translation.user.isdigit() else []
    lines += [f"runAsGroup: {int(translation.group)}"] if translation.group.isdigit() else []
    return "          securityContext:\n" + _block(lines, 12) if lines else ""


def _user(translation: Translation) -> str:
    return f"{translation.user}:{translation.group}" if translation.group else translation.user


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
