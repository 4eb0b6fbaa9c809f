"""From a photograph to the features PuLID's ID encoder takes; knows nothing of FLUX or nodes."""
