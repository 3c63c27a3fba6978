"""Images, folders, animations and videos as one stream, and what is found in them as files that grow."""

from __future__ import annotations

from detrkit.streaming.frames import Files, Frame, Items, Source

__all__ = ["Files", "Frame", "Items", "Source"]
