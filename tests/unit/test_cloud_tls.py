"""The way to the cloud server by TLS, with certificates of both sides, and what is said where one of them is wrong."""

import subprocess

import numpy as np
import pytest

from components.core.errors import InputError
from components.core.job.job import Job
from components.core.stores.connections import Tls
from components.core.wire import JPEG, encode_image
from components.serving.cloud_client import CloudClient, CloudError
from tests import cloud
from tests.edge import deploy

IMAGE = encode_image(np.zeros((64, 96, 3), np.uint8), 90)


def certificate(folder, name, subject="/CN=localhost"):
    """A certificate that signs itself, and its key."""
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", subject]
    made += ["-addext", "subjectAltName=DNS:localhost", "-out", paths[0], "-keyout", paths[1]]
    subprocess.run(made, check=True, capture_output=True)
    return paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def theirs(folder):
    return certificate(folder, "server")


@pytest.fixture(scope="module")
def ours(folder):
    return certificate(folder, "worker", "/CN=edge-1")


@pytest.fixture(scope="module")
def server(tmp_path_factory, theirs, ours):
    """A server that asks its clients for a certificate."""
    work = tmp_path_factory.mktemp("server")
    job = Job.open(str(work / "job"))
    deploy(job, "v1", work / "bundle")
    chosen = cloud.options(work, tls_cert=theirs[0], tls_key=theirs[1], tls_client_ca=ours[0])
    with cloud.serving(chosen) as server:
        yield server


def ask(server, **tls):
    client = CloudClient(f"https://localhost:{server.port}", "", 10.0, tls=Tls(**tls))
    return client.ask(IMAGE, JPEG, 96, 64, ("red", "blue"))


def test_a_worker_with_its_certificate_is_answered(server, theirs, ours):
    answer = ask(server, ca=theirs[0], certificate=ours[0], key=ours[1])
    assert answer.model == "v1"
    assert answer.detections(("red", "blue")).boxes.shape == (0, 4)


def test_a_worker_without_one_or_with_another_is_not(server, theirs, folder):
    stranger = certificate(folder, "stranger", "/CN=stranger")
    for given in ({}, {"certificate": stranger[0], "key": stranger[1]}):
        with pytest.raises(CloudError, match="it may ask for a client certificate: give --cloud-cert and --cloud-key"):
            ask(server, ca=theirs[0], **given)


def test_a_server_that_is_not_trusted_is_not_sent_anything(server, ours):
    with pytest.raises(CloudError, match="set --cloud-ca to the PEM file of its certificate authority"):
        ask(server, ca=ours[0], certificate=ours[0], key=ours[1])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("worker.pem", "worker.pem", None), "needs both: the certificate and its key"),
        ((None, "worker.pem", "nothing.key"), "nothing.key: no such file"),
        ((None, "worker.pem", "server.key"), "cannot be used .*; give PEM files, a key without a password"),
        (("worker.key", None, None), "worker.key: cannot be used"),
    ],
)
def test_certificates_that_cannot_be(folder, theirs, ours, names, said):
    with pytest.raises(InputError, match=said):
        Tls(*(name and folder / name for name in names))


def test_certificates_without_tls(ours):
    with pytest.raises(InputError, match="certificates need TLS: give https://HOST:PORT"):
        CloudClient("http://localhost", "", 1.0, tls=Tls(certificate=ours[0], key=ours[1]))
