"""What a model is worth: accuracy on videos with labels, and cost."""
