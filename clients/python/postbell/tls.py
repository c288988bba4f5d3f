"""TLS to the broker: whom we trust, what we show of ourselves, and the sentence for what went wrong."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from dataclasses import dataclass

from .errors import Invalid


@dataclass(frozen=True)
class Trust:
    """The certificates and keys that the broker is verified by, and that it verifies this agent by."""

    #: A PEM file of who must have issued the broker's certificate; the system's roots where nothing is given.
    ca: str | None = None
    #: The SHA-256 of the broker's certificate. Without a CA it is enough.
    pin: str | None = None
    client_cert: str | None = None
    client_key: str | None = None

    def __post_init__(self) -> None:
        if (self.client_cert is None) != (self.client_key is None):
            raise Invalid("a client's certificate and its key belong together: give both or neither")
        if self.pin is not None:
            fingerprint(self.pin)

    @property
    def is_given(self) -> bool:
        """Whether anything was."""
        return any((self.ca, self.pin, self.client_cert))

    def context(self) -> ssl.SSLContext:
        """Reads the files anew: those of a long-lived agent are renewed meanwhile."""
        try:
            # Loads the system's roots only where no CA is named.
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as fault:
            raise Invalid(f"the CA file {self.ca} cannot be used: {fault}") from fault
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.pin and not self.ca:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_cert and self.client_key:
            try:
                context.load_cert_chain(self.client_cert, self.client_key)
            except OSError as fault:
                raise Invalid(
                    f"the client's certificate {self.client_cert} with the key {self.client_key} cannot be used: {fault}"
                ) from fault
        return context

    def fault_of(self, certificate: bytes | None) -> str | None:
        """Why the broker's certificate, as DER, is not the pinned one."""
        if self.pin is None:
            return None
        shown = hashlib.sha256(certificate or b"").digest()
        if hmac.compare_digest(shown, fingerprint(self.pin)):
            return None
        return (
            f"its certificate has the fingerprint {shown.hex(':').upper()}, which is not the pinned one. Where it was "
            "renewed, pin the new one that the broker logs; otherwise somebody sits in between"
        )


def fingerprint(text: str) -> bytes:
    """Takes hex as a broker logs it, and the whole line that ``openssl x509 -noout -fingerprint -sha256`` prints."""
    digits = text.rpartition("=")[2].strip().replace(":", "")
    if len(digits) != 64 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise Invalid(f"a fingerprint is a SHA-256, 64 hexadecimal digits with or without colons, not {text!r}")
    return bytes.fromhex(digits)


def sentence(fault: ssl.SSLError) -> str:
    """Says what happened and what to do."""
    if isinstance(fault, ssl.SSLCertVerificationError):
        return _unverified(fault)
    reason = (fault.reason or str(fault)).upper().replace(" ", "_")
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"):
        return (
            "it speaks no TLS there: set POSTBELL_TLS_CERT and POSTBELL_TLS_KEY on the broker, or connect by tcp:// "
            "where the connection does not leave this machine"
        )
    if "CERTIFICATE_REQUIRED" in reason:
        return (
            "it asks for a certificate of the client's: give one of its POSTBELL_TLS_CLIENT_CA, with its key "
            "(POSTBELL_CLIENT_CERT and POSTBELL_CLIENT_KEY, client_cert= and client_key=)"
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return f"it does not take the certificate of this client: {fault}"
    return str(fault)


def _unverified(fault: ssl.SSLCertVerificationError) -> str:
    message = fault.verify_message
    if "expired" in message or "not yet valid" in message:
        return "its certificate has expired or is not valid yet; check this machine's clock, then the broker's certificate"
    if "Hostname mismatch" in message or "IP address mismatch" in message or "not valid for" in message:
        return (
            "its certificate is made out to another host: connect by a name that is in it, or pin its fingerprint "
            "(POSTBELL_PIN, pin=)"
        )
    return (
        f"its certificate comes from an issuer that is not trusted here ({message}): give its CA (POSTBELL_CA, ca=) or "
        "pin the fingerprint that the broker logs (POSTBELL_PIN, pin=)"
    )
