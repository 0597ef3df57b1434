"""Clients of object stores and web servers: how they are made, and how patient they are.

obstore retries requests that are throttled or whose connection drops, with back-off. What it does
not repeat, an answer that breaks off while a list is read, is asked for again here.
"""

from __future__ import annotations

import asyncio
import configparser
import functools
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from stillstack.address import Address
from stillstack.errors import InputError, MissingExtraError
from stillstack.storage.store_faults import (
    PermissionMissingError,
    answer_in,
    endpoint_of_environment,
    store_faults,
)

if TYPE_CHECKING:
    from obstore.store import GCSStore, HTTPStore, S3Store

    Client = S3Store | GCSStore | HTTPStore

PATIENT: Final = {"max_retries": 12, "retry_timeout": timedelta(minutes=4)}
BRIEF: Final = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}
_TIMEOUTS: Final = {"connect_timeout": "10s", "timeout": "60s"}
_BRIEF_TIMEOUTS: Final = {"connect_timeout": "3s", "timeout": "20s"}
_TRIES: Final = 5
_AGAIN_WITHIN_SECONDS: Final = 60.0
_BROKEN_OFF: Final = "response body error"
_S3_KEYS: Final = {
    "endpoint": "endpoint",
    "region": "region",
    "anonymous": "skip_signature",
    "requester_pays": "request_payer",
    "virtual_hosted": "virtual_hosted_style_request",
}
_GIVEN_CREDENTIALS: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)

Answer = TypeVar("Answer")


def client(address: Address, *, patient: bool = True) -> Client:
    """Client of a place, one for each process and place: its connections are shared.

    Parameters
    ----------
    address
        The place; keys are relative to it.
    patient
        Retry for minutes. Else for seconds: to find out before a run whether it can be reached.

    Raises
    ------
    MissingExtraError
        obstore is not installed.
    InputError
        The place, or what the environment says of it, makes no sense to the library.
    """
    # made anew in a process that was forked, and where credentials have changed
    return _client(address, patient, os.getpid(), _environment())


@functools.lru_cache(maxsize=16)
def _client(address: Address, patient: bool, _process: int, _environment: int) -> Client:
    try:
        from obstore.store import GCSStore, HTTPStore, S3Store
    except ImportError as error:
        raise MissingExtraError("obstore", "cloud", f"The place {address}") from error
    options = dict(address.options)
    common: dict[str, Any] = {
        "retry_config": PATIENT if patient else BRIEF,
        "client_options": {**(_TIMEOUTS if patient else _BRIEF_TIMEOUTS)},
    }
    prefix = address.prefix or None
    with store_faults(address, "be opened"):
        if address.scheme == "s3":
            endpoint = str(options.get("endpoint") or endpoint_of_environment())
            common["client_options"]["allow_http"] = endpoint.startswith("http://")
            config = {_S3_KEYS[key]: options[key] for key in _S3_KEYS if key in options}
            if endpoint:
                config["endpoint"] = endpoint
            provider = _shared_credentials(options)
            if provider is not None:
                common["credential_provider"] = provider
            return S3Store(address.bucket, prefix=prefix, config=config, **common)  # type: ignore[arg-type]
        if address.scheme == "gs":
            config = {"skip_signature": True} if options.get("anonymous") else {}
            return GCSStore(address.bucket, prefix=prefix, config=config, **common)  # type: ignore[arg-type]
        common["client_options"]["allow_http"] = address.scheme == "http"
        return HTTPStore(address.url, **common)


def _environment() -> int:
    """Hash of what the library reads from the environment, so that nothing secret is kept here."""
    read = ("AWS_", "GOOGLE_")
    return hash(tuple(sorted(item for item in os.environ.items() if item[0].startswith(read))))


def _shared_credentials(options: dict[str, Any]) -> Any:
    """Return what gets credentials from ``~/.aws``; None where the environment has them, or none.

    The files are read by boto3, which knows profiles, roles and single sign-on.
    """
    profile = options.get("profile") or os.environ.get("AWS_PROFILE")
    given = any(os.environ.get(name) for name in _GIVEN_CREDENTIALS)
    if options.get("anonymous") or (given and not options.get("profile")):
        return None
    if not profile and not _has_default_profile():
        return None
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise MissingExtraError("boto3", "cloud", "Reading credentials from ~/.aws") from error
    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=profile))
    # whatever boto3 makes of files that are damaged or incomplete
    except Exception as error:  # noqa: BLE001
        raise InputError(
            f"The credentials of the profile {profile or 'default'} cannot be read: "
            f"{type(error).__name__}.",
            consequence="Nothing was started.",
            cure="Look at ~/.aws/config and ~/.aws/credentials, or log in (aws sso login).",
        ) from None


def _has_default_profile() -> bool:
    files = {"AWS_SHARED_CREDENTIALS_FILE": "credentials", "AWS_CONFIG_FILE": "config"}
    for variable, name in files.items():
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(os.environ.get(variable) or Path.home() / ".aws" / name)
        except (OSError, configparser.Error, RuntimeError):
            continue
        if parser.has_section("default"):
            return True
    return False


def again(ask: Callable[[], Answer]) -> Answer:
    """Return what a question gets, asked up to five times where the answer breaks off."""
    began = time.monotonic()
    for pause in _pauses():
        try:
            return ask()
        except Exception as error:
            if not _worth_asking(error, began):
                raise
            time.sleep(pause)
    return ask()


def _pauses() -> Iterator[float]:
    return (0.1 * 2**n * random.uniform(0.5, 1.5) for n in range(_TRIES - 1))  # noqa: S311  # jitter


def _worth_asking(error: Exception, began: float) -> bool:
    if type(error).__name__ != "GenericError" or time.monotonic() - began > _AGAIN_WITHIN_SECONDS:
        return False
    text = answer_in(error)
    # an answer that broke off is not asked for again by the library, whatever it retried before
    if _BROKEN_OFF in text:
        return True
    # the library has asked again in vain, or was told what is wrong
    return not re.search(r"after \d+ retries|status code: 4|configured region", text)


async def again_async(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """As `again`, in an event loop."""
    began = time.monotonic()
    for pause in _pauses():
        try:
            return await ask()
        except Exception as error:
            if not _worth_asking(error, began):
                raise
            await asyncio.sleep(pause)
    return await ask()


def listed_names(address: Address, prefix: str = "", *, patient: bool = True) -> tuple[str, ...]:
    """Names of objects and folders directly under a prefix, sorted."""
    store = client(address, patient=patient)
    folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    with store_faults(address, "be listed"):
        import obstore

        found = again(lambda: obstore.list_with_delimiter(store, prefix=folder or None))
    paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
    return tuple(sorted(str(path).strip("/").rpartition("/")[2] for path in paths))


@functools.lru_cache(maxsize=64)
def may_list(address: Address) -> bool:
    """Whether a place says what it holds: no web server does, and not every public bucket."""
    if not address.is_writable:
        return False
    try:
        listed_names(address)
    except PermissionMissingError:
        return False
    return True


def listed_sizes(address: Address, prefix: str = "") -> dict[str, int]:
    """Keys under a prefix, in order, and their sizes."""
    return {item["path"]: int(item["size"]) for item in listed(address, prefix)}


def listed(address: Address, prefix: str = "") -> list[Any]:
    """What the store says of all objects under a prefix, in the order of their keys."""
    store = client(address)
    folder = f"{prefix.strip('/')}/" if prefix.strip("/") else None
    with store_faults(address, "be listed"):
        import obstore

        found = again(lambda: obstore.list(store, prefix=folder).collect())
    return sorted(found, key=lambda item: str(item["path"]))


def check_reachable(address: Address, *, writing: bool) -> None:
    """Raise unless a place answers within seconds: before anything is started.

    Parameters
    ----------
    address
        The place.
    writing
        Whether it is an output, which has to be listed. What a public source holds may be read
        without that right.

    Raises
    ------
    InputError
        There are no credentials, no permission or no bucket, or it can only be read.
    RunFaultError
        Nothing answers.
    """
    if writing and not address.is_writable:
        raise InputError(
            f"{address} can only be read.",
            consequence="The run was not started.",
            cure="Choose an output in an object store (s3://, gs://) or a folder.",
        )
    if writing:
        listed_names(address, patient=False)
        return
    with suppress(FileNotFoundError, PermissionMissingError), store_faults(address, "be read"):
        import obstore

        obstore.get(client(address, patient=False), "zarr.json")
