"""What a model kept of a video, and what its prediction is based on."""
