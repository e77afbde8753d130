def settings_layer():
    from django.conf import settings
    return getattr(settings,"WORKERGUARD",{})
