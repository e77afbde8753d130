"""Commands: ``workerguard`` shows and controls a running server, `launch` starts one. Runs in a process of its own, without Django."""
