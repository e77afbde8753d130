"""Senders of notices by webhook and email. Runs in a process of its own.

The notice comes as JSON on standard input. The target is in $NOTIFY_TARGET, where other users cannot
read it, and the import path of the server in $NOTIFY_PATH. ``webhook`` posts the notice; ``email`` sends it with the mail settings of the project, and
imports only the settings of the project.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from typing import Any

from django_workerguard.notify.notice import message, subject

PATIENCE = 8.0  # seconds for one try
TRIES = 2


def webhook(url: str, notice: dict[str, Any]) -> None:
    """Post the notice with an additional field ``text``, which chat services show. Raises OSError."""
    body = json.dumps({"text": subject(notice), **notice}).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "django-workerguard"}
    for tries_left in reversed(range(TRIES)):
        try:
            request = urllib.request.Request(url, body, headers)  # noqa: S310 - the option allows only http and https
            with urllib.request.urlopen(request, timeout=PATIENCE):  # noqa: S310
                return
        except OSError as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or not tries_left:
                raise
            time.sleep(1.0)


def email(addresses: str, notice: dict[str, Any]) -> None:
    """Send the notice to addresses that are separated by commas. Raises any exception of the mail backend."""
    from django.core.mail import send_mail

    receivers = [address.strip() for address in addresses.split(",") if address.strip()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the site's deprecated settings are not the notice's
        send_mail(subject(notice), message(notice), None, receivers)


def main(arguments: Sequence[str]) -> int:
    """Send the notice in one way, ``webhook`` or ``email``. Return the exit code."""
    (kind,) = arguments
    sys.path[:] = json.loads(os.environ["NOTIFY_PATH"])
    try:
        {"webhook": webhook, "email": email}[kind](os.environ["NOTIFY_TARGET"], json.load(sys.stdin))
    except Exception as error:
        sys.stderr.write(f"Error: notify: {kind}: {type(error).__name__}: {error}\n")
        return 1
    return 0
