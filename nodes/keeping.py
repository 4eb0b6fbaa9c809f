"""Keep the last encoded identities, so that a new weight never looks at the face again.

Apply PuLID-Flux expands into two nodes. While it is cached itself (a new seed, say), the host does
not see that the inner ones are still in use, and its cache lets go of them; the next new weight
would encode the photo again. ComfyUI's own interface for cache providers closes that gap.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from comfy_api import latest

KEPT = 4  # some 15 MB each: tokens, crops and photos with boxes
NODE = "PuLIDFluxEncodeIdentity"


async def register() -> None:
    """Offer the store to the host, where it has the interface."""
    caching = getattr(latest, "Caching", None)
    api = latest.ComfyAPI()
    if caching is None or not hasattr(api, "caching"):
        return

    class KeptIdentities(caching.CacheProvider):
        def __init__(self) -> None:
            self.values: OrderedDict[str, Any] = OrderedDict()

        def should_cache(self, context: Any, value: Any = None) -> bool:
            return context.class_type == NODE

        async def on_store(self, context: Any, value: Any) -> None:
            self.values[context.cache_key_hash] = value
            self.values.move_to_end(context.cache_key_hash)
            while len(self.values) > KEPT:
                self.values.popitem(last=False)

        async def on_lookup(self, context: Any) -> Any:
            return self.values.get(context.cache_key_hash)

    await api.caching.register_provider(KeptIdentities())
