"""The catalogue as a Django app. Its `ready` is where the faults of a load act."""

from django.apps import AppConfig

from site_config import faults


class CatalogueConfig(AppConfig):
    name = "catalogue"

    def ready(self) -> None:
        faults.act_on_load()
