import pytest
from running import build_small_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Real passages and pictures as shards."""
    return build_small_shards(tmp_path_factory.mktemp("shards"))
