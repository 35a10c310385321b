"""What is checked before a release and in CI, by ``make release-check``: it takes a minute."""

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def only_when_asked() -> None:
    if not os.environ.get("ALLCNN_ZOO_TEST_RELEASE"):
        pytest.skip("ALLCNN_ZOO_TEST_RELEASE is not set: make release-check")
