"""Fixtures of the end-to-end tests."""

pytest_plugins = ["cluster.pytest_plugin"]
