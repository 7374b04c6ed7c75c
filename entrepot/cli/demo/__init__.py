"""``entrepot demo``: the platform at work on this machine's own files, and checked from outside.

``command`` the command line, ``story`` its chapters, ``files`` what is loaded, ``change`` what
happens to it, ``outside`` the check that shares no code with the product, ``telling`` how it is
shown.
"""
