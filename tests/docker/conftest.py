"""These tests are for images that `make test-docker` has just built."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def built():
    """Skip all tests here where nobody has built the images."""
    if not os.environ.get("EDGE_TEST_IMAGES"):
        pytest.skip("needs a Docker engine and fresh images: make test-docker")
