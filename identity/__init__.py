"""A person's identity, for every model family: ID encoder, fusion, files, window, masks, rows."""
