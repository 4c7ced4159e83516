"""Frames of videos, cameras and streams (extra `video`): read them, and write videos."""

from __future__ import annotations

from pp_graph.video.places import VIDEO_ENDINGS, Place, find_videos
from pp_graph.video.video import Frame, Video, open_video
from pp_graph.video.writing import VIDEO_FILES, VideoWriter

__all__ = ["VIDEO_ENDINGS", "VIDEO_FILES", "Frame", "Place", "Video", "VideoWriter", "find_videos", "open_video"]
