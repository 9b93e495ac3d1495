"""The cluster's authority, its leaf certificates and kubeconfigs, new at every `up`.

One authority for servers and clients, one for the front proxy. Elliptic keys, except for service account tokens, whose
RS256 signatures every client understands.
"""

import base64
import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)
SKEW = datetime.timedelta(hours=1)
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
PRIVATE = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

# user name in a kubeconfig -> (common name, organization)
USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", None),
    "scheduler": ("system:kube-scheduler", None),
    "proxy": ("system:kube-proxy", None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A self-signed certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def write(folder: Path, *, node: str, node_address: str, service_address: str, api_url: str) -> None:
    """Write every certificate, key and kubeconfig of the components (at api_url), readable by root alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = _authority("bowsprit-cluster")
    front = _authority("bowsprit-front-proxy")
    _save_certificate(folder / "ca.crt", authority.certificate)
    _save_key(folder / "ca.key", authority.key)
    _save_certificate(folder / "front-proxy-ca.crt", front.certificate)
    service = ["kubernetes", "default", "svc", "cluster", "local"]
    names = [".".join(service[:count]) for count in (1, 2, 3, 5)]
    hosts = [*names, "localhost", "127.0.0.1", node_address, service_address]
    _leaf(folder, "apiserver", authority, common_name="kube-apiserver", usage=SERVER, hosts=hosts)
    _leaf(folder, "kubelet-server", authority, common_name=node, usage=SERVER, hosts=[node, "127.0.0.1", node_address])
    _leaf(folder, "front-proxy", front, common_name="front-proxy-client", usage=CLIENT)
    _leaf(
        folder,
        "apiserver-kubelet",
        authority,
        common_name="apiserver-kubelet",
        organization="system:masters",
        usage=CLIENT,
    )
    for user, (common_name, organization) in {**USERS, "kubelet": (f"system:node:{node}", "system:nodes")}.items():
        _leaf(folder, user, authority, common_name=common_name, organization=organization, usage=CLIENT)
        write_kubeconfig(folder / f"{user}.kubeconfig", folder, user=user, api_url=api_url)
    tokens = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    _save_key(folder / "service-account.key", tokens)
    public = tokens.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "service-account.pub").write_bytes(public)


def write_kubeconfig(path: Path, folder: Path, *, user: str, api_url: str, context: str = "bowsprit") -> None:
    """A kubeconfig with everything inline, so that it can be copied and mounted."""

    def inline(name: str) -> str:
        return base64.b64encode((folder / name).read_bytes()).decode()

    cluster = {"server": api_url, "certificate-authority-data": inline("ca.crt")}
    credentials = {"client-certificate-data": inline(f"{user}.crt"), "client-key-data": inline(f"{user}.key")}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{"name": context, "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def _authority(common_name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name, None)
    certificate = (
        _builder(name, issuer=name, key=key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate=certificate, key=key)


def _leaf(
    folder: Path,
    file: str,
    authority: Authority,
    *,
    common_name: str,
    usage: x509.ObjectIdentifier,
    organization: str | None = None,
    hosts: list[str] | None = None,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(common_name, organization), issuer=authority.certificate.subject, key=key)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(is_authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    _save_certificate(folder / f"{file}.crt", builder.sign(authority.key, hashes.SHA256()))
    _save_key(folder / f"{file}.key", key)


def _builder(subject: x509.Name, *, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + LIFETIME)
    )


def _name(common_name: str, organization: str | None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization is not None:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _save_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _save_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(*PRIVATE))
