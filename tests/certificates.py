# SPDX-License-Identifier: Apache-2.0
"""Certificate authorities and certificates that are made for a test."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key as PEM files."""

    certificate_path: Path
    key_path: Path

    @property
    def certificate(self) -> bytes:
        return self.certificate_path.read_bytes()

    @property
    def key(self) -> bytes:
        return self.key_path.read_bytes()


class Authority:
    """A certificate authority in a folder; every name that it is asked for becomes a pair of files."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = self._builder(self._name, self._key.public_key()).add_extension(usage, critical=True)
        certificate = builder.add_extension(x509.BasicConstraints(True, None), critical=True).sign(
            self._key, hashes.SHA256()
        )
        self.certificate_path = folder / "ca.pem"
        self.certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def certificate(self) -> bytes:
        """What trusts everything that this authority issued."""
        return self.certificate_path.read_bytes()

    def issue(self, common_name: str, *, uri: str = "", has_common_name: bool = True) -> KeyPair:
        """A certificate for localhost, for servers and clients alike; without the name in it only the files have it."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if has_common_name else [])
        names: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        if uri:
            names.append(x509.UniformResourceIdentifier(uri))
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(purposes, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pair = KeyPair(self._folder / f"{common_name}.pem", self._folder / f"{common_name}.key")
        pair.certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )
