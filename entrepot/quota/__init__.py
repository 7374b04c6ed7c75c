"""How much each tenant holds: ``count`` adds up a listing (pure), ``account`` runs it over a
site's buckets, ``report`` turns rows into tables.
"""
