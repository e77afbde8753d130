"""What each option is about: the groups of ``--help`` and of the reference. Runs in the starting command.

Every option stands in one subject.
"""

from __future__ import annotations

SUBJECTS = {
    "The application and its load": (
        *("app", "load_timeout", "load_concurrency", "warmup", "urlconf", "warmup_path", "warmup_in_mold"),
        "load_probe",
        *("accept_left_behind", "release"),
    ),
    "When a load fails": (
        *(
            "load",
            "need_app",
            "load_retries",
            "load_retry_delay",
            "load_retry_max_delay",
            "memory_margin",
            "min_loaded",
        ),
        *("stand_in", "stand_in_after", "give_up_after"),
    ),
    "When a worker is replaced": (
        *("max_requests", "max_requests_delta", "max_worker_lifetime", "max_worker_lifetime_delta"),
        *("min_worker_lifetime", "reload_on_rss", "evil_reload_on_rss", "reload_on_memory_error"),
        *("outlier", "outlier_latency", "outlier_min_requests"),
        *("slow_request", "request_timeout", "request_timeout_action", "queue_timeout"),
        "duration_buckets",
    ),
    "How a worker is replaced, and how the server stops": (
        *("surge", "worker_reload_mercy", "drain_delay", "touch_reload"),
    ),
    "Health URLs, monitor and dashboard": (
        *("health_path", "health_token", "monitor_bind", "dashboard_access", "dashboard_actions"),
        "dashboard_frame",
    ),
    "Notices and logs": ("notify", "notify_interval", "log_format"),
    "The server's name and place": ("name", "run_dir", "socket_mode", "socket_owner"),
}
