"""Who somebody is, for every model family: ID encoder, identity, fusion, files, window, masks."""
