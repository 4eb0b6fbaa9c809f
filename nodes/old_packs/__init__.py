"""Workflows and prompts made for older PuLID packs, brought to this pack's nodes."""
