"""What the machine says: clocks, processes, memory, cgroups. The roots are parameters."""
