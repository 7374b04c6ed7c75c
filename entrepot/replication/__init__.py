"""Keeping buckets equal across sites.

``merge`` finds the keys whose current version differs, ``plan`` decides (pure), ``apply`` copies
and marks, ``verify`` looks again, ``sweep`` puts them together for one range of keys, ``shards``
cuts a bucket into such ranges, ``run`` makes a job of them. ``origins`` orders what lies on
endpoints that mint ids and times, ``sites`` says what a site is, ``totals`` what is counted,
``workers`` runs work side by side.
"""
