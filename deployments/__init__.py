"""What runs, when and where: ``prefect.yaml``, and ``register`` which brings it to a server."""
