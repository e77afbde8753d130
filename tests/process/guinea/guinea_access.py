"""Who may see the dashboard, in a project without users."""


def anybody(request) -> bool:
    return True
