"""Reading of configuration files as uWSGI reads them. Nothing that they name is executed. Runs in the command."""
