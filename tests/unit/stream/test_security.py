"""A scheduler behind TLS, with a certificate authority made here: by ``scheduler = "tls://..."``,
with certificates from Dask's own configuration, and for nobody without one."""

from __future__ import annotations

import datetime
import ipaddress

import dask
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import LocalCluster
from distributed.security import Security

from mrscale.errors import EngineError
from mrscale.stream.engine import engine
from mrscale.stream.reduce import map_blocks

PLAIN = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()


def certified(folder, name, issuer=None):
    """Write a key and a certificate, of an authority of its own or signed by another's."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    own_key, own_name = issuer or (key, subject)
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(own_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(loopback, critical=False)
        .sign(own_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    (folder / f"{name}-key.pem").write_bytes(key.private_bytes(pem, *PLAIN))
    return key, subject


def tls(folder, authority, name):
    """Dask's configuration of a process with a certificate."""
    own = {"key": str(folder / f"{name}-key.pem"), "cert": str(folder / f"{name}.pem")}
    roles = {f"distributed.comm.tls.{role}": own for role in ("client", "scheduler", "worker")}
    return roles | {"distributed.comm.tls.ca-file": str(folder / f"{authority}.pem")}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    ours = certified(folder, "authority")
    certified(folder, "member", ours)
    theirs = certified(folder, "stranger-authority")
    certified(folder, "stranger", theirs)
    return folder


@pytest.fixture
def scheduler(certificates):
    with (
        dask.config.set(tls(certificates, "authority", "member")),
        LocalCluster(
            n_workers=1,
            processes=False,
            protocol="tls://",
            host="127.0.0.1",
            dashboard_address=None,
            security=Security(require_encryption=True),
        ) as cluster,
    ):
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        yield address


def test_a_client_with_a_certificate_works_by_the_address_alone(certificates, scheduler):
    with (
        dask.config.set(tls(certificates, "authority", "member")),
        engine(scheduler) as client,
    ):
        assert client.submit(sum, [1, 2]).result() == 3
        found = []
        map_blocks(client, [slice(0, 2), slice(2, 3)], found.append)


STRANGERS = {
    "without a certificate": {},
    "of another authority": ("stranger-authority", "stranger"),
    "who knows the authority": ("authority", "stranger"),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_others_are_refused(certificates, scheduler, who, monkeypatch):
    monkeypatch.setattr("mrscale.stream.engine.CONNECT_SECONDS", 3)
    nothing = {"distributed.comm.tls.ca-file": None}
    nothing |= {f"distributed.comm.tls.client.{part}": None for part in ("key", "cert")}
    settings = tls(certificates, *STRANGERS[who]) if STRANGERS[who] else nothing
    with (
        dask.config.set(settings),
        pytest.raises(EngineError, match=r"asks for certificates, and|refused this certificate"),
        engine(scheduler),
    ):
        pass


def test_a_client_that_does_not_encrypt_is_refused(certificates, scheduler, monkeypatch):
    monkeypatch.setattr("mrscale.stream.engine.CONNECT_SECONDS", 3)
    with (
        pytest.raises(EngineError, match="no Dask scheduler answered"),
        engine(scheduler.replace("tls://", "tcp://")),
    ):
        pass
