"""How alike a face in a picture is to a person, and how undisturbed the rest of the picture."""
