"""The operator: what is observed, what is decided, and what is to be done about it.

Decisions are pure: frozen worlds in, frozen worlds out. Only the loop touches a cluster.
"""
