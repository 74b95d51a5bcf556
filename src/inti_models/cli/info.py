"""``inti-models info``"""

import argparse

from .options import add_frames


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "info",
        help="describe a model: parameters, frames, schedule, GFLOPs",
        epilog="example: inti-models info inti_vit_b16_k400 --frames 16",
    )
    command.add_argument("name", help="name of a model, see 'inti-models list'")
    add_frames(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from timm.models import get_model_input_config

    from ..models.flops import zoo_cost
    from ..models.registry import create_model

    model = create_model(args.name, device="meta")
    frames = args.frames or model.num_frames
    cost, naive = zoo_cost(args.name, frames), zoo_cost(args.name, frames, compress_at=())
    channels, height, width = get_model_input_config(model)["input_size"]
    remaining = -(-model.embedded_frames(frames) // 2 ** len(model.compress_at))
    print(f"model       {args.name}")
    print(f"parameters  {cost.parameters / 1e6:.2f} M")
    print(f"input       {frames} frames of {channels}x{height}x{width}, {model.sampling} sampling")
    print(f"classes     {model.num_classes}")
    print(f"blocks      {len(model.blocks)} of width {model.embed_dim}")
    print(f"schedule    compress_at={model.compress_at}: {frames} frames become {remaining}")
    if model.temporal.mixes_frames:
        print(f"temporal    {type(model.temporal).__name__}: frames see each other in the blocks")
    print(f"GFLOPs      {cost.gflops:.4g} (multiply-adds of matrix products and convolutions)")
    print(
        f"naive       {naive.gflops:.4g} (every frame through every block); {1 - cost.gflops / naive.gflops:.1%} less"
    )
    return 0
