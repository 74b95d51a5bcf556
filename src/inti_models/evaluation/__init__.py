"""How good a model is: accuracy on videos with labels, and cost."""
