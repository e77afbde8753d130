"""uWSGI's reading of an XML file: one element for each option. Pure."""

from __future__ import annotations

from xml.parsers import expat  # the parser alone: no entity is resolved, because a DTD is refused

from django_workerguard.from_uwsgi.directive import Place, ReadError, Written

SECTION = "uwsgi"


class _Reader:
    """Collects the options of the first matching <uwsgi>, in the root or one level below it."""

    def __init__(self, file: str, wanted: str) -> None:
        self.file = file
        self.wanted = wanted
        self.lines: list[Written] = []
        self.found = False
        self._in_section = False
        self._depth = self._section_depth = 0
        self._option: tuple[Place, str, dict[str, str]] | None = None
        self._text: str | None = None  # the text of the option up to its first child
        self._inner: str = ""  # the text of <module> in <app>
        self._closed = False
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.CommentHandler = self._close
        self.parser.StartDoctypeDeclHandler = self._refuse

    @property
    def _here(self) -> Place:
        return Place(self.file, self.parser.CurrentLineNumber)

    def _refuse(self, *declaration: object) -> None:
        raise ReadError(self._here, "a document type declaration is not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._in_section:
            self._inside(name, attributes)
        elif not self.found and name == SECTION and self._depth <= 2 and self._is_wanted(attributes):
            self._in_section = self.found = True
            self._section_depth = self._depth

    def _is_wanted(self, attributes: dict[str, str]) -> bool:
        return not (self.wanted and "id" in attributes) or attributes["id"] == self.wanted

    def _inside(self, name: str, attributes: dict[str, str]) -> None:
        if self._depth == self._section_depth + 1:
            self._option, self._text, self._inner, self._closed = (
                (self._here, name, attributes),
                None,
                "",
                False,
            )
        else:
            self._close()

    def _close(self, *_: str) -> None:
        self._closed = True

    def _characters(self, text: str) -> None:
        if self._option is None:
            return
        if self._depth > self._section_depth + 1:
            self._inner += text
        elif not self._closed:
            self._text = (self._text or "") + text

    def _end(self, name: str) -> None:
        if self._in_section and self._depth == self._section_depth:
            self._in_section = False
        elif self._option is not None and self._depth == self._section_depth + 1:
            self._keep()
            self._option = None
        self._depth -= 1

    def _keep(self) -> None:
        assert self._option is not None
        place, name, attributes = self._option
        if not self._is_wanted(attributes):
            return
        if name != "app":
            value = "1" if self._text is None else self._text.strip()
            self.lines.append(Written(place, name, value))
            return
        target = (self._inner or self._text or "").strip()
        if mountpoint := attributes.get("mountpoint"):
            target = f"{mountpoint}={target}"
        elif domain := attributes.get("domain"):
            target = f"{domain}|={target}"
        self.lines.append(Written(place, "mount", target))


def parse(text: str, file: str, wanted: str) -> list[Written] | None:
    """Return the options of the element <uwsgi>, or None if there is none. Raises ReadError if it is not XML."""
    reader = _Reader(file, wanted)
    try:
        reader.parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise ReadError(
            Place(file, error.lineno), f"this is not XML: {expat.ErrorString(error.code)}"
        ) from None
    return reader.lines if reader.found else None
