"""The tests that open the page: one package, so that its browser and servers end with it."""
