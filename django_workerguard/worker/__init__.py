"""The process that loads and serves the application, under any server. Imports neither gunicorn nor Django."""
