"""Certificates made for the tests: good ones, and each kind that is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(UTC)
_SIGNS = x509.KeyUsage(
    digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
    key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
    decipher_only=False,
)  # fmt: skip


class Authority:
    """A certificate authority; `of` makes one that another has signed."""

    def __init__(self, folder: Path, name: str, parent: Authority | None = None) -> None:
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.parent = parent
        self.certificate = self._sign(
            self.key.public_key(), name, parent or self, is_authority=True
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self, key: ec.EllipticCurvePublicKey, name: str, signer: Authority, *, is_authority: bool = False,
        names: tuple[str, ...] = (), begins: float = -1, ends: float = 60.5, of_client: bool = False,
    ) -> x509.Certificate:  # fmt: skip
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, signer.name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + timedelta(days=begins))
            .not_valid_after(NOW + timedelta(days=ends))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            # Python 3.13 and newer ask for these (RFC 5280 §4.2.1)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
                critical=False,
            )
        )
        if is_authority:
            builder = builder.add_extension(_SIGNS, critical=True)
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
            builder = builder.add_extension(alternatives, critical=False)
        if of_client:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(usage, critical=True)
        return builder.sign(signer.key, hashes.SHA256())

    def issue(
        self, *names: str, begins: float = -1, ends: float = 60.5, chain: bool = True,
        self_signed: bool = False, of_client: bool = False,
    ) -> tuple[Path, Path]:  # fmt: skip
        """Issue a certificate; return the files of the chain and of the key."""
        key = ec.generate_private_key(ec.SECP256R1())
        if self_signed:
            signer = Authority.__new__(Authority)
            signer.key, signer.name = key, names[0]
        else:
            signer = self
        leaf = self._sign(
            key.public_key(), names[0], signer,
            names=names, begins=begins, ends=ends, of_client=of_client,
        )  # fmt: skip
        certificates = [leaf]
        if chain and not self_signed and self.parent is not None:
            certificates.append(self.certificate)
        number = len(list(self.folder.iterdir()))
        chain_file, key_file = self.folder / f"{number}.crt", self.folder / f"{number}.key"
        chain_file.write_bytes(
            b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
        )
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return chain_file, key_file
