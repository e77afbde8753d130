"""What is hidden in a text, and that a long one is shortened before it is searched."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest
from gunicorn.util import load_class

from django_workerguard.config.redact import (
    LONGEST,
    SUBSTITUTE,
    _is_dotted,
    _is_secret,
    describe_briefly,
    describe_failure,
    in_short,
    message_of,
    redact,
)
from django_workerguard.server.configuration.early_options import problem_with

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
        f"auth={{'user': '{HIDDEN}'}}",
        f"KeyError: password={HIDDEN}",
        f"redis.exceptions.AuthenticationError: token={HIDDEN}",
        f"TokenExpired: {HIDDEN}",
        f"KEY_ERROR: {HIDDEN}",
        f"SECRET_KEY: {HIDDEN}",
        f"Command '['mysqldump', '--password', '{HIDDEN}', 'db']' returned non-zero exit status 2.",
        f"ran: [b'mysqldump', b'--password', b'{HIDDEN}']",
        f"ran: ['mysqldump', '--password', '-{HIDDEN}']",
        f"ran: ['mysqldump', '--password=a, b {HIDDEN}', 'db']",
        f"password=''{HIDDEN}''",
        f"password='it''s {HIDDEN}'",
        f"('password', '{HIDDEN}')",
        f'[["token", "{HIDDEN}"]]',
        f"headers: [(b'authorization', b'{HIDDEN}')]",
        f"Password is: {HIDDEN}",
        f"the password is now {HIDDEN}",
        f"the password was changed to {HIDDEN}",
        f"SECRET_KEY: str = '{HIDDEN}'",
        f"token: typing.Final[str] = '{HIDDEN}'",
        f"config['password'] = '{HIDDEN}'",
        f"password == '{HIDDEN}'",
        f"{{'password': 'it\\'s \"a\" {HIDDEN}'}}",
        f'token = """a {HIDDEN}"""',
        f"token = b'a {HIDDEN}'",
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
        "Invalid (the token is Wrong)",
        "The password is too similar to the username.",
        "This password is entirely numeric.",
        "This password is too common.",
        "Your password was changed. Your old password was entered incorrectly.",
        "Requested token is expired, and the secret was set to the default",
        "--password is required, and --token or --api-key must be given",
        "['--no-password', '--host', 'db', '--token', '-v']",
        "fields: ['username', 'password', 'email']",
        "auth.User.groups: (fields.E304) Reverse accessor clashes",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text, []) == text


@pytest.mark.parametrize(
    "text",
    [
        "KeyError: 'DATABASE_URL'",
        "KeyError('SECRET_KEY')",
        "  | builtins.KeyError: 'S3_BUCKET'",
        "the settings cannot be imported: KeyError: 'DATABASE_URL'",
        "AuthenticationError: invalid username or pair",
        "redis.exceptions.AuthenticationError: WRONGPASS invalid",
        "site.f.<locals>.TokenError: not now",
        "smtplib.SMTPAuthenticationError: (535, b'not accepted')",
        "InvalidKeyError: Could not read it",
        "psycopg.errors.ForeignKeyViolation: insert or update",
        "TokenExpired: sign in again",
        "APIKeyMissing: set it",
        "rest_framework.exceptions.AuthenticationFailed: Invalid header",
        "django.contrib.auth.models.User.DoesNotExist: User matching query",
        "django.contrib.auth.models.User.MultipleObjectsReturned: get() returned more",
        "django.core.signing.BadSignature: No match",
        "KeyboardInterrupt: by hand",
    ],
)
def test_the_name_of_an_exception_is_no_name_of_a_secret(text):
    assert redact(text, []) == text


@pytest.mark.parametrize(
    "text",
    [
        "password is None",
        "the token is True.",
        "api_key=None",
        "{'token': None, 'a': 1}",
        '{"password": null}',
        "connect(password='', token=False)",
        f"['--password={SUBSTITUTE}', 'db']",
        "tokens=[], secrets={}, keys=()",
        "--password None",
        "SECRET_KEY: ...",
    ],
)
def test_a_value_that_shows_nothing_stays(text):
    assert redact(text, []) == text


@pytest.mark.parametrize(
    "text", ["Password is swordfish", "the token was swordfish, not abc", "Secret is Swordfish."]
)
def test_a_word_that_is_not_ordinary_is_hidden(text):
    assert "swordfish" not in redact(text, []).lower()


def redact_source(line: str) -> str:
    """Return a line as it is shown below the frame of a traceback."""
    frame = '  File "/srv/site/urls.py", line 3, in connect\n'
    return redact(f"{frame}    {line}", [], source=True).removeprefix(f"{frame}    ")


@pytest.mark.parametrize(
    "line",
    [
        "if token is None:",
        "if token is other_token:",
        "assert password is not expected",
        "count = first --token second",
        "def connect(token: str, password: str | None = None):",
        "token: str = read()",
        "config['password'] = read()",
        'raise ValueError("the token is wrong")',
        "connect(token, api_key=None)",
        'parser.add_argument("--password", "-p")',
        'form.get("password", "")',
    ],
)
def test_a_line_of_source_without_a_literal_stays(line):
    assert redact_source(line) == line


@pytest.mark.parametrize(
    "line",
    [
        f'if token is "{HIDDEN}":',
        f'raise ValueError("password is {HIDDEN}")',
        f'run("mysqldump --password {HIDDEN}")',
        f'run(["mysqldump", "--password", "{HIDDEN}"])',
        f'os.environ.get("API_TOKEN", "{HIDDEN}")',
        f'SECRET_KEY: str = "{HIDDEN}"',
        f'os.environ["SECRET_KEY"] = "{HIDDEN}"',
        f'token = b"{HIDDEN}"',
        f'auth = {{"user": "{HIDDEN}"}}',
        f'log("auth=(user, {HIDDEN})")',
        f'if token == "{HIDDEN}":',
    ],
)
def test_a_literal_in_a_line_of_source_is_hidden(line):
    assert HIDDEN not in redact_source(line)


@pytest.mark.parametrize("unit", ["A", "A.", "key", "a:", "http://a:", "pass-", "InvalidA", "('token"])
@pytest.mark.timeout(20)  # it took minutes where every place was a beginning
def test_a_long_line_is_shortened(unit):
    text = "server said: " + unit * (200_000 // len(unit))
    told = redact(text, [])
    assert len(told) <= LONGEST + 40
    assert told.startswith("server said: ")


@pytest.mark.parametrize("source", [False, True])
@pytest.mark.parametrize(
    "unit",
    [
        *(
            "key='\\",
            "key=[",
            'key="""',
            "key: str ",
            "key: str|None",
            "a://",
            "a://aaaaaaaaaaaaaaaaaaaa:",
            "a.b.c.d.a://",
            "key: ",
            "key={",
            "key: (a.E00",
        ),
        *(
            "KeyError: ",
            "a.TokenError: ",
            "TokenError: 111",
            "-token ",
            "'--token', ",
            "'--token','-",
            "'--token=",
        ),
        *("('token', '", "('token', b", "token is now ", "token was set to", "password is "),
    ],
)
@pytest.mark.timeout(20)
def test_a_long_line_of_what_begins_like_a_secret_is_shortened(unit, source):
    text = '  File "a.py", line 3, in f\n' + unit * (200_000 // len(unit))
    assert len(redact(text, [], source=source)) < len(text) / 2


@pytest.mark.parametrize(
    "unit", ["mysite2024", "/mysite2024", "mysite2024/", "/a/mysite2024.b", "a/" * 99 + "mysite2024"]
)
@pytest.mark.timeout(20)
def test_a_secret_is_sought_in_a_long_line(unit):
    assert len(redact(unit * (200_000 // len(unit)), ["mysite2024"])) <= LONGEST + 40


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


@pytest.mark.parametrize(
    "text",
    [
        "cannot read /srv/mysite2024/app.conf",
        "cannot read '/srv/mysite2024'",
        "in /etc/mysite2024.conf:12",
        "PYTHONPATH=/srv/mysite2024:/srv/other",
        "from ../mysite2024/app, ~/mysite2024/app and ./mysite2024",
        "TemplateDoesNotExist: mysite2024/index.html.",
        "static/mysite2024/app.css",
    ],
)
def test_a_password_of_few_characters_stays_as_a_name_in_the_path_of_a_file(text):
    assert redact(text, ["mysite2024"]) == text


@pytest.mark.parametrize(
    "text",
    [
        "https://host/hooks/mysite2024/send",
        "https://host/" + "a/" * 200 + "mysite2024/send",
        "Max retries exceeded with url: /hooks/mysite2024/send",
        "POST /hooks/mysite2024 failed",
        "/hooks/mysite2024/send?x=1",
        "/hooks/send/mysite2024?x=1",
        "log in as admin/mysite2024 failed",
        "log in as admin/mysite2024.",
        "scott/mysite2024@db",
        "/srv/mysite2024@db/x",
        "host:mysite2024/x",
        "/srv/my-mysite2024/app",
        "/srv/mysite2024x/app",
        "tried mysite2024, then gave up",
    ],
)
def test_a_password_of_few_characters_is_hidden_elsewhere(text):
    assert redact(text, ["mysite2024"]) == text.replace("mysite2024", SUBSTITUTE)


@pytest.mark.parametrize("secret", ["123456:AAbbCCddEEffGGhh", "abcdefghijklmnopqrst", "ab/12cd34"])
def test_a_token_and_a_secret_with_a_slash_are_hidden_in_every_path(secret):
    assert secret not in redact(f"cannot open /srv/{secret}/send", [secret])
    assert secret not in redact(f"https://api.telegram.org/bot{secret}/send", [secret])


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


def test_a_class_that_cannot_be_imported_shows_no_secret_of_the_settings_that_it_read(tmp_path, monkeypatch):
    lines = (
        'API_KEY = "correct-horse"',
        'raise ValueError("no postgres://shop:hunter22@db/shop, " + API_KEY)',
    )
    (tmp_path / "secretive.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError) as caught:
        load_class("secretive.Worker")
    said = problem_with("secretive.Worker", caught.value)
    assert "'secretive.Worker' cannot be imported: ValueError: no postgres://shop:" in said
    assert "hunter22" not in said
    assert "correct-horse" not in said


LAZY_SETTINGS = """
from collections.abc import Mapping
from django.utils.functional import SimpleLazyObject

asked = []
def ask():
    asked.append("the vault")
    raise RuntimeError("the vault is closed")

class Broken(Mapping):
    def __getitem__(self, key): return ask()
    def __iter__(self): return ask()
    def __len__(self): return ask()

API_VAULT = SimpleLazyObject(ask)
CREDENTIALS = {"token": SimpleLazyObject(ask), SimpleLazyObject(lambda: "lazy"): 1, "password": ["hunter22hunter"]}
BROKEN = Broken()
Z_TOKEN = "correct-horse"
error = ValueError("refused: " + Z_TOKEN + ", hunter22hunter")
error.asked = asked
raise error
"""


def test_half_read_settings_are_searched_for_secrets_without_asking_a_lazy_object(tmp_path, monkeypatch):
    (tmp_path / "lazy_settings.py").write_text(LAZY_SETTINGS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="refused") as caught:
        import_module("lazy_settings")
    shown = in_short(caught.value)
    assert f"ValueError: refused: {SUBSTITUTE}, {SUBSTITUTE}" in shown
    assert len(caught.value.asked) <= 1  # by the mapping, which is no lazy object of Django's


def in_settings(tmp_path, monkeypatch, values: str) -> str:
    """Return the description of an error whose message quotes SECRET_KEY, by `lines` as a repr too."""
    text = f"SECRET_KEY = {values}\nraise ValueError(f'{{SECRET_KEY!s}}; {{SECRET_KEY!r}}; ' + repr([{{'x': SECRET_KEY}}]))"
    (tmp_path / "secret_settings.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "secret_settings", raising=False)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is the secret
        import_module("secret_settings")
    return str((in_short(caught.value), describe_failure(caught.value)))


PEM = (
    "-----BEGIN PRIVATE KEY-----",
    "MIIEvQIBADANBgkqhkiG9w0BAQEF/ASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj",
    "/MzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuictGeurT8jNbvJZHtCSuYEv",
    "uNMoSfm76oqFvAp8Gy0iz5sxjZ==",
    "-----END PRIVATE KEY-----",
)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ("'eyJhbGciOi.eyJzdWIi.dozjgN'", ["eyJhbGciOi.eyJzdWIi.dozjgN"]),
        ("b'Zm9yIHRoZSBzaG9wIG9ubHk1IQ=='", ["Zm9yIHRoZSBzaG9wIG9ubHk1IQ=="]),
        ("bytearray(b'Zm9yIHRoZSBzaG9wIG9ubHk1IQ==')", ["Zm9yIHRoZSBzaG9wIG9ubHk1IQ=="]),
        ("b'Zm9yIHRo\\xff\\x00for-the-shop-only'", ["Zm9yIHRo", "for-the-shop-only"]),
        (repr("\n".join(PEM)), PEM[1:4]),
        (repr("\r\n".join((*PEM, ""))), PEM[1:4]),
        (repr("\\n".join(PEM)), PEM[1:4]),
        (repr("\n".join(PEM).encode()), PEM[1:4]),
        ("'correct \\'horse\\' \"battery\"\\n'", ["battery"]),
    ],
)
def test_a_secret_is_hidden_in_each_way_that_it_is_shown(tmp_path, monkeypatch, values, parts):
    shown = in_settings(tmp_path, monkeypatch, values)
    assert [part for part in parts if part in shown] == []
    assert "ValueError" in shown


@pytest.mark.parametrize("value", ["\n".join(PEM), "\\n".join(PEM)])
def test_a_key_in_the_environment_is_hidden_line_by_line(monkeypatch, value):
    monkeypatch.setenv("SIGNING_KEY", value)
    shown = message_of(ValueError(f"cannot read {PEM[2]!r} of {value!r}"))
    assert [line for line in PEM[1:4] if line in shown] == []


@pytest.mark.parametrize(
    "value",
    [
        "django.contrib.auth.backends.ModelBackend",
        "django.contrib.auth.password_validation.UserAttributeSimilarityValidator",
        "rest_framework_simplejwt.authentication.default_user_authentication_rule",
        "storages.backends.s3boto3.S3Boto3Storage",
        "oauth2_provider.backends.OAuth2Backend",
        "social_core.backends.open_id_connect.OpenIdConnectAuth",
    ],
)
def test_the_name_of_a_class_is_no_secret(value):
    assert _is_dotted(value)


@pytest.mark.parametrize(
    "value",
    [
        "eyJhbGciOi.eyJzdWIi.dozjgN",
        "SG.ngeVfQFYQlKU0ufo8x5d1A.TwL2iGABf9DHoTf09kqeF8tAmbihYzrnopKcYeJHg",
        "a5f20e1c7b9d4e3f8a6b5c4d3e2f1a0b.k3JqP0xZ8vYt",
        "correcthorse",
    ],
)
def test_a_token_with_dots_is_no_name_of_a_class(value):
    assert not _is_dotted(value)


TOKEN = "ghp_1a2b3c4d5e6f7g8h9i0jKLMNOP"


@pytest.mark.parametrize(
    "text",
    [
        f"https://{TOKEN}@github.com/shop/site.git",
        f"https://{TOKEN}:x-oauth-basic@github.com/shop/site.git",
        f"https://{TOKEN}:@github.com/shop/site.git",
        f"cannot fetch 'git+https://{TOKEN}@github.com/shop'",
    ],
)
def test_a_token_that_is_the_user_of_a_url_is_hidden(text):
    assert TOKEN not in redact(text, [])
    assert "github.com/shop" in redact(text, [])


@pytest.mark.parametrize(
    "text",
    [
        "https://deploy@github.com/shop/site.git",
        "ssh://git@github.com/shop",
        "http://a-host-with-quite-a-long-name.example.com:8000/users/me",
        "http://a-host-with-quite-a-long-name.example.com/users/me@example.com",
    ],
)
def test_a_user_and_a_host_of_a_url_stay(text):
    assert redact(text, []) == text


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("the vault is closed")


@pytest.mark.parametrize("describe", [in_short, message_of, describe_failure, describe_briefly])
def test_an_error_whose_message_cannot_be_made_is_described(describe):
    shown = str(describe(UnprintableError()))
    assert "<exception str() failed>" in shown
