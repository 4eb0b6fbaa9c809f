"""The PuLID-FLUX method: checkpoint, ID encoder, cross-attention, and how they enter FLUX."""
