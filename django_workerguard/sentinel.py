"""STUB placed by the lead so that the server can be tried; helper "django" replaces this file."""
import time, traceback
from django_workerguard.config.loading import Step
def load(request, reporter):
    reporter.begin("app"); t=time.monotonic()
    from importlib import import_module
    if request.app:
        mod,_,attr=request.app.partition(":"); app=getattr(import_module(mod),attr)
    else:
        if request.interface=="wsgi":
            from django.core.wsgi import get_wsgi_application as g
        else:
            from django.core.asgi import get_asgi_application as g
        app=g()
    reporter.end(Step("app",time.monotonic()-t,0,0,0,0,True))
    reporter.begin("urlconf"); t=time.monotonic()
    from django.urls import get_resolver
    get_resolver().url_patterns
    reporter.end(Step("urlconf",time.monotonic()-t,0,0,0,0,True))
    return app
def describe_failure(e): return {"type":type(e).__name__,"message":str(e),"traceback":"".join(traceback.format_exception(e))}
def release(spec): return ""
def announce_loaded(w): pass
def announce_retiring(w): pass
