"""Settings of the project whose tasks are tested: a broker, no database, and options from the environment."""

import json
import os
from pathlib import Path

SECRET_KEY = "tests" * 10
INSTALLED_APPS = ["django_workerguard"]
DATABASES = {}
USE_TZ = True
WORKERGUARD = {"CELERY": json.loads(os.environ.get("POOL_OPTIONS", "{}"))}

CELERY_BROKER_URL = os.environ.get("POOL_BROKER", "filesystem://")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_SEND_TASK_EVENTS = False
if CELERY_BROKER_URL == "filesystem://":
    _directory = Path(os.environ["POOL_DIRECTORY"], "broker")
    for _name in ("messages", "control"):
        (_directory / _name).mkdir(parents=True, exist_ok=True)
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": _directory / "messages",
        "data_folder_out": _directory / "messages",
        "control_folder": _directory / "control",
        "polling_interval": 0.05,
    }
globals().update(json.loads(os.environ.get("POOL_CELERY", "{}")))
