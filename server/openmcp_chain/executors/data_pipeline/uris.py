"""The URIs that a payload may name, taken apart and checked for form."""

import posixpath
import re
import urllib.parse
from dataclasses import dataclass

SCHEMES = ("file", "http", "https", "s3")
_LONGEST = 2048
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class Uri:
    """A well-formed URI."""

    scheme: str
    authority: str
    """The bucket of an `s3` URI, the host of an `http` one; empty for a file."""
    path: str
    """A file's absolute path, decoded; an object's key, as written; the path of an `http` URI, as written."""
    text: str
    """As the payload has it."""

    def __str__(self) -> str:
        """For messages: without the query, in which a presigned URI carries its signature."""
        return re.sub(r"\?.*", "?…", self.text) if self.scheme.startswith("http") else self.text

    @property
    def extension(self) -> str:
        return posixpath.splitext(self.path)[1].lower().removeprefix(".")

    def beside(self, name: str) -> "Uri":
        """The URI of another name in the same folder. For files and objects."""
        path = posixpath.join(posixpath.dirname(self.path), name)
        quoted = urllib.parse.quote(path) if self.scheme == "file" else f"{self.authority}/{path}"
        return Uri(self.scheme, self.authority, path, f"{self.scheme}://{quoted}")


def parse(text: str) -> Uri:
    """Takes a URI apart.

    Raises:
        ValueError: It is no URI that can be meant; the message is a predicate, such as "must not …".
    """
    if len(text) > _LONGEST:
        raise ValueError(f"must have at most {_LONGEST} characters")
    if not text.isprintable() or "\\" in text:
        raise ValueError("must not have control characters or backslashes")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"must be a URI that begins with {', '.join(f'{name}://' for name in SCHEMES)}")
    if scheme in ("http", "https"):
        return _web(scheme, text)
    authority, _, path = rest.partition("/")
    if "@" in authority:
        raise ValueError("must not carry a user name or password")
    if scheme == "file":
        if authority not in ("", "localhost"):
            raise ValueError("must not name a host: write file:///folder/name")
        try:
            path = "/" + urllib.parse.unquote(path, errors="strict")
        except UnicodeDecodeError:
            raise ValueError("must be UTF-8 behind its percent signs") from None
        _check_parts(path[1:])
        return Uri(scheme, "", path, text)
    if not _BUCKET.fullmatch(authority):
        raise ValueError("must name a bucket: 3 to 63 of a-z 0-9 . -")
    _check_parts(path)
    return Uri(scheme, authority, path, text)


def _web(scheme: str, text: str) -> Uri:
    try:
        parts = urllib.parse.urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError("must have a host, and a port from 0 to 65535 if any") from None
    if "@" in parts.netloc:
        raise ValueError("must not carry a user name or password")
    if not parts.hostname:
        raise ValueError("must name a host")
    return Uri(scheme, parts.hostname.lower(), parts.path, text)


def _check_parts(path: str) -> None:
    if "\0" in path:
        raise ValueError("must not have a NUL character")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("must name a file or object, without empty parts, `.` or `..`")
