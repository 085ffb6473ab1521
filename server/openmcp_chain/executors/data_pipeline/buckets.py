"""`s3://`: objects in the allowed buckets, through obstore.

An artifact is put in one request of known length: S3 shows it whole or not at all, and no half-done multipart upload
can be left to be paid for.
"""

import asyncio
import hashlib
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import S3Store

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.data_pipeline.limits import Limits
from openmcp_chain.executors.data_pipeline.policy import Access
from openmcp_chain.executors.data_pipeline.uris import Uri


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """Where S3 is and as whom to speak to it: one account for the worker; the policy parts it among workspaces."""

    endpoint: str | None = None
    """The URL of an S3-speaking server; None is Amazon's."""
    region: str = "us-east-1"
    access_key_id: str | None = None
    """None leaves it to the machine's role (container or instance metadata)."""
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "S3Settings":
        """From the variables that Amazon's own tools read."""
        return cls(
            endpoint=environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL"),
            region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1",
            access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
            secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
            session_token=environment.get("AWS_SESSION_TOKEN"),
        )


class Buckets:
    """Reads and writes objects."""

    def __init__(self, settings: S3Settings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits

    async def fetch(self, uri: Uri, access: Access, target: pathlib.Path) -> None:
        """Copies the object to `target`.

        Raises:
            Refused: ACCESS_DENIED, INPUT_NOT_FOUND, INPUT_TOO_LARGE, INPUT_UNAVAILABLE.
        """
        store = self._store(uri, access)
        limit = self._limits.input_bytes
        try:
            async with asyncio.timeout(self._limits.transfer_seconds):
                found = await obstore.get_async(store, uri.path)
                if found.meta["size"] > limit:
                    raise Refused(Code.INPUT_TOO_LARGE, f"{uri}: has more than {limit} bytes")
                with target.open("wb") as copy:
                    async for chunk in found.stream():
                        copy.write(chunk)
        except TimeoutError:
            late = f"{uri}: took longer than {self._limits.transfer_seconds:g} s"
            raise Refused(Code.INPUT_UNAVAILABLE, late, retryable=True) from None
        except (FileNotFoundError, exceptions.NotFoundError):
            raise Refused(Code.INPUT_NOT_FOUND, f"{uri}: there is no such object or bucket") from None
        except (PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
            raise Refused(Code.ACCESS_DENIED, f"{uri}: the store refuses the worker") from None
        except (OSError, exceptions.BaseError):
            # Their text has the endpoint's address and the whole response.
            raise Refused(Code.INPUT_UNAVAILABLE, f"{uri}: the store does not deliver it", retryable=True) from None

    async def publish(self, artifact: pathlib.Path, uri: Uri, access: Access, *, replace: bool) -> str | None:
        """Puts the artifact at its final key, whole or not at all.

        Returns:
            Its SHA-256, in hexadecimal. None only if not `replace`, and something else was there.

        Raises:
            Refused: ACCESS_DENIED, OUTPUT_FAILED.
        """
        store = self._store(uri, access)
        body, digest = await asyncio.to_thread(_read, artifact)
        try:
            async with asyncio.timeout(self._limits.transfer_seconds):
                try:
                    await obstore.put_async(
                        store, uri.path, body, mode="overwrite" if replace else "create", use_multipart=False
                    )
                except exceptions.AlreadyExistsError:
                    return digest if await _digest(store, uri.path, len(body)) == digest else None
        except TimeoutError:
            late = f"{uri}: took longer than {self._limits.transfer_seconds:g} s"
            raise Refused(Code.OUTPUT_FAILED, late, retryable=True) from None
        except (FileNotFoundError, exceptions.NotFoundError):
            raise Refused(Code.OUTPUT_FAILED, f"{uri}: there is no such bucket") from None
        except (PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
            raise Refused(Code.ACCESS_DENIED, f"{uri}: the store refuses the worker") from None
        except (OSError, exceptions.BaseError):
            raise Refused(Code.OUTPUT_FAILED, f"{uri}: the store does not take it", retryable=True) from None
        return digest

    def _store(self, uri: Uri, access: Access) -> S3Store:
        if not access.allows_object(uri):
            raise Refused(Code.ACCESS_DENIED, f"{uri}: this workspace may not touch it")
        settings = self._settings
        chosen: dict[str, Any] = {
            "endpoint": settings.endpoint,
            "access_key_id": settings.access_key_id,
            "secret_access_key": settings.secret_access_key,
            "session_token": settings.session_token,
        }
        return S3Store(
            uri.authority,
            region=settings.region,
            checksum_algorithm="SHA256",  # the store checks what it got
            virtual_hosted_style_request=settings.endpoint is None,
            client_options={"allow_http": (settings.endpoint or "").startswith("http://")},
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=30)},
            **{name: value for name, value in chosen.items() if value is not None},
        )


def _read(artifact: pathlib.Path) -> tuple[bytes, str]:
    body = artifact.read_bytes()
    return body, hashlib.sha256(body).hexdigest()


async def _digest(store: S3Store, key: str, size: int) -> str | None:
    """The SHA-256 of the object there, if it is of this size."""
    there = await obstore.get_async(store, key)
    if there.meta["size"] != size:
        return None
    digest = hashlib.sha256()
    async for chunk in there.stream():
        digest.update(chunk)
    return digest.hexdigest()
