"""Adapters, each to one other package. A project imports only those that it uses."""
