"""What a configuration can ask about its host: environment, names, users, files. Runs in the command."""

from __future__ import annotations

import glob
import grp
import os
import pwd
import socket
import time
from collections.abc import Mapping
from dataclasses import field
from itertools import islice

from django_workerguard.values import value_class

MOST_MATCHES = 10_001  # of a pattern: a loop of more rounds than 10,000 is refused


@value_class
class Machine:
    """The answers that uWSGI would get. They never come from a program or from the network."""

    environ: Mapping[str, str] = field(default_factory=dict)
    directory: str = "/"
    hostname: str = "localhost"
    cpus: int = 1
    uid: int = 0
    gid: int = 0
    now: float = 0.0

    @classmethod
    def here(cls, environ: Mapping[str, str]) -> Machine:
        return cls(
            environ=environ,
            directory=os.getcwd(),
            hostname=socket.gethostname(),
            cpus=os.cpu_count() or 1,
            uid=os.getuid(),
            gid=os.getgid(),
            now=time.time(),
        )

    @property
    def user(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    @property
    def group(self) -> str:
        try:
            return grp.getgrgid(self.gid).gr_name
        except KeyError:
            return str(self.gid)

    def absolute(self, path: str) -> str:
        return os.path.join(self.directory, path)

    def exists(self, path: str) -> bool:
        return "\0" not in path and os.access(self.absolute(path), os.R_OK)

    def is_file(self, path: str) -> bool:
        return os.path.isfile(self.absolute(path))

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(self.absolute(path))

    def matches(self, pattern: str) -> list[str]:
        """Return the paths that a shell pattern matches, directories with a slash; the pattern itself if there are none."""
        found = sorted(islice(glob.iglob(pattern, root_dir=self.directory), MOST_MATCHES))
        marked = [
            path + "/" if self.is_directory(path) and not path.endswith("/") else path for path in found
        ]
        return marked or [pattern]
