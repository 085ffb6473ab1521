"""The deployment's master key: without it, the database gives away no secret and signs no token."""

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_NONCE_BYTES = 12


class MasterKey:
    """32 random bytes that every server process of a deployment shares. Never logged, never stored in the database."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the master key must have {KEY_BYTES} bytes, not {len(key)}")
        self.pepper = self._derive(key, b"workspace secrets")
        """For the digests of workspace secrets."""
        self._aead = AESGCM(self._derive(key, b"signing keys"))

    @classmethod
    def decode(cls, text: str) -> "MasterKey":
        """From base64, as it stands in a file or variable. Raises ValueError, which does not repeat the text."""
        try:
            return cls(base64.b64decode(text.strip(), validate=True))
        except binascii.Error:
            raise ValueError(f"the master key must be {KEY_BYTES} bytes in base64") from None

    @staticmethod
    def generate() -> str:
        """A new one, in base64."""
        return base64.b64encode(os.urandom(KEY_BYTES)).decode()

    def seal(self, plain: bytes, label: str) -> bytes:
        """Encrypts (AES-256-GCM); `label` says what it is and must be given again to open it."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, label.encode())

    def open(self, sealed: bytes, label: str) -> bytes:
        """Decrypts. Raises ValueError if it was sealed under another master key or label."""
        try:
            return self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], label.encode())
        except InvalidTag:
            raise ValueError("sealed under another master key; is OPENMCP_MASTER_KEY that of this database?") from None

    @staticmethod
    def _derive(key: bytes, purpose: bytes) -> bytes:
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=b"openmcp.chain/" + purpose).derive(key)
