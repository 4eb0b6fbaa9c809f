"""PuLID for SDXL: the seam into ComfyUI's UNet."""
