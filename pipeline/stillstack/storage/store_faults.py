"""What an object store's errors mean: what was wrong, what follows from it, what to do.

The library's own error is never chained: it repeats the store's answer, with key ids and signatures
in it, and errors end up in logs and in a run's notes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from stillstack.address import Address
from stillstack.errors import AccessError, RunFaultError, StillstackError

_CONDITIONS: Final = ("AlreadyExistsError", "PreconditionError")
_SECRETS: Final = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_NOTHING: Final = "Nothing can be read or written there."


class PermissionMissingError(AccessError):
    """A store does not let one do something."""


@dataclass(frozen=True)
class _Meaning:
    """One kind of trouble: how it is recognised in the library's text, and what is said of it."""

    signs: re.Pattern[str]
    kind: type[StillstackError]
    reason: str
    consequence: str
    cure: str


_MEANINGS: Final = (
    _Meaning(
        # of the servers that are asked for credentials when there are none elsewhere
        re.compile("latest/api/token|latest/meta-data|computeMetadata"),
        AccessError,
        "there are no credentials for it",
        _NOTHING,
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (for gs:// "
        "GOOGLE_APPLICATION_CREDENTIALS), in the environment of this process and of the workers, "
        "or anonymous: true in the options of a public bucket.",
    ),
    _Meaning(
        re.compile("NoSuchBucket"),
        AccessError,
        "there is no bucket {bucket}",
        _NOTHING,
        "Check the name, the region and the endpoint, or make the bucket.",
    ),
    _Meaning(
        re.compile(
            "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|401 Unauthorized"
        ),
        AccessError,
        "{endpoint} does not accept the credentials ({code})",
        _NOTHING,
        "Correct the credentials in the environment of this process and of the workers.",
    ),
    _Meaning(
        re.compile("403 Forbidden"),
        PermissionMissingError,
        "permission is denied ({code})",
        _NOTHING + " Without the right to list, what is missing is forbidden too.",
        "Ask for permission to list and read there and, for an output, to write and delete; for a "
        "public bucket set anonymous: true in its options.",
    ),
    _Meaning(
        re.compile("configured region"),
        AccessError,
        "the bucket {bucket} is in another region",
        _NOTHING,
        "Set the region in its options, or AWS_REGION in the environment.",
    ),
    _Meaning(
        re.compile("error sending request"),
        RunFaultError,
        "nothing answers at {endpoint}",
        "What is done is kept.",
        "Check the endpoint and the network, and run the same command again.",
    ),
)
_OTHER: Final = _Meaning(
    re.compile(""),
    RunFaultError,
    "{said}",
    "What is done is kept.",
    "When the store answers again, run the same command again: it goes on from there.",
)


@contextmanager
def store_faults(address: Address, doing: str) -> Iterator[None]:
    """Turn what a store says into an error with its consequence and cure.

    An object that is missing, and a condition that was not met, are answers: only the caller knows
    what they mean.
    """
    try:
        yield
    except (StillstackError, MemoryError):
        raise
    except Exception as error:
        answers = isinstance(error, FileNotFoundError) or type(error).__name__ in _CONDITIONS
        if answers and "NoSuchBucket" not in str(error):
            raise
        raise _fault(address, doing, error) from None


def _fault(address: Address, doing: str, error: Exception) -> StillstackError:
    text = answer_in(error)
    meaning = next((m for m in _MEANINGS if m.signs.search(text)), _OTHER)
    reason = meaning.reason.format(
        bucket=address.bucket,
        endpoint=endpoint_of(address),
        code=_tag(text, "Code") or ("401" if "401" in text else "403"),
        said=f"{plain_reason(text)} ({type(error).__name__})",
    )
    what = f"{address} cannot {doing}: {reason}."
    return meaning.kind(what, consequence=meaning.consequence, cure=meaning.cure)


def answer_in(error: Exception) -> str:
    """Return what an error of the library says, without the dump of its insides."""
    return str(error).strip().partition("Debug source")[0]


def endpoint_of(address: Address) -> str:
    """Name the server that is asked for a place."""
    if address.scheme == "s3":
        given = str(dict(address.options).get("endpoint") or endpoint_of_environment())
        return given.rpartition("@")[2] or "the endpoint of AWS"
    return "Google Cloud Storage" if address.scheme == "gs" else address.bucket


def endpoint_of_environment() -> str:
    """S3 server that the environment names; empty for AWS."""
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")


def plain_reason(text: str) -> str:
    """First line of an error's text, or what the store's answer says, without any secret."""
    said = ": ".join(part for part in (_tag(text, "Code"), _tag(text, "Message")) if part)
    line = said or text.strip().partition("\n")[0].partition(", body:")[0]
    for name in _SECRETS:
        secret = os.environ.get(name)
        if secret:
            line = line.replace(secret, "***")
    return line[:300].rstrip(". ") or "no reason given"


def _tag(text: str, name: str) -> str:
    found = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return found[1] if found else ""
