"""Text towers of image-text models: where they are, how open_clip builds them, and their features of prompts.

An open_clip file holds an image tower (``visual.*``) and a text tower (``text.*``, or without a prefix), each with
a projection into a space that both share. open_clip's own code builds the text tower and its tokenizer from the
`CONFIG_FILE` beside the file, so that any tower it builds works here: CLIP's, SigLIP's and SigLIP2's,
MetaCLIP2's, PE-Core's, EVA02's, and those of transformers. Whoever wrote that config is not trusted: it cannot make
the tower other than the file's, and none of its arguments runs code.

Shapes: ``K`` classes, ``P`` prompts for each, ``L`` tokens, ``D`` the width of the shared space, ``C`` channels.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import tqdm
from timm.layers import QuickGELU
from torch import Tensor, nn

from ..extras import missing
from ..models.stages import InTIModel
from .download import commit_of, download
from .tensor_files import DIGEST, digest, read_checkpoint

_logger = logging.getLogger(__name__)

WEIGHTS_FILE, CONFIG_FILE = "open_clip_model.safetensors", "open_clip_config.json"  # open_clip's names on the Hub
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")  # transformers'
SAVED = ("hf-hub", "local-dir")  # source of a model that was saved by us

# timm's repository of an image tower -> open_clip's of both towers, where that is another (its `pretrained.py`).
REPOSITORIES = {
    f"timm/{image}": both
    for image, both in {
        "vit_base_patch16_clip_224.laion2b": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        "vit_base_patch16_clip_224.datacompxl": "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
        "vit_base_patch16_clip_224.dfn2b": "apple/DFN2B-CLIP-ViT-B-16",
        "vit_large_patch14_clip_224.laion2b": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
        "vit_large_patch14_clip_224.datacompxl": "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
        "vit_large_patch14_clip_224.dfn2b": "apple/DFN2B-CLIP-ViT-L-14",
        "vit_large_patch14_clip_224.dfn2b_s39b": "apple/DFN2B-CLIP-ViT-L-14-39B",
        "vit_huge_patch14_clip_224.laion2b": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "vit_huge_patch14_clip_224.dfn5b": "apple/DFN5B-CLIP-ViT-H-14",
        "vit_huge_patch14_clip_378.dfn5b": "apple/DFN5B-CLIP-ViT-H-14-378",
        "vit_gigantic_patch14_clip_224.laion2b": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
        "vit_pe_core_tiny_patch16_384.fb": "timm/PE-Core-T-16-384",
        "vit_pe_core_small_patch16_384.fb": "timm/PE-Core-S-16-384",
        "vit_pe_core_base_patch16_224.fb": "timm/PE-Core-B-16",
        "vit_pe_core_large_patch14_336.fb": "timm/PE-Core-L-14-336",
        "vit_pe_core_gigantic_patch14_448.fb": "timm/PE-Core-bigG-14-448",
        "eva02_base_patch16_clip_224.merged2b": "timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k",
        "eva02_large_patch14_clip_224.merged2b": "timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k",
        "eva02_large_patch14_clip_336.merged2b": "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k",
        "eva02_enormous_patch14_clip_224.laion2b": "timm/eva02_enormous_patch14_clip_224.laion2b_s4b_b115k",
        "eva02_enormous_patch14_clip_224.laion2b_plus": "timm/eva02_enormous_patch14_plus_clip_224.laion2b_s9b_b144k",
        "vit_base_patch16_siglip_224.webli": "timm/ViT-B-16-SigLIP",
        "vit_base_patch16_siglip_256.webli": "timm/ViT-B-16-SigLIP-256",
        "vit_base_patch16_siglip_256.webli_i18n": "timm/ViT-B-16-SigLIP-i18n-256",
        "vit_base_patch16_siglip_384.webli": "timm/ViT-B-16-SigLIP-384",
        "vit_base_patch16_siglip_512.webli": "timm/ViT-B-16-SigLIP-512",
        "vit_large_patch16_siglip_256.webli": "timm/ViT-L-16-SigLIP-256",
        "vit_large_patch16_siglip_384.webli": "timm/ViT-L-16-SigLIP-384",
        "vit_so400m_patch14_siglip_224.webli": "timm/ViT-SO400M-14-SigLIP",
        "vit_so400m_patch14_siglip_384.webli": "timm/ViT-SO400M-14-SigLIP-384",
        "vit_base_patch32_siglip_256.v2_webli": "timm/ViT-B-32-SigLIP2-256",
        "vit_base_patch16_siglip_224.v2_webli": "timm/ViT-B-16-SigLIP2",
        "vit_base_patch16_siglip_256.v2_webli": "timm/ViT-B-16-SigLIP2-256",
        "vit_base_patch16_siglip_384.v2_webli": "timm/ViT-B-16-SigLIP2-384",
        "vit_base_patch16_siglip_512.v2_webli": "timm/ViT-B-16-SigLIP2-512",
        "vit_large_patch16_siglip_256.v2_webli": "timm/ViT-L-16-SigLIP2-256",
        "vit_large_patch16_siglip_384.v2_webli": "timm/ViT-L-16-SigLIP2-384",
        "vit_large_patch16_siglip_512.v2_webli": "timm/ViT-L-16-SigLIP2-512",
        "vit_so400m_patch14_siglip_224.v2_webli": "timm/ViT-SO400M-14-SigLIP2",
        "vit_so400m_patch14_siglip_378.v2_webli": "timm/ViT-SO400M-14-SigLIP2-378",
        "vit_so400m_patch16_siglip_256.v2_webli": "timm/ViT-SO400M-16-SigLIP2-256",
        "vit_so400m_patch16_siglip_384.v2_webli": "timm/ViT-SO400M-16-SigLIP2-384",
        "vit_so400m_patch16_siglip_512.v2_webli": "timm/ViT-SO400M-16-SigLIP2-512",
        "vit_giantopt_patch16_siglip_256.v2_webli": "timm/ViT-gopt-16-SigLIP2-256",
        "vit_giantopt_patch16_siglip_384.v2_webli": "timm/ViT-gopt-16-SigLIP2-384",
    }.items()
}

# timm's repositories of an image tower that hold both towers themselves.
WITH_TEXT = {
    f"timm/vit_{image}.{tag}"
    for image, tags in {
        "base_patch32_clip_224": ("openai", "laion400m_e32", "metaclip_400m", "metaclip_2pt5b"),
        "base_patch16_clip_224": ("openai", "laion400m_e32", "metaclip_400m", "metaclip_2pt5b"),
        "large_patch14_clip_224": ("openai", "laion400m_e32", "metaclip_400m", "metaclip_2pt5b"),
        "large_patch14_clip_336": ("openai",),
        "huge_patch14_clip_224": ("metaclip_2pt5b", "metaclip_altogether", "metaclip2_worldwide"),
        "huge_patch14_clip_378": ("metaclip2_worldwide",),
        "gigantic_patch14_clip_224": ("metaclip_2pt5b", "metaclip2_worldwide"),
        "gigantic_patch14_clip_378": ("metaclip2_worldwide",),
    }.items()
    for tag in tags
}

_CLIP_TOKENS = 49408  # of CLIP's own tokenizer
_DEFAULT_SIZES = {"context_length": 77, "vocab_size": _CLIP_TOKENS, "width": 512, "layers": 12}  # open_clip's
_TEXT_NAMES = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
# The arguments of a tokenizer that a config may state; transformers has others, which would run a repository's code.
_TOKENIZER_ARGUMENTS = {"clean", "strip_sep_token", "language"}
_ANY_IMAGE_TOWER = {"layers": 1, "width": 64, "image_size": 32, "patch_size": 32}  # the smallest; it is dropped


# Projection of the image tower into the shared space: its name -> how its matrix stands.
_PROJECTION = {
    "visual.proj": "C D",
    "visual.trunk.head.weight": "D C",
    "visual.head.proj.weight": "D C",
    "visual.trunk.head.bias": "D",
    "visual.head.proj.bias": "D",
}
_NOT_LINEAR = ("visual.head.mlp.", "visual.attn_pool.")


def has_towers(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a file has a text tower beside an image tower, in one of open_clip's layouts."""
    return "logit_scale" in tensors and any(k.startswith(("text.", "token_embedding.")) for k in tensors)


def head_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those tensors of a file with two towers that a text head is made from."""
    of_image_tower = (*_PROJECTION, *_NOT_LINEAR)
    return {k: v for k, v in tensors.items() if not k.startswith("visual.") or k.startswith(of_image_tower)}


@dataclass(frozen=True)
class Towers:
    """A file with an image and a text tower, and what is beside it.

    Attributes:
        name: file or repository, for messages.
        tensors: by the file's names.
        config: ``model_cfg`` of its `CONFIG_FILE`; empty where there is none.
        quick_gelu: whether the text tower has QuickGELU where the config does not say.
        folder: folder with the files of its tokenizer; None where the config names it.
        source: where the file is, as a saved model's config.json states it.

    Raises:
        ValueError: if there is no text tower, the projection is not linear, or the config is needed and missing.
    """

    name: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    quick_gelu: bool = False
    folder: Path | None = None
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not has_towers(self.tensors):
            raise ValueError(
                f"{self.name} has no text tower beside an image tower; use an open_clip file with both, "
                f"such as the {WEIGHTS_FILE} of the tags openai, laion2b and datacompxl."
            )
        if any(key.startswith(_NOT_LINEAR) for key in self.tensors):
            raise ValueError(
                f"{self.name} does not project its image features linearly, so no head can be made from texts; choose "
                "another image-text model."
            )

    @cached_property
    def text(self) -> dict[str, Tensor]:
        """The text tower, by open_clip's names without a prefix."""
        tensors = self.tensors
        if any(key.startswith("text.") for key in tensors):
            return {key.removeprefix("text."): value for key, value in tensors.items() if key.startswith("text.")}
        return {key: value for key, value in tensors.items() if key.startswith(_TEXT_NAMES)}

    @cached_property
    def needs_config(self) -> bool:
        """Whether the tensors do not say how the tower is built: they are not plainly CLIP's, with heads 64 wide."""
        sizes = self._sizes
        plain = sizes and sizes["vocab_size"] == _CLIP_TOKENS and sizes["width"] % 64 == 0
        return not (plain and "text_projection" in self.text and "cls_emb" not in self.text)

    @cached_property
    def text_cfg(self) -> dict[str, Any]:
        """open_clip's ``text_cfg``: the config's where it is this file's, else CLIP's with the sizes of the tensors.

        Raises:
            ValueError: if the config is needed and missing.
        """
        stated = self.config.get("text_cfg")
        if isinstance(stated, dict):
            sizes = _DEFAULT_SIZES | stated
            if stated.get("hf_model_name") or all(sizes[name] == size for name, size in self._sizes.items()):
                return dict(stated)
        if self.needs_config:
            raise ValueError(
                f"{self.name} does not say how its text tower is built, which is not plainly CLIP's; put its "
                f"{CONFIG_FILE} beside it."
            )
        width = self._sizes["width"]
        mlp_ratio = len(self.text["transformer.resblocks.0.mlp.c_fc.weight"]) / width
        return {**self._sizes, "heads": width // 64, "mlp_ratio": mlp_ratio}

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Sizes of open_clip's own text tower, read from its tensors; empty for transformers' towers."""
        text = self.text
        if not {"token_embedding.weight", "positional_embedding"} <= text.keys():
            return {}
        vocab_size, width = text["token_embedding.weight"].shape
        blocks = {key.split(".")[2] for key in text if key.startswith("transformer.resblocks.")}
        positions = len(text["positional_embedding"]) - ("cls_emb" in text)
        return {"context_length": positions, "vocab_size": vocab_size, "width": width, "layers": len(blocks)}

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of a prompt."""
        return int(self._sizes.get("context_length") or self.text_cfg.get("context_length", 77))

    def projection(self, num_features: int) -> tuple[Tensor, Tensor]:
        """Return the float32 weight (D, C) and bias (D,) that map pooled image features into the shared space.

        Args:
            num_features: ``C``, of the model that they are for.

        Raises:
            ValueError: if the file's image tower has another width.
        """
        found = {_PROJECTION[key]: value.float() for key, value in self.tensors.items() if key in _PROJECTION}
        weight = found["C D"].T if "C D" in found else found.get("D C")
        if weight is None:  # SigLIP's image tower ends in the shared space
            weight = torch.eye(num_features)
            width = int(self.config.get("embed_dim") or num_features)
        else:
            width = weight.shape[1]
        if width != num_features:
            raise ValueError(
                f"{self.name} has an image tower of width {width}, but the model has {num_features}; create a model of "
                "the same architecture."
            )
        return weight.contiguous(), found.get("D", torch.zeros(len(weight)))

    @cached_property
    def digest(self) -> str:
        """The `digest` of what a text head is made from."""
        return digest(head_part(self.tensors))

    @property
    def scale(self) -> float:
        """The factor that cosines are multiplied by."""
        return self.tensors["logit_scale"].double().squeeze().exp().item()

    @property
    def bias(self) -> float:
        """The bias added after that: SigLIP's, 0 for CLIP."""
        return self.tensors["logit_bias"].double().squeeze().item() if "logit_bias" in self.tensors else 0.0

    # Tokens

    @cached_property
    def tokenizer(self) -> Any:
        """open_clip's tokenizer, as its `get_tokenizer` chooses it.

        Raises:
            ValueError: if the config asks for one in a way that is not allowed.
            ModuleNotFoundError: if it needs transformers, which is not installed.
            OSError: if its files cannot be loaded.
        """
        from open_clip.tokenizer import HFTokenizer, SimpleTokenizer  # slow to import, needed for the text tower only

        name, arguments = self.text_cfg.get("hf_tokenizer_name"), dict(self.text_cfg.get("tokenizer_kwargs") or {})
        for argument in sorted(arguments.keys() - _TOKENIZER_ARGUMENTS):
            raise ValueError(
                f"{self.name} asks for a tokenizer with {argument}, which is not allowed; remove the argument from "
                f"its {CONFIG_FILE} if you trust it."
            )
        if not name:
            return SimpleTokenizer(context_length=self.context_length, **arguments)
        mode = self.text_cfg.get("tokenizer_mode")
        source = str(name if self.folder is None else self.folder)
        try:
            return HFTokenizer(source, self.context_length, tokenizer_mode=mode, **arguments)
        except ImportError:
            raise ModuleNotFoundError(missing("transformers", f"{self.name}'s tokenizer, {name},")) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise OSError(
                f"The tokenizer {source} of {self.name} cannot be loaded ({reason}); try again later."
            ) from error

    @property
    def tokenizer_digest(self) -> str | None:
        """SHA-256, in hex, of the tokenizer's files beside the file; None where the config names the tokenizer."""
        if self.folder is None:
            return None
        files = (self.folder / name for name in TOKENIZER_FILES)
        return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()

    def count_tokens(self, prompt: str) -> int:
        """Count the tokens of a prompt, with those that begin and end it."""
        tokenizer = self.tokenizer
        if hasattr(tokenizer, "encode"):  # CLIP's own
            return len(tokenizer.encode(prompt)) + 2
        if tokenizer.tokenizer_mode == "clips":
            return len(tokenizer.tokenizer(tokenizer.clean_fn(prompt), add_special_tokens=False).input_ids) + 3
        return len(tokenizer.tokenizer(tokenizer.clean_fn(prompt)).input_ids)

    def fits(self, prompt: str) -> bool:
        """Return whether a prompt fits the context. A short one needs no tokenizer: a token is at least one byte."""
        return len(prompt.encode()) + 3 <= self.context_length or self.count_tokens(prompt) <= self.context_length

    # Features

    def features(self, prompts: Sequence[Sequence[str]], batch_size: int = 256) -> Tensor:
        """Return one unit vector per class: the normalised mean of the unit vectors of its prompts.

        open_clip's text tower computes them, on the CPU in float32, with a progress bar.

        Args:
            prompts: P for each of K classes, which all `fits`.
            batch_size: prompts at once.

        Returns:
            (K, D) in float32.

        Raises:
            ValueError: if the tensors are not those of the tower, or its vocabulary is not that of the tokenizer.
        """
        flat = [prompt for of_class in prompts for prompt in of_class]
        tokens = self.tokenizer(flat, context_length=self.context_length)  # KP L
        vocab_size = self._sizes.get("vocab_size")
        # Each prompt of CLIP's tokenizer has its last token, the end of text.
        if vocab_size is not None and (
            int(tokens.max()) >= vocab_size
            or (hasattr(self.tokenizer, "encode") and self.tokenizer.vocab_size != vocab_size)
        ):
            raise ValueError(
                f"{self.name} has a text tower of {vocab_size} tokens, which are not those of its tokenizer; download "
                "it again, or choose another image-text model."
            )
        tower = self._build_tower()
        if (end := _last_pooled(tower, tokens)) is not None:  # it is causal: what follows has no say in any feature
            tokens = tokens[:, : end + 1]
            tower.attn_mask = tower.attn_mask[: end + 1, : end + 1]  # type: ignore[index]
        features: list[Tensor] = []
        with torch.no_grad(), tqdm(total=len(flat), desc="Text tower", unit="prompt") as progress:
            for batch in tokens.split(batch_size):
                features.append(F.normalize(tower(batch), dim=-1))
                progress.update(len(batch))
        return F.normalize(torch.cat(features).unflatten(0, (len(prompts), -1)).mean(dim=1), dim=-1)

    def _build_tower(self) -> nn.Module:
        """Build the text tower as open_clip does, with the file's tensors."""
        import open_clip

        text_cfg, state = dict(self.text_cfg), dict(self.text)
        of_transformers = bool(text_cfg.get("hf_model_name"))
        if of_transformers:
            text_cfg["hf_model_pretrained"] = False
            state.pop("transformer.embeddings.position_ids", None)  # releases before 4.31 save a count
        try:
            # On the meta device there is no second copy of the weights; transformers has buffers that are not saved.
            with torch.random.fork_rng(devices=[]), torch.device("cpu" if of_transformers else "meta"):
                tower = open_clip.CustomTextCLIP(
                    embed_dim=self.embed_dim,
                    vision_cfg=dict(_ANY_IMAGE_TOWER),
                    text_cfg=text_cfg,
                    quick_gelu=bool(self.config.get("quick_gelu", self.quick_gelu)),
                ).text
            tower.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, assign=True)
        except ImportError:
            raise ModuleNotFoundError(missing("transformers", f"The text tower of {self.name}")) from None
        except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
            reason = " ".join(str(error).split())[:500]
            raise ValueError(
                f"{self.name} has a text tower that open_clip does not build from its {CONFIG_FILE} ({reason}); "
                "download both again, or choose another image-text model."
            ) from None
        if getattr(tower, "attn_mask", None) is not None:
            tower.attn_mask = tower.build_causal_mask()  # a buffer that is not saved
        return tower.eval()

    @property
    def embed_dim(self) -> int:
        """Width ``D`` of the shared space."""
        if "text_projection" in self.text:
            return self.text["text_projection"].shape[1]
        if "text_projection.weight" in self.text:
            return self.text["text_projection.weight"].shape[0]
        return int(self.config.get("embed_dim") or self._sizes.get("width", 0))


def _last_pooled(tower: nn.Module, tokens: Tensor) -> int | None:
    """Return the last position that a causal text tower pools, over all prompts; None for other towers."""
    if getattr(tower, "attn_mask", None) is None or tower.cls_emb is not None:
        return None
    if tower.pool_type == "argmax":
        return int(tokens.argmax(dim=-1).max())
    if tower.pool_type == "eos":
        return int((tokens == tower.eos_id).int().argmax(dim=-1).max())
    return None


# Where a model's towers are


def text_source(model: InTIModel) -> dict[str, Any] | None:
    """Return where the text tower of a model is, as its config.json states it; None where that is not known.

    ``repository``, ``revision`` and ``file`` on the Hub, or only ``file``, a path; ``tensors_sha256`` is the digest of
    what a text head is made from, once it has been read.
    """
    cfg = _cfg(model)
    repository, _, revision = str(cfg.get("hf_hub_id") or "").partition("@")
    if model.text_source is not None:
        return model.text_source
    known = cfg.get("hf_hub_filename") == WEIGHTS_FILE or repository in REPOSITORIES or repository in WITH_TEXT
    if cfg.get("source") in SAVED or not known:
        return None
    if cfg.get("file"):  # goes before the repository, whose towers may be others
        return {"file": str(Path(cfg["file"]).absolute())}
    return {
        "repository": REPOSITORIES.get(repository, repository),
        "revision": None if repository in REPOSITORIES else revision or None,
        "file": WEIGHTS_FILE,
    }


def read_towers(model: InTIModel) -> Towers:
    """Read the file with both towers that a model started from: that of its pretrained config, or of its `text_source`.

    Raises:
        ValueError: if the model does not start from an image-text model, or the file has changed since.
        OSError: if the file is missing, forbidden, or cannot be fetched; see `inti_models.load`.
    """
    cfg = _cfg(model)
    saved, source = cfg.get("source") in SAVED, model.text_source
    if source is None and cfg.get("file") and not saved:
        return towers_of(model, read_checkpoint(cfg["file"]), Path(cfg["file"]))
    source = text_source(model)
    if source is None and cfg.get("hf_hub_id") and not saved:  # a tag whose repository may hold both
        repository, _, revision = str(cfg["hf_hub_id"]).partition("@")
        source = {"repository": repository, "revision": revision or None, "file": WEIGHTS_FILE}
    if source is None:
        raise ValueError(
            f"{cfg.get('architecture') or 'The model'} does not start from a CLIP on the Hub, so there is no text "
            "tower; create one that does, such as inti_vit_b16_k400.openai."
        )
    if source.get("repository") is None:
        path = Path(str(source.get("file")))
        return _unchanged(towers_of(model, read_checkpoint(path), path), source)
    repository, path = _fetch(str(source["repository"]), source.get("revision"))
    towers = Towers(
        repository,
        read_checkpoint(path),
        _config_on_hub(repository, source.get("revision")),
        _has_quick_gelu(model),
        source={"repository": repository, "revision": commit_of(path, WEIGHTS_FILE), "file": WEIGHTS_FILE},
    )
    return _unchanged(towers, source)


def towers_of(model: InTIModel, tensors: Mapping[str, Tensor], path: Path | None = None) -> Towers:
    """Return the towers of a file that was read: from a path, or from the repository of the model's config."""
    repository, _, revision = str(_cfg(model).get("hf_hub_id") or "").partition("@")
    quick_gelu = _has_quick_gelu(model)
    if path is None:
        source = {"repository": repository, "revision": revision or None, "file": WEIGHTS_FILE}
        config = _config_on_hub(repository, revision) if repository else {}
        return Towers(repository or "The checkpoint", tensors, config, quick_gelu, source=source)
    has_tokenizer = any((path.parent / file).is_file() for file in TOKENIZER_FILES)
    source = {"file": str(path.absolute())}
    towers = Towers(str(path), tensors, {}, quick_gelu, path.parent if has_tokenizer else None, source)
    config = _config_beside(path)
    if not config and repository:  # without a network the Hub's client takes half a minute to say so
        config = _cached_config(repository, revision)
        if not config and towers.needs_config:
            config = _config_on_hub(repository, revision)
    return replace(towers, config=config)


def _unchanged(towers: Towers, source: Mapping[str, Any]) -> Towers:
    """Return the towers, if they have the digest that a saved model states."""
    if source.get(DIGEST) not in (None, towers.digest):
        raise ValueError(
            f"{towers.name} has a text tower or projection other than this model was made with; name an earlier "
            "revision, or save the model again."
        )
    return towers


def _fetch(repository: str, revision: str | None) -> tuple[str, Path]:
    """Return the repository with the file of both towers, open_clip's or timm's, and the file in the Hub's cache."""
    images = [image for image, both in REPOSITORIES.items() if both == repository]
    errors: list[Exception] = []
    for each in dict.fromkeys((REPOSITORIES.get(repository, repository), repository, *images)):
        try:
            return each, download(each, WEIGHTS_FILE, revision if each == repository else None)
        except FileNotFoundError as error:
            if not isinstance(error.__cause__, RemoteEntryNotFoundError | RepositoryNotFoundError):
                raise
            errors.append(error)
    if isinstance(errors[0].__cause__, RepositoryNotFoundError):
        raise errors[0]
    raise ValueError(
        f"{repository} has no {WEIGHTS_FILE}, so there is no text tower; choose a tag that starts from a CLIP."
    )


def _cfg(model: InTIModel) -> dict[str, Any]:
    """The model's pretrained config; empty for a model that was not made by an entry point."""
    return getattr(model, "pretrained_cfg", None) or {}


def _has_quick_gelu(model: InTIModel) -> bool:
    return any(isinstance(module, QuickGELU) for module in model.blocks.modules())


def _config_beside(path: Path) -> dict[str, Any]:
    beside = path.with_name(CONFIG_FILE)
    return _model_cfg(lambda: beside) if beside.is_file() else {}


def _cached_config(repository: str, revision: str | None) -> dict[str, Any]:
    found = try_to_load_from_cache(repository, CONFIG_FILE, revision=revision or None)
    return _model_cfg(lambda: Path(found)) if isinstance(found, str) else {}


def _config_on_hub(repository: str, revision: str | None) -> dict[str, Any]:
    return _model_cfg(lambda: Path(hf_hub_download(repository, CONFIG_FILE, revision=revision or None)))


def _model_cfg(file: Callable[[], Path]) -> dict[str, Any]:
    """Return ``model_cfg`` of a `CONFIG_FILE`; empty where it cannot be read."""
    try:
        return dict(json.loads(file().read_text(encoding="utf-8"))["model_cfg"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        _logger.info(f"No {CONFIG_FILE} ({error}): using CLIP's conventions.")
        return {}
