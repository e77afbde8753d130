"""What is hidden in a text, and that a long one is shortened before it is searched."""

from __future__ import annotations

import pytest

from django_workerguard.config.redact import LONGEST, SUBSTITUTE, _is_secret, redact

HIDDEN = "hunter22hunter"


@pytest.mark.parametrize(
    "text",
    [
        f"password={HIDDEN}",
        f'{{"api_key": "{HIDDEN}"}}',
        f"my.very-secret.token : '{HIDDEN}'",
        f"Authorization: Bearer {HIDDEN}",
        f"refused: bearer {HIDDEN}",
        f"postgres://user:{HIDDEN}@db/shop",
        f"postgres://user:p@{HIDDEN}/word@db/shop",
        "x" * 100 + f" pass={HIDDEN}",
        f"mysqldump --password {HIDDEN} --host db",
        f"ran: psql --db-password '{HIDDEN}'",
        f"Password is {HIDDEN}.",
        f"the api key was '{HIDDEN}'",
        f'{{"auth": ("user", "{HIDDEN}")}}',
        f"auth=['user', '{HIDDEN}']",
    ],
)
def test_it_is_hidden(text):
    told = redact(text, [])
    assert HIDDEN not in told
    assert SUBSTITUTE in told


@pytest.mark.parametrize(
    "text",
    [
        "the token is wrong, and the password was missing",
        "no such table: shop_book",
        "bearer authentication failed",
        "http://127.0.0.1:8000/a b@c",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text, []) == text


@pytest.mark.parametrize("unit", ["A", "A.", "key", "a:", "http://a:", "pass-"])
@pytest.mark.timeout(20)  # it took minutes where every place was a beginning
def test_a_long_line_is_shortened(unit):
    text = "server said: " + unit * (200_000 // len(unit))
    told = redact(text, [])
    assert len(told) <= LONGEST + 40
    assert told.startswith("server said: ")


def test_a_secret_is_hidden_before_a_line_is_cut_in_its_middle():
    told = redact("x" * (LONGEST - 5) + HIDDEN, [HIDDEN])
    assert HIDDEN[:5] not in told


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("No module named 'mysite.urls'", "No module named 'mysite.urls'"),
        ("cannot read /srv/site/app.conf", "cannot read /srv/site/app.conf"),
        ("the websites of site.settings and on-site", "the websites of site.settings and on-site"),
        ("refused for 'site'", f"refused for '{SUBSTITUTE}'"),
        ("postgres://user:site@db/shop", f"postgres://user:{SUBSTITUTE}@db/shop"),
        ("tried site, then gave up", f"tried {SUBSTITUTE}, then gave up"),
    ],
)
def test_a_short_secret_is_hidden_as_a_whole_value_only(text, shown):
    assert redact(text, ["site"]) == shown


def test_the_frames_of_a_traceback_stay_as_they_are():
    frame = '  File "/srv/hunter22hunter/site/urls.py", line 3, in token\n    connect("site", token="hunter22hunter")\n'
    shown = redact(frame, ["hunter22hunter", "site"], source=True)
    first, second, _ = shown.split("\n")
    assert first == frame.split("\n", maxsplit=1)[0]
    assert "site" not in second
    assert "hunter22hunter" not in second


@pytest.mark.parametrize(
    "name", ["KEY_PREFIX", "MIDDLEWARE_KEY_PREFIX", "AUTH_USER_MODEL", "CSRF_COOKIE_NAME", "API_URL"]
)
def test_names_of_what_is_no_secret(name):
    assert not _is_secret(name)


@pytest.mark.parametrize(
    "name", ["SECRET_KEY", "AWS_SECRET_ACCESS_KEY", "API_TOKEN", "PASSWORD", "EMAIL_HOST_PASSWORD"]
)
def test_names_of_secrets(name):
    assert _is_secret(name)
