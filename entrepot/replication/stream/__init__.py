"""The stream: each write of a site's buckets goes to the other sites as it is committed.

The outbox of the site where it was written says what is to be done, and is struck off when the
other site has it. ``channel`` works off one outbox for one target, ``engine`` runs a rule's
channels, ``windows`` keeps what they did.
"""
