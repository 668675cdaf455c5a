"""Certificates for a Dask cluster of one's own: an authority, and one certificate with its key for all machines.

Dask's TLS proves that both ends hold a certificate of this authority; who has the key may run code on the cluster.
"""

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import SpecError

__all__ = ["FILES", "make_certificates"]

FILES = ("ca.pem", "cert.pem", "key.pem")


def make_certificates(folder: Path, hosts: Sequence[str], *, days: int = 365) -> list[Path]:
    """Write ca.pem, cert.pem and key.pem (readable for this user alone) for these hosts; the authority's own key is not kept.

    Raises: SpecError if one of the files is there: the machines that use it would be cut off.
    """
    from cryptography import x509  # noqa: PLC0415 - 0.1 s
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: PLC0415

    paths = [folder / name for name in FILES]
    for path in paths:
        if path.exists():
            raise SpecError(
                f"{path} is there already, expected a folder without certificates; choose another, or remove it first"
            )
    now = dt.datetime.now(dt.UTC)
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("dlflow authority", "dlflow")
    ]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]

    def signed(place: int) -> bytes:
        made = (
            x509.CertificateBuilder()
            .subject_name(names[place])
            .issuer_name(names[0])
            .public_key(keys[place].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))  # clocks differ
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=place == 0, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(keys[place].public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False
            )
        )
        if place == 1:
            both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            made = made.add_extension(
                x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False
            )
            made = made.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        else:
            usage = x509.KeyUsage(
                digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
            )  # fmt: skip
            made = made.add_extension(usage, critical=True)
        return made.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    key = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path, content in zip(paths, (signed(0), signed(1), key), strict=True):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    return paths


def _name(host: str) -> Any:
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
