"""The Open Inference Protocol v2 over HTTP: pure parsing and encoding, and a thin asyncio shell."""
