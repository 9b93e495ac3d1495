"""A real single-node Kubernetes in namespaces of its own, for people (`python -m cluster`) and for pytest.

It decides how the cluster is built, started, reached and removed; it knows nothing of Bowsprit's resources.
"""
