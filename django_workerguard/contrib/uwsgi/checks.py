"""System check of the guard under uWSGI: what it cannot do. Runs in manage.py and in uWSGI's workers."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Info, register


@register("workerguard")
def check_limits(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Say what the guard under uWSGI cannot do. No check can see from outside how uWSGI is started."""
    return [
        Info(
            "If no worker of uWSGI has loaded the application, no worker is left that could end the unloaded ones.",
            hint="Have a probe from outside reload or restart uWSGI, for example `workerguard probe ready`. Or set uWSGI's "
            "need-app: then every failed load ends the whole server, and the guard has nothing to do. Then add this "
            "check to SILENCED_SYSTEM_CHECKS.",
            id="workerguard.I001",
        )
    ]
