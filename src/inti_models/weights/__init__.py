"""From a name to tensors and back: files, the Hugging Face Hub, checkpoints of other projects, zero-shot heads."""
