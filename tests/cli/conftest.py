from tests.training.serving import one_fork_server  # noqa: F401  # a fixture
