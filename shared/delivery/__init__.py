"""Delivery to a workspace: the bundle, its deployment, and the gates before the deployment.

These modules need a checkout: they read ``databricks.yml``, ``resources/`` and ``.github/``, which no wheel contains.
"""
