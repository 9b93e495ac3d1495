"""Fixtures every test may ask for; areas keep their own beside their tests."""

pytest_plugins = ["cluster.pytest_plugin"]
