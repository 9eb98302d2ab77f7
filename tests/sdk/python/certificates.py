"""Certificates of devices and CAs, made by openssl as an operator would."""

import hashlib
import ssl
import subprocess
import tempfile
from pathlib import Path


def _openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


class Certificate:
    """A certificate with its key and the certificates of its issuers, nearest first."""

    def __init__(self, folder, name, issuers=()):
        self.certificate_file = folder / f"{name}.pem"
        self.key_file = folder / f"{name}.key"
        self.issuers = list(issuers)

    @property
    def chain_file(self):
        """The certificate and its issuers but the root, as a device sends them."""
        chain = self.certificate_file.with_suffix(".chain.pem")
        sent = [self, *self.issuers[:-1]]
        chain.write_text("".join(one.certificate_file.read_text() for one in sent), encoding="ascii")
        return chain

    @property
    def der(self):
        return ssl.PEM_cert_to_DER_cert(self.certificate_file.read_text(encoding="ascii"))

    def thumbprint(self, digest="sha256"):
        return hashlib.new(digest, self.der).hexdigest()


class Workshop:
    """Makes certificates in a folder of its own."""

    def __init__(self, key=("ec", "-pkeyopt", "ec_paramgen_curve:P-256")):
        self._folder = tempfile.TemporaryDirectory(prefix="holdfast-certificates-")
        self.folder = Path(self._folder.name)
        self.key = key
        self._count = 0

    def _new(self, issuers=()):
        self._count += 1
        return Certificate(self.folder, f"certificate-{self._count}", issuers)

    def self_signed(self, common_name, days=30):
        made = self._new()
        _openssl("req", "-x509", "-newkey", *self.key, "-nodes", "-days", days, "-subj", f"/CN={common_name}",
                 "-keyout", made.key_file, "-out", made.certificate_file)
        return made

    def ca(self, common_name, issuer=None, days=30):
        extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        if issuer is not None:
            return self._issued(common_name, issuer, extensions, days)
        made = self._new()
        more = [part for extension in extensions for part in ("-addext", extension)]
        _openssl("req", "-x509", "-newkey", *self.key, "-nodes", "-days", days, "-subj", f"/CN={common_name}", *more,
                 "-keyout", made.key_file, "-out", made.certificate_file)
        return made

    def device(self, common_name, issuer, days=30):
        return self._issued(common_name, issuer, ["basicConstraints=CA:FALSE", "extendedKeyUsage=clientAuth"], days)

    def server(self, address, issuer):
        """For a server at an IP address."""
        return self._issued(address, issuer, ["basicConstraints=CA:FALSE", f"subjectAltName=IP:{address}"], 30)

    def crl(self, issuer, number, last="20200101000000Z", next_update="20900101000000Z"):
        """The file of a CRL without entries."""
        self._count += 1
        base = self.folder / f"crl-{self._count}"
        names = {part: base.with_suffix(f".{part}") for part in ("cnf", "txt", "number", "crl")}
        names["txt"].write_text("", encoding="ascii")
        names["number"].write_text(f"{number:04X}\n", encoding="ascii")
        lines = ["[ca]", "default_ca=d", "[d]", f"database={names['txt']}", f"crlnumber={names['number']}",
                 "default_md=sha256", "crl_extensions=e", "[e]", "authorityKeyIdentifier=keyid"]
        names["cnf"].write_text("\n".join(lines) + "\n", encoding="ascii")
        _openssl("ca", "-gencrl", "-config", names["cnf"], "-cert", issuer.certificate_file, "-keyfile", issuer.key_file,
                 "-crl_lastupdate", last, "-crl_nextupdate", next_update, "-out", names["crl"])
        return names["crl"]

    def _issued(self, common_name, issuer, extensions, days):
        made = self._new([issuer, *issuer.issuers])
        request = made.certificate_file.with_suffix(".csr")
        settings = made.certificate_file.with_suffix(".ext")
        settings.write_text("\n".join(extensions) + "\n", encoding="ascii")
        # A subject of openssl's command line ends a name at a slash, unless that is escaped.
        subject = "/CN=" + common_name.replace("/", "\\/")
        _openssl("req", "-new", "-newkey", *self.key, "-nodes", "-subj", subject, "-keyout", made.key_file, "-out", request)
        _openssl("x509", "-req", "-in", request, "-CA", issuer.certificate_file, "-CAkey", issuer.key_file,
                 "-CAcreateserial", "-days", days, "-extfile", settings, "-out", made.certificate_file)
        return made
