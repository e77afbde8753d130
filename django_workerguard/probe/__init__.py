"""Readings of the machine: clocks, processes, memory, cgroups. Runs in any process. Root paths are parameters."""
