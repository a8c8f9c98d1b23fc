"""Delivery: what goes to a workspace, how it gets there, and the gates that it passes on the way.

It works on a checkout: ``databricks.yml``, ``resources/`` and ``.github/``, which it reads, are not in the wheel.
"""
