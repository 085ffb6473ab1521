"""TLS by hand: a client that speaks old versions only, which Python's own no longer does."""


def client_hello(version: bytes) -> bytes:
    """A TLS client's first message (RFC 5246, 7.4.1.2), for this version at most."""
    suites = bytes.fromhex("c02bc02fc009c013c00ac014002f0035")
    extensions = bytes.fromhex(
        "000a000400020017"  # P-256
        "000b00020100"  # its points not compressed
        "000d000a00080403050304010201"  # ECDSA and RSA with SHA-2, and RSA with SHA-1
        "00100005000302" + b"h2".hex()  # ALPN
    )
    body = version + bytes(32) + b"\0" + len(suites).to_bytes(2, "big") + suites + b"\x01\0"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message
