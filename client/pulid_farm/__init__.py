"""Many jobs over many ComfyUI servers, each done exactly once.

``jobs`` turns lines into prompts, ``fleet`` decides who does what, ``worker`` is the actor of one
server, ``driver`` runs them, ``journal`` and ``target`` keep what came of it.
"""
