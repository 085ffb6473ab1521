"""What clients of plain HTTP are given for TLS."""

import ssl

NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody. Without it, each of httpx's clients reads whom the world trusts: 50 ms, for nothing."""
