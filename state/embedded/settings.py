"""The server's settings: tuned to this machine, durable always, closed to everybody but us."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cirkelline.state.embedded.places import PORT, Place

_MIB: Final = 1024 * 1024
_ENOUGH_SHARED_MEMORY: Final = 256 * _MIB  # containers give /dev/shm 64 MB by default
_MEMORY_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

# Only the socket, only with the password. Not `peer`: root must connect too, and names of accounts are not needed.
ACCESS: Final = "# Written by cirkelline at each start.\nlocal all all scram-sha-256\n"

_FIXED: Final = """\
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 200
superuser_reserved_connections = 3

fsync = on
full_page_writes = on
synchronous_commit = on
max_wal_size = 2GB
checkpoint_timeout = 15min

# A container that may not use huge pages kills with SIGBUS a server that only tries.
huge_pages = off
work_mem = 8MB
jit = off
random_page_cost = 1.1

# The queue's and the heads' rows change all the time: clean up soon after.
autovacuum_naptime = 15s

# A transaction that somebody forgot holds up every clean-up; the query of a client that died holds its locks.
idle_in_transaction_session_timeout = 5min
client_connection_check_interval = 10s

timezone = 'UTC'
log_timezone = 'UTC'
datestyle = 'iso, mdy'
lc_messages = 'C'
lc_monetary = 'C'
lc_numeric = 'C'
lc_time = 'C'
default_text_search_config = 'pg_catalog.english'

# One file for each day of the week, so the log never outgrows a week.
logging_collector = on
log_destination = 'stderr'
log_directory = 'log'
log_filename = 'postgresql-%a.log'
log_file_mode = 0600
log_rotation_age = 1d
log_rotation_size = 0
log_truncate_on_rotation = on
log_line_prefix = '%m [%p] %q%u@%d '
log_checkpoints = off
log_startup_progress_interval = 3s
cluster_name = 'cirkelline'
"""


def text(place: Place, socket: Path) -> str:
    """Return postgresql.conf for this place and machine."""
    memory = available_memory() // _MIB
    lines = [
        "# Written by cirkelline at each start; change settings with ALTER SYSTEM, which goes on top.",
        f"unix_socket_directories = {_quoted(_listed(socket))}",
        f"port = {PORT}",
        f"hba_file = {_quoted(str(place.access))}",
        f"shared_buffers = {_between(128, memory // 16, 1024)}MB",
        f"effective_cache_size = {max(256, memory // 2)}MB",
        f"maintenance_work_mem = {_between(64, memory // 32, 512)}MB",
        f"dynamic_shared_memory_type = {shared_memory()}",
        "",
        _FIXED,
    ]
    return "\n".join(lines)


def available_memory() -> int:
    """Return the bytes of memory that this machine has, or that this container may use."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (path.read_text().strip() for path in _MEMORY_LIMITS if path.is_file())
    return min([machine, *(int(limit) for limit in limits if limit.isdecimal())])


def shared_memory() -> str:
    """Return where parallel queries share memory: /dev/shm, or files when that is too small for them."""
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108 - only its size is read
    except OSError:
        return "posix" if os.uname().sysname == "Darwin" else "mmap"
    return "posix" if found.f_blocks * found.f_frsize >= _ENOUGH_SHARED_MEMORY else "mmap"


def _between(least: int, value: int, most: int) -> int:
    return max(least, min(value, most))


def _quoted(value: str) -> str:
    """Quote a text for postgresql.conf, where backslashes and quotes mean something."""
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _listed(path: Path) -> str:
    """Quote one path of a list, where spaces at its ends and double quotes mean something."""
    escaped = str(path).replace('"', '""')
    return f'"{escaped}"'
