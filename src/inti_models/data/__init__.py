"""From files to model input: decoding, clip transforms and datasets."""

from .transforms import ClipTransform, create_clip_transform
from .video import Clips, VideoError, read_clips, write_video

__all__ = [
    "ClipTransform",
    "Clips",
    "VideoError",
    "create_clip_transform",
    "read_clips",
    "write_video",
]
