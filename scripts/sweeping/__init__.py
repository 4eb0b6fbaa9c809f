"""The parts of scripts/sweep.py: what to render, the result folder, the server, the report."""
