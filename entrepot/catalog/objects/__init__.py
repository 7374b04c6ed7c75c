"""What a site's catalog knows of the objects in managed buckets.

Invariant: every change of a key happens in one transaction that holds the key's lock, so the newest
version that it reads is the newest until it commits. Statements take their rows as one JSON
parameter: a batch of any size is one round trip.

The modules are the interface: ``facts`` values, ``intents`` writes under way, ``commit`` the one
transaction, ``records`` what each change leaves behind, ``read`` lookups and listings, ``effects``
what the store must still be told, ``uploads`` multipart uploads, ``replicas`` versions of other
sites, ``outbox`` what waits for those who follow a bucket.
"""
