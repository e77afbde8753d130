"""The reader sees in a configuration what uWSGI 2.0.31 sees: the right values were taken from its --show-config."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_workerguard.from_uwsgi.directive import ReadError, State
from django_workerguard.from_uwsgi.read.file import LARGEST
from django_workerguard.from_uwsgi.read.machine import Machine
from django_workerguard.from_uwsgi.read.magic import Location, file_variables
from django_workerguard.from_uwsgi.read.passes import UnevaluatedError, compute, put_in
from django_workerguard.from_uwsgi.read.reader import read
from django_workerguard.from_uwsgi.table import load_table

TABLE = load_table()


def machine(directory: Path, **environ: str) -> Machine:
    return Machine(environ=environ, directory=str(directory), hostname="host", cpus=3, uid=0, gid=0, now=1.5)


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        (directory / name.replace("_", ".", 1)).write_bytes(text.encode())


def seen(directory: Path, *files: str, arguments: tuple[str, ...] = (), **environ: str) -> list[str]:
    """Return what uWSGI's --show-config would print."""
    names = [str(directory / file) for file in files]
    directives = read(names, arguments, machine=machine(directory, **environ), table=TABLE)
    return [
        f"{one.key} = {one.value}".rstrip()
        for one in directives
        if one.state not in (State.SKIPPED, State.UNMET)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[uwsgi]\n a = 1 \n;c\n#c\nb=2=3\nnoval\nk=\n", ["a = 1", "b = 2=3", "noval =", "k ="]),
        ("[uwsgi]\r\na = 1\r\nb\t=\t2\t\r\n", ["a = 1", "b = 2"]),
        ("[uwsgi]\na=1\na=2\nb=%(a)\n", ["a = 1", "a = 2", "b = 1"]),
        # a comment at the end of a line is part of the value
        ("[uwsgi]\nprocesses = 4 ; four\n", ["processes = 4 ; four"]),
        # a percent sign swallows the end of its line
        ("[uwsgi]\na = 100%\nb = 2\nc=50%%\n", ["a = 100b = 2", "c = 50%"]),
        ("[uwsgi]\n; 100%\nb = 2\nc=3\n", ["c = 3"]),
        ("[uwsgi]\na = %k %h %u %q|\n", ["a = 3 host 0 |"]),
        # references
        ("[uwsgi]\na = /%(b)\nb = %(c)x\nc = q\n", ["a = /qx", "b = qx", "c = q"]),
        # what was put in is searched again from its second character only
        ("[uwsgi]\na = %(b)\nb = %(c)x\nc = q\n", ["a = %(c)x", "b = qx", "c = q"]),
        (
            "[uwsgi]\nn = 4\ne = %(n + 1)\nf = %(n n + 2)\ng = %(n / 0)\n",
            ["n = 4", "e = 5", "f = 46", "g = 0"],
        ),
        ("[uwsgi]\nn = 9\na=%(n ++)\nb=%(n --)\nc=%(n - 12)\n", ["n = 9", "a = 10", "b = 8", "c = -3"]),
        ("[uwsgi]\na = %(nope) %()\n", ["a = %(nope) %()"]),
        # the environment
        ("[uwsgi]\na = $(FOO)/x $(NOPE)\n", ["a = foo/x $(NOPE)"]),
        ("[uwsgi]\nendif = $(FOO)\n", ["endif = $(FOO)"]),
        # blocks
        (
            "[uwsgi]\nfor = a b  c\nx = %(_)\nendfor =\n",
            ["for = a b  c", "x = a", "x = b", "x = c", "endfor ="],
        ),
        (
            "[uwsgi]\nfor-times = 2\nx = %(_)\nend =\ny = 1\n",
            ["for-times = 2", "x = 1", "x = 2", "end =", "y = 1"],
        ),
        (
            "[uwsgi]\nif-env = FOO=foo\nb=%(_)\nendif\nif-env=FOO=bar\nc=1\nendif\n",
            ["if-env = FOO=foo", "b = foo", "endif =", "if-env = FOO=bar", "endif ="],
        ),
        ("[uwsgi]\nif-not-env = NOPE\nd=%(_)\nendif\n", ["if-not-env = NOPE", "d = %(_)", "endif ="]),
        (
            "[uwsgi]\nq = 5\nif-opt = q=5\nb=%(_)\nendif\nif-not-opt = q\nc=1\nendif\n",
            ["q = 5", "if-opt = q=5", "b = 5", "endif =", "if-not-opt = q", "endif ="],
        ),
        (
            "[uwsgi]\nif-reload\na = 1\nendif\nif-not-reload\nb = %(_)\nendif\n",
            ["if-reload =", "endif =", "if-not-reload =", "b = %(_)", "endif ="],
        ),
        # a block that is not met hides the block within it, whose end ends both
        ("[uwsgi]\nif-env = NOPE\nif-env = FOO\na=1\nendif\nb=2\n", ["if-env = NOPE", "endif =", "b = 2"]),
        # placeholders keep the variables in them until they are used
        (
            "[uwsgi]\nset = a=1\nset-ph = b=%(a)\nx=/%(b)\n",
            ["set = a=1", "a = 1", "set-ph = b=%(a)", "b = %(a)", "x = /1"],
        ),
        (
            "[uwsgi]\nfor = 1 2\nset = a%(_)=v\nendfor\n",
            ["for = 1 2", "set = a1=v", "a1 = v", "set = a2=v", "a2 = v", "endfor ="],
        ),
        (
            "[other]\nx=1\n[uwsgi]\na=1\nini = :other\n[uwsgi]\nb=2\n",
            ["a = 1", "ini = :other", "x = 1", "b = 2"],
        ),
    ],
)
def test_an_ini_file_is_read_as_uwsgi_reads_it(tmp_path, text, expected):
    write(tmp_path, a_ini=text)
    assert seen(tmp_path, "a.ini", FOO="foo") == expected


def test_the_variables_of_a_file_and_of_the_first_file(tmp_path):
    write(
        tmp_path,
        a_ini="[uwsgi]\nini = b.ini:sec\nz = %n %N %e %c|%x\n",
        b_ini="[sec]\nb = %d %n %N %s %x %0\n",
    )
    top = tmp_path.parts[1]
    assert seen(tmp_path, "a.ini") == [
        "ini = b.ini:sec",
        f"b = {tmp_path}/ b a b.ini sec {top}",
        f"z = a a ini {tmp_path.name}|",
    ]


def test_the_hash_of_a_path_is_uwsgis(tmp_path):
    # taken from uWSGI 2.0.31
    variables = file_variables(Location("/tmp/uw/tmp_ir3p8yc/a.ini", "x"), machine(tmp_path))
    assert (variables["j"], variables["o"]) == ("E31C3AE5", "/tmp/uw/tmp_ir3p8yc/a.ini")


def test_includes_in_a_loop_and_what_an_included_file_ends(tmp_path):
    write(
        tmp_path,
        a_ini="[uwsgi]\nfor = b c\ninclude = %(_).ini\nendfor\nx=%(fromb)\n",
        b_ini="[uwsgi]\nfromb = 1\nendif\nz=%(_)\n",
        c_ini="[uwsgi]\nfromc = %(fromb)\n",
    )
    assert seen(tmp_path, "a.ini") == ["for = b c", "include = b.ini", "fromb = 1", "endif =", "z = %(_)", "include = c.ini", "fromc = 1", "endfor =", "x = 1"]  # fmt: skip


def test_an_inherited_file_keeps_its_variables(tmp_path):
    write(
        tmp_path,
        a_ini="[uwsgi]\nbase=/x\ninherit = b.ini\ny=%(h)\n",
        b_ini="[uwsgi]\nh=%(base)\ninherit=c.ini\n",
    )
    write(tmp_path, c_ini="[uwsgi]\nc=1\n")
    assert seen(tmp_path, "a.ini") == ["base = /x", "inherit = b.ini", "y = %(h)", "h = %(base)", "inherit = c.ini", "c = 1"]  # fmt: skip


def test_files_as_values(tmp_path):
    write(tmp_path, a_ini="[uwsgi]\nname=v.txt\na=@(v.txt)y\nb=$(FOO)@(v.txt)\n", v_txt="$(FOO)%(name)\n")
    assert seen(tmp_path, "a.ini", FOO="foo") == ["name = v.txt", "a = $(FOO)v.txty", "b = foo$(FOO)v.txt"]


@pytest.mark.parametrize(
    "scheme", ["exec", "http", "call", "callint", "sym", "section", "data", "fd", "emperor"]
)
def test_nothing_but_plain_files_is_evaluated(tmp_path, scheme):
    write(tmp_path, a_ini=f"[uwsgi]\na = @({scheme}://touch {tmp_path}/ran)\nini = {scheme}://x.ini\nb=1\n")
    directives = read([str(tmp_path / "a.ini")], [], machine=machine(tmp_path), table=TABLE)
    assert [one.state for one in directives] == [State.UNKNOWN, State.UNKNOWN, State.SET]
    assert all("never evaluated" in one.remark for one in directives[:2])
    assert not (tmp_path / "ran").exists()


def test_only_regular_small_files_are_values(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    write(
        tmp_path,
        a_ini="[uwsgi]\na=@(fifo)\nb=@(/dev/zero)\nc=@(big)\nd=@(gone)\ne=@(.)\n",
        big="x" * (1 << 17),
    )
    directives = read([str(tmp_path / "a.ini")], [], machine=machine(tmp_path), table=TABLE)
    assert {one.state for one in directives} == {State.UNKNOWN}


def test_xml_as_uwsgi_reads_it(tmp_path):
    text = '<conf><uwsgi id="one"><aa>1</aa></uwsgi>\n<uwsgi id="two"><bb>%x</bb>\n<cc id="one">1</cc><m/><!-- c -->'
    text += '<dd>x<!-- k -->y</dd>\n<app mountpoint="/x"><module>m:a</module></app></uwsgi></conf>'
    write(tmp_path, b_xml=text)
    directives = read([f"{tmp_path}/b.xml:two"], [], machine=machine(tmp_path), table=TABLE)
    assert [(one.key, one.value, one.place.line) for one in directives] == [
        ("bb", "two", 2), ("m", "1", 3), ("dd", "x", 3), ("mount", "/x=m:a", 4),
    ]  # fmt: skip


def test_yaml_and_json_with_lists(tmp_path):
    write(
        tmp_path,
        a_yml="# c\nother:\n  x: 1\nuwsgi:\n  'a b': \"q # r\"  # c\n  e:\n    - one\n    - 'it''s'\n  l: [1, 'x, y', z]\n  n:\n  m: 127.0.0.1:80\n",
        a_json='{"other": {"a": [1]},\n "uwsgi": {"a": 4,\n "e": ["one",\n  true, null], "n": false}}',
    )
    directives = read([f"{tmp_path}/a.yml"], [], machine=machine(tmp_path), table=TABLE)
    assert [(one.key, one.value, one.place.line) for one in directives] == [
        ("a b", "q # r", 5), ("e", "one", 7), ("e", "it's", 8), ("l", "1", 9), ("l", "x, y", 9), ("l", "z", 9),
        ("n", "", 10), ("m", "127.0.0.1:80", 11),
    ]  # fmt: skip
    directives = read([f"{tmp_path}/a.json"], [], machine=machine(tmp_path), table=TABLE)
    assert [(one.key, one.value, one.place.line) for one in directives] == [
        ("a", "4", 2), ("e", "one", 3), ("e", "1", 4), ("e", "0", 4), ("n", "0", 4),
    ]  # fmt: skip


def test_the_command_line_and_the_environment(tmp_path):
    write(tmp_path, a_ini="[uwsgi]\na=1\n")
    arguments = (
        "--http=:80",
        "-Mp4",
        "--proc",
        "8",
        "-C",
        "--chmod-socket=660",
        f"{tmp_path}/a.ini",
        "x.wsgi",
        "m.w:app",
        "-b",
        "1",
    )
    with pytest.raises(ReadError, match="--proc could mean --processes, --procname"):
        seen(tmp_path, arguments=arguments)
    arguments = tuple("--process" if one == "--proc" else one for one in arguments)
    assert seen(tmp_path, arguments=arguments, UWSGI_MAX_REQUESTS="5", UWSGI_RELOADS="1") == [
        "max-requests = 5", "http = :80", "master =", "processes = 4", "processes = 8", "chmod-socket =",
        "chmod-socket = 660", "buffer-size = 1", f"include = {tmp_path}/a.ini", "a = 1", "wsgi-file = x.wsgi",
        "module = m.w:app",
    ]  # fmt: skip


def test_sections_that_are_not_read_are_reported(tmp_path):
    write(tmp_path, a_ini="[uwsgi]\na=1\n\n[celery]\nb=1\nc=2\n")
    _, *others = read([str(tmp_path / "a.ini")], [], machine=machine(tmp_path), table=TABLE)
    assert [(one.key, one.place.line, one.state) for one in others] == [
        ("b", 5, State.SKIPPED),
        ("c", 6, State.SKIPPED),
    ]
    assert "[celery]" in others[0].remark


@pytest.mark.parametrize(
    ("name", "data", "line", "problem"),
    [
        ("a.ini", b"[uwsgi]\na=1\n[oops\nb=2\n", 3, "heading"),
        ("a.ini", b"[uwsgi] ; main\na=1\n", 1, "heading"),
        ("a.ini", b"[app]\na=1\n[more]\nb=2\n", 1, "no section [uwsgi]"),
        ("a.ini", b"[uwsgi]\n", 1, "no section [uwsgi]"),
        ("a.ini", b"", 1, "no section [uwsgi]"),
        ("a.ini", b"[uwsgi]\na=1\nb=\xff\n", 3, "0xff is not UTF-8"),
        ("a.ini", b"[uwsgi]\na=1\nb=\0\n", 3, "not text"),
        ("a.ini", b"[uwsgi]\n" + b"a=1\n" * 2_600_000, 1, "larger than"),
        ("a.ini", b"[uwsgi]\n" + b"a=1\n" * 25_000, 20_002, "more than 20000 options"),
        ("a.ini", b"[uwsgi]\na = " + b"x" * 10_000, 2, "more than 8192 characters"),
        ("a.ini", b"[uwsgi]\n" + b" " * 900_000 + b"\nfor = " + b"y" * 5_000 + b"\na = %(_)%(_)\n", 4, "more than 8192 characters"),
        ("a.ini", b"[uwsgi]\na = b" + b"\nx = %(a)%(a)" * 11_000, 10_003, "more than 20000 variables"),
        ("a.yml", b"uwsgi:\n  a" + b" " * 900_000 + b"b\n", 2, "more than 8192 characters"),
        ("a.ini", b"[uwsgi]\nini = a.ini\n", 2, "includes itself"),
        ("a.ini", b"[uwsgi]\nif-env = FOO\nif-env = FOO\n", 3, "no blocks within blocks"),
        ("a.ini", b"[uwsgi]\nfor-times = 99999999\nx=1\n", 2, "rounds"),
        ("a.ini", b"[uwsgi]\nfor-readline = gone\nx=1\n", 2, "cannot be read"),
        ("a.ini", b"[uwsgi]\nset = a\n", 2, "name=value"),
        ("a.xml", b"<uwsgi>\n<a>1</b></uwsgi>", 2, "not XML"),
        ("a.xml", b"<!DOCTYPE x [\n<!ENTITY a 'b'>]>\n<uwsgi/>", 1, "document type"),
        ("a.xml", b"<conf><other/></conf>", 1, "no 'uwsgi' in it"),
        ("a.json", b'{"uwsgi":\n {"a" 1}}', 2, "not JSON"),
        ("a.json", b"[1]", 1, "not a JSON object"),
        ("a.json", b"[" * 200_000, 1, "JSON"),
        ("a.json", b'{"uwsgi": {"a": 1,\n"b": {"c": 1}}}', 2, "neither a value"),
        ("a.yml", b"uwsgi:\n  a: 1\n  b: {c: 1}\n", 3, "not read here"),
        ("a.yml", b"uwsgi:\n\ta: 1\n", 2, "tabs"),
        ("a.yml", b"uwsgi:\n  a: 1\n    b: 1\n", 3, "indented"),
        ("a.yml", b"uwsgi:\n  nothing\n", 2, "option: value"),
        ("a.yml", b"uwsgi:\n  a: 'x\n", 2, "quotation"),
        ("a.yml", b"x: 1\n", 1, "no 'uwsgi' in it"),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_with_file_and_line(tmp_path, name, data, line, problem):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ReadError) as caught:
        seen(tmp_path, name, FOO="1")
    place, _, text = str(caught.value).removeprefix(f"{tmp_path}/").partition(": ")
    assert place in (f"{name}:{line}", f"./{name}:{line}")
    assert problem in text


def test_a_file_that_is_not_there_or_is_a_directory(tmp_path):
    with pytest.raises(ReadError, match="No such file"):
        seen(tmp_path, "gone.ini")
    with pytest.raises(ReadError, match="directory"):
        read([str(tmp_path)], [], machine=machine(tmp_path), table=TABLE)


def test_a_cycle_over_several_files(tmp_path):
    write(
        tmp_path,
        a_ini="[uwsgi]\nini = b.ini\n",
        b_ini="[uwsgi]\nini = c.ini:x\n",
        c_ini="[x]\ninclude = a.ini\n",
    )
    with pytest.raises(ReadError, match=r"c\.ini:2: a\.ini \(section uwsgi\) includes itself"):
        seen(tmp_path, "a.ini")


def test_a_missing_include_leaves_the_rest(tmp_path):
    write(tmp_path, a_ini="[uwsgi]\ninclude = /gone.ini\na=1\n")
    first, second = read([str(tmp_path / "a.ini")], [], machine=machine(tmp_path), table=TABLE)
    assert (first.state, second.state) == (State.UNKNOWN, State.SET)
    assert "No such file" in first.remark


def test_a_value_that_refers_to_itself_is_unknown(tmp_path):
    write(tmp_path, a_ini="[uwsgi]\na = x%(a)\nb = 1\n")
    first, second = read([str(tmp_path / "a.ini")], [], machine=machine(tmp_path), table=TABLE)
    assert first.state is State.UNKNOWN
    assert second.state is State.SET


PIECES = st.sampled_from(["%(a)", "%(a b + 1)", "$(FOO)", "@(x)", "@(exec://touch ran)", "%", "(", ")", "$", "x", " ", "=", "%d", "[", "]"])  # fmt: skip
LINES = st.builds(
    "{} = {}".format,
    st.sampled_from(["a", "b", "if-env", "endif", "for", "for-times", "for-glob", "set", "set-ph", "ini", "include", "inherit", "exec-asap", "plugins", "[x]", "declare-option", "if-hostname-match"]),
    st.lists(PIECES, max_size=5).map("".join),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.lists(LINES | st.text(max_size=20), max_size=12),
    st.sampled_from(["ini", "xml", "yml", "json", "conf"]),
)
def test_the_reader_raises_nothing_but_its_own_error_and_runs_nothing(tmp_path_factory, lines, extension):
    directory = tmp_path_factory.getbasetemp() / "reader"
    directory.mkdir(exist_ok=True)
    (directory / f"a.{extension}").write_text("[uwsgi]\n" + "\n".join(lines), newline="")
    with contextlib.suppress(ReadError):
        seen(directory, f"a.{extension}", FOO="foo")
    assert {path.name for path in directory.iterdir()} <= {
        f"a.{one}" for one in ("ini", "xml", "yml", "json", "conf")
    }


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["ini", "xml", "yml", "json", "conf"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data, extension):
    path = tmp_path_factory.getbasetemp() / f"bytes.{extension}"
    path.write_bytes(
        {"xml": b"<uwsgi>", "json": b'{"uwsgi": ', "yml": b"uwsgi:\n  a: "}.get(extension, b"[uwsgi]\n")
        + data
    )
    with contextlib.suppress(ReadError):
        seen(path.parent, path.name)


@given(
    st.lists(PIECES, max_size=8).map("".join),
    st.dictionaries(st.sampled_from("abx"), st.lists(PIECES, max_size=3).map("".join)),
)
def test_the_passes_always_end(value, options):
    with contextlib.suppress(UnevaluatedError):
        put_in(value, "%", lambda name: compute(name, options))


def test_the_limit_of_a_file_is_below_ten_megabytes():
    assert LARGEST < 10 << 20
