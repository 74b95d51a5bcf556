"""What a model kept of a video, and what it went by."""
