from django.apps import AppConfig
from guinea_faults import fault


class GuineaConfig(AppConfig):
    name = "guinea_app"

    def ready(self) -> None:
        fault("ready")
