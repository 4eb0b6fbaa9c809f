"""What ``bench.py`` measures, one module a row; each has ``run(settings) -> Row``."""
