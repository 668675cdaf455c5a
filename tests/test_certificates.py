"""TLS files of a cluster: what is in them, who may read them, and that nothing is overwritten."""

import ssl
import stat

import pytest
from cryptography import x509

from flows.certificates import make_certificates
from tests.projects import command


def test_the_certificate_is_of_the_authority_and_for_the_hosts(tmp_path):
    authority, certificate, key = make_certificates(tmp_path / "tls", ["head", "10.0.0.7"], days=30)

    made = x509.load_pem_x509_certificate(certificate.read_bytes())
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.read_bytes()))
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["head"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]
    assert 29 <= (made.not_valid_after_utc - made.not_valid_before_utc).days <= 31
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(certificate, key)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (authority, certificate, key)} == {0o600}
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700


def test_the_command_makes_them_once(tmp_path):
    made = command(tmp_path, "certificates", "tls", "--host", "head")
    again = command(tmp_path, "certificates", "tls")

    assert made.stdout.split() == ["tls/ca.pem", "tls/cert.pem", "tls/key.pem"]
    assert again.returncode == 2
    assert "ca.pem is there already" in " ".join(again.stderr.split())


def test_a_key_of_other_files_is_not_taken(tmp_path):
    _, certificate, _ = make_certificates(tmp_path / "a", ["head"])
    _, _, key = make_certificates(tmp_path / "b", ["head"])

    with pytest.raises(ssl.SSLError):
        ssl.create_default_context().load_cert_chain(certificate, key)
