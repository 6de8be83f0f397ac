# SPDX-License-Identifier: Apache-2.0
"""The certificates of the lab's Octavia, made inside the lab.

As Octavia's guide asks (doc/source/admin/guides/certificates.rst, dual CA): the server CA signs
each amphora's certificate, the client CA signs the one that controllers show to amphorae. And one
for users: there is no Barbican, so the certificate of TERMINATED_HTTPS listeners is a file that
Octavia's local certificate manager reads by its name.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = datetime.timedelta(days=365)


def make(folder: Path, passphrase: str) -> None:
    """Write server_ca.{cert,key}.pem (key encrypted), client_ca.cert.pem and
    client.cert-and-key.pem."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    server_key, server_ca = _authority("lab amphora server CA")
    client_key, client_ca = _authority("lab controller client CA")
    key, certificate = _client(client_key, client_ca)
    encrypted = serialization.BestAvailableEncryption(passphrase.encode())
    _write(folder / "server_ca.cert.pem", _pem(server_ca))
    _write(folder / "server_ca.key.pem", _key_pem(server_key, encrypted))
    _write(folder / "client_ca.cert.pem", _pem(client_ca))
    plain = serialization.NoEncryption()
    _write(folder / "client.cert-and-key.pem", _pem(certificate) + _key_pem(key, plain))


def make_web(folder: Path, name: str) -> None:
    """Write NAME.crt and NAME.key, where Octavia's local certificate manager looks for NAME."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = _key()
    subject = "sriov-lb-lab.test"
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        _builder(subject, _name(subject), key)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
        .add_extension(usage, critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(folder / f"{name}.crt", _pem(certificate))
    _write(folder / f"{name}.key", _key_pem(key, serialization.NoEncryption()))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: str, issuer: x509.Name, key: rsa.RSAPrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An hour's slack: guests of a machine whose clock was just set back must not refuse it.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _VALID)
    )


def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _authority(common: str) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    key = _key()
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(common, _name(common), key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _client(
    ca_key: rsa.RSAPrivateKey, ca: x509.Certificate
) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    key = _key()
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        _builder("octavia controller", ca.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return key, certificate


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: rsa.RSAPrivateKey, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
