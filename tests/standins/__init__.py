"""Small stand-in models, written as files that the real loaders accept."""
