import pytest
from running import build_small_shards, mmpt, write_recipe


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Real samples as shards."""
    return build_small_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def run(tmp_path_factory, shards):
    """A finished run of one process."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder, shards)
    done = mmpt("pretrain", recipe, "--out", folder / "run", afresh=True)
    assert done.returncode == 0, done.stderr
    return folder / "run", recipe, done
