"""Side by side with the peers: one command a question, JSON on the last line of stdout.

``python -m bench.sweep`` measures a sweep against ``mc mirror`` and ``rclone sync``;
``python -m bench.memory`` measures what a sweep needs at 10,000 and at 1,000,000 keys. How each
figure is taken is in ``docs/benchmarks.md``.
"""
