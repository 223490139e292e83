"""Certificates for tests: an authority, a server and a client of it, and an authority that nobody trusts."""

from types import SimpleNamespace

import trustme


def make_certificates(directory):
    """Files with PEM, by what they are for; each key is a file of its own."""
    trusted, other = trustme.CA(), trustme.CA()
    files = SimpleNamespace(ca=directory / "ca.pem", other_ca=directory / "other-ca.pem")
    trusted.cert_pem.write_to_path(files.ca)
    other.cert_pem.write_to_path(files.other_ca)
    issued = {
        "server": trusted.issue_cert("localhost", "127.0.0.1"),
        "client": trusted.issue_cert("client.example"),
        "stranger": other.issue_cert("client.example"),
    }
    for name, certificate in issued.items():
        chain, key = directory / f"{name}.pem", directory / f"{name}.key"
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(chain, append=number > 0)
        certificate.private_key_pem.write_to_path(key)
        setattr(files, f"{name}_cert", chain)
        setattr(files, f"{name}_key", key)
    return files
