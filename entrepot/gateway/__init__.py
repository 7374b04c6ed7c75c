"""Ways in over HTTP: signed webhooks, health, metrics, and the client of Prefect's REST API.

Invariant: nothing here imports ``prefect``; flow runs are started through its REST API only.
"""
