"""Places that a URL names: object stores and web servers, and how they are to be reached.

An `Address` is a small value that travels to workers, into messages and into notes. It never holds
a secret: credentials stay in the environment of each process, where the store library finds them.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stillstack.errors import InputError

SEPARATOR: Final = "://"
OPTIONS: Final[Mapping[str, Mapping[str, type]]] = {
    "s3": {
        "endpoint": str,
        "region": str,
        "profile": str,
        "anonymous": bool,
        "requester_pays": bool,
        "virtual_hosted": bool,
    },
    "gs": {"anonymous": bool},
    "https": {},
    "http": {},
}
"""What may be said of a place, for each scheme: nothing that has to be kept secret."""

_WRITABLE: Final = ("s3", "gs")
_SECRET_WORDS: Final = ("key", "secret", "token", "password", "credential", "sas")


@dataclass(frozen=True)
class Address:
    """A folder of an object store, or of a web server, as a URL and options.

    Parameters
    ----------
    url
        ``s3://bucket/folder``, ``gs://bucket/folder`` or ``https://host/folder``.
    options
        Pairs of `OPTIONS`, sorted.

    Examples
    --------
    >>> place = Address("s3://bucket/runs/monday.zarr")
    >>> place.bucket, place.prefix, place.name
    ('bucket', 'runs/monday.zarr', 'monday.zarr')
    """

    url: str
    options: tuple[tuple[str, str | bool], ...] = ()

    def __str__(self) -> str:
        return self.url

    @property
    def scheme(self) -> str:
        """What stands before ``://``."""
        return self.url.partition(SEPARATOR)[0]

    @property
    def bucket(self) -> str:
        """Bucket, or host."""
        return self.url.partition(SEPARATOR)[2].partition("/")[0]

    @property
    def prefix(self) -> str:
        """Folder within the bucket, without slashes around it; empty for the bucket itself."""
        return self.url.partition(SEPARATOR)[2].partition("/")[2].strip("/")

    @property
    def name(self) -> str:
        """Last part of the URL."""
        return self.prefix.rpartition("/")[2] or self.bucket

    @property
    def is_writable(self) -> bool:
        """Whether runs can be written to places of this kind."""
        return self.scheme in _WRITABLE

    def absolute(self) -> Address:
        """Itself: a URL is the same from everywhere."""
        return self


Location = Path | Address
"""Where something lies: a path, or an address."""


def is_address(path: Any) -> bool:
    """Whether a path is a URL, or an `Address`."""
    return isinstance(path, Address) or (isinstance(path, str) and SEPARATOR in path)


def located(
    path: str | os.PathLike[str] | Address, options: Mapping[str, Any] | None = None
) -> Location:
    """Path or address of a place.

    Parameters
    ----------
    path
        What a person wrote.
    options
        How an address is to be reached: see `OPTIONS`.

    Raises
    ------
    InputError
        The URL is of no known kind, holds a secret, or an option does not belong to it. No message
        repeats what could be a secret.

    Examples
    --------
    >>> located("s3://bucket/run.zarr", {"region": "eu-north-1"}).options
    (('region', 'eu-north-1'),)
    """
    if isinstance(path, Address):
        return path
    text = os.fspath(path)
    fault = place_fault(text, options or {})
    if fault:
        raise InputError(f"{fault[0].upper()}{fault[1:]}.", cure="Mend the place and try again.")
    if not is_address(text):
        return Path(text)
    return Address(text.rstrip("/"), tuple(sorted((options or {}).items())))


def portable(place: Location) -> str | Address:
    """Return what a worker is given to find a place: an absolute path, or the address."""
    return place if isinstance(place, Address) else str(place.absolute())


def place_fault(path: str, options: Mapping[str, Any]) -> str:
    """Say what is wrong with a place and its options, in words; empty when nothing is."""
    if not is_address(path):
        fault = "options belong to addresses such as s3://bucket/folder, not to paths"
        return fault if options else ""
    scheme, _, rest = path.partition(SEPARATOR)
    if scheme not in OPTIONS:
        return f"{scheme}:// is not a kind of address that can be used: {_listed(OPTIONS, '://')}"
    parts = urllib.parse.urlsplit(path)
    if "@" in parts.netloc or parts.query or parts.fragment:
        return (
            f"an address at {parts.netloc.rpartition('@')[2]} holds a password, a query or a "
            "fragment, which would be stored with the run; credentials belong into the environment"
        )
    if not rest.partition("/")[0]:
        return f"the address {path} names no {'host' if 'http' in scheme else 'bucket'}"
    return next((f for key in options if (f := _option_fault(scheme, key, options[key]))), "")


def _option_fault(scheme: str, key: str, value: Any) -> str:
    known = OPTIONS[scheme]
    if key not in known:
        secret = any(word in key.lower() for word in _SECRET_WORDS)
        hint = "; credentials belong into the environment of every worker" if secret else ""
        return f"{key} is not an option of {scheme}:// addresses: {_listed(known) or 'none'}{hint}"
    if type(value) is not known[key]:
        return f"the option {key} should be {'text' if known[key] is str else 'true or false'}"
    if isinstance(value, str) and ("@" in value or "?" in value):
        return f"the option {key} holds a password or a query, which would be stored with the run"
    return ""


def _listed(known: Mapping[str, Any], suffix: str = "") -> str:
    return "known are " + ", ".join(f"{name}{suffix}" for name in known) if known else ""
