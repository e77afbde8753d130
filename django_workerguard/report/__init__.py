"""Findings, tables, metrics and probe answers, all made from a snapshot. Pure."""
