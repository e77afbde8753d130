"""Translation of uWSGI's configuration: read, translate, report, write. Runs in the command ``workerguard from-uwsgi`` only."""
