"""An ASGI app that serves a pair by OpenAI's protocol: what ``duet serve`` runs, and what other apps can mount.

from duet_sdk.gateway import app

gateway = app(AsyncDuetClient("vllm/m@http://127.0.0.1:8001/v1", "vllm/n@http://127.0.0.1:8002/v1"))
"""

from duet_sdk.gateway.routing import Gateway, app

__all__ = ["Gateway", "app"]
