"""Small models with random weights."""

import torch
from torch import nn

# Arguments of a small image ViT with a grid that is not square.
TINY = {
    "img_size": (32, 48),
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "num_classes": 5,
}


def randomize_model_(model: nn.Module) -> nn.Module:
    """Draw every parameter anew, those that start at zero or one included, and return the model for evaluation.

    Matrices and kernels keep the scale of their input; vectors and embeddings have a deviation of 0.5.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            embedding = parameter.ndim in (1, 3)
            parameter.normal_(std=0.5 if embedding else 2 * parameter[0].numel() ** -0.5)
    return model.eval()
