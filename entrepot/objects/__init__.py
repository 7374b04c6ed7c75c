"""Objects of managed and adopted buckets: what is true about them, and when.

Invariant: a write of a managed bucket is an intent, then bytes in the store, then one transaction
that makes the version current if its stamp is the newest, with usage, audit and outbox in it. What
is not committed is not visible; whoever dies in between leaves an intent that recovery ends. A
removal goes the other way round: the transaction first, then the store.

Words: *write* one attempt to add a version or a delete marker. *Outcome* what the store has of it.
*Settle* decide from the outcome and the newest version. *Effect* what the store must still be told.
"""
