"""The commands: ``workerguard`` looks at a running server, `launch` starts one. Run in processes of their own, without Django."""
