"""Training PuLID: the paper's losses, and ComfyUI's own models under autograd."""
