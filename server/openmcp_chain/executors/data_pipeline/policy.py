"""What each workspace may touch: an allow-list, written by the operator in TOML.

Without a file, a workspace may read public `https://` hosts and nothing else. An example:

    [default]                                # for every workspace, key by key, unless it says otherwise
    files = ["/srv/openmcp/{workspace}"]     # folders, with all below them, to read and write
    buckets = ["openmcp/{workspace}/"]       # a bucket, or a bucket and the beginning of the keys
    http_hosts = ["*"]                       # names, or *.name for all below it; "*" is every host
    http_allow_plain = false                 # whether http:// will do, or only https://
    http_allow_private = []                  # addresses, networks or host names, though they are not public

    [workspaces."ws-demo"]
    files = ["/srv/openmcp/ws-demo", "/srv/shared"]
    http_hosts = ["data.example.com", "*.example.org"]
    http_allow_private = ["10.20.0.0/16", "warehouse.internal"]
"""

import ipaddress
import pathlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openmcp_chain.domain import ids
from openmcp_chain.executors.data_pipeline import addresses
from openmcp_chain.executors.data_pipeline.addresses import Address, Network
from openmcp_chain.executors.data_pipeline.uris import Uri

_KEYS = ("files", "buckets", "http_hosts", "http_allow_plain", "http_allow_private")
_DEFAULT: Mapping[str, Any] = {
    "files": [],
    "buckets": [],
    "http_hosts": ["*"],
    "http_allow_plain": False,
    "http_allow_private": [],
}


class PolicyError(ValueError):
    """The policy file is wrong; the message names the file's key and says what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What one workspace may touch."""

    files: tuple[pathlib.PurePosixPath, ...]
    buckets: tuple[tuple[str, str], ...]
    """(bucket, beginning of the key)."""
    http_hosts: tuple[str, ...]
    http_allow_plain: bool
    private_networks: tuple[Network, ...]
    private_hosts: tuple[str, ...]

    def folder_of(self, uri: Uri) -> pathlib.PurePosixPath | None:
        """The allowed folder that the file is in, the innermost if there are several."""
        path = pathlib.PurePosixPath(uri.path)
        around = [folder for folder in self.files if path != folder and path.is_relative_to(folder)]
        return max(around, key=lambda folder: len(folder.parts), default=None)

    def allows_object(self, uri: Uri) -> bool:
        return any(uri.authority == bucket and uri.path.startswith(prefix) for bucket, prefix in self.buckets)

    def allows_host(self, host: str) -> bool:
        return any(_matches(host, pattern) for pattern in self.http_hosts)

    def allows_address(self, host: str, address: Address) -> bool:
        """Whether a connection to `address` may be made in the name of `host`."""
        if any(address in network for network in self.private_networks):
            return True
        if any(_matches(host, pattern) for pattern in self.private_hosts):
            return True
        return addresses.is_public(address) and not addresses.is_own(address)


class Policy:
    """The allow-list of all workspaces."""

    def __init__(self, default: Mapping[str, Any], workspaces: Mapping[str, Mapping[str, Any]]) -> None:
        self._default = {**_DEFAULT, **default}
        self._workspaces = workspaces
        for name in workspaces:
            self.access(name)
        _access(self._default, "default", "any")

    @classmethod
    def load(cls, path: pathlib.Path) -> "Policy":
        """Reads the file.

        Raises:
            PolicyError: It can't be read, or a key in it is wrong.
        """
        try:
            return cls.parse(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PolicyError(f"{path}: {error.strerror}") from None
        except (PolicyError, UnicodeDecodeError) as error:
            raise PolicyError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Reads TOML, as in the module's example.

        Raises:
            PolicyError: A key in it is wrong.
        """
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PolicyError(str(error)) from None
        for key in tree:
            if key not in ("default", "workspaces"):
                raise PolicyError(f"{key}: is not a key; only default and workspaces are")
        workspaces = tree.get("workspaces", {})
        if not isinstance(workspaces, dict):
            raise PolicyError("workspaces: must be a table")
        tables = {"default": tree.get("default", {})} | {f'workspaces."{name}"': t for name, t in workspaces.items()}
        for where, table in tables.items():
            if not isinstance(table, dict):
                raise PolicyError(f"{where}: must be a table")
            for key in table:
                if key not in _KEYS:
                    raise PolicyError(f"{where}.{key}: is not a key; only {', '.join(_KEYS)} are")
        for name in workspaces:
            if not ids.is_workspace_id(name):
                raise PolicyError(f'workspaces."{name}": is not a workspace id')
        return cls(tables["default"], workspaces)

    def access(self, workspace_id: str) -> Access:
        """What the workspace may touch."""
        own = self._workspaces.get(workspace_id)
        if own is None:
            return _access(self._default, "default", workspace_id)
        return _access({**self._default, **own}, f'workspaces."{workspace_id}"', workspace_id)


def _access(table: Mapping[str, Any], where: str, workspace_id: str) -> Access:
    def texts(key: str) -> list[str]:
        value = table[key]
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise PolicyError(f"{where}.{key}: must be a list of texts")
        return [item.replace("{workspace}", workspace_id) for item in value]

    plain = table["http_allow_plain"]
    if not isinstance(plain, bool):
        raise PolicyError(f"{where}.http_allow_plain: must be true or false")
    files = tuple(pathlib.PurePosixPath(item) for item in texts("files"))
    for folder in files:
        if not folder.is_absolute() or ".." in folder.parts:
            raise PolicyError(f"{where}.files: `{folder}` must be an absolute path without `..`")
    networks: list[Network] = []
    hosts: list[str] = []
    for item in texts("http_allow_private"):
        try:
            networks.append(ipaddress.ip_network(item))
        except ValueError as error:
            if "/" in item:
                raise PolicyError(f"{where}.http_allow_private: `{item}`: {error}") from None
            hosts.append(item.lower())
    return Access(
        files=files,
        buckets=tuple((bucket, prefix) for bucket, _, prefix in (item.partition("/") for item in texts("buckets"))),
        http_hosts=tuple(item.lower() for item in texts("http_hosts")),
        http_allow_plain=plain,
        private_networks=tuple(networks),
        private_hosts=tuple(hosts),
    )


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return pattern in ("*", host)
