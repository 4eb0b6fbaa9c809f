"""Drawn people: a world small enough to be trained in here, in which likeness can be measured."""
