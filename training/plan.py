"""What training needs of a card, computed from the models' sizes before anything is loaded.

Memory is what is held all the time (weights, gradients, AdamW's states) and, for each picture of a
forward, what is kept from its forward pass to its backward pass: the inputs of every block, since
blocks are recomputed, and the inside of the one part that is being recomputed. The three factors
below were counted on the virtual card (bench/true_training.py) at FLUX.1's width; the test compares
the whole with it. FLOPs are of the matrix products, recomputation included.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import Config, Stage

GB, TERA = 1e9, 1e12
HALF, SINGLE = 2, 4  # bytes of a bfloat16 and a float32
STATES = {"adamw": 2 * SINGLE, "adamw8bit": 2, "muon": SINGLE}  # bytes a weight of an optimizer
SIDES = (512, 768, 1024)
CARDS = (24, 48, 80)  # GB
SPARE = 1.5  # GB: the context of CUDA, cuDNN's workspaces, what the allocator cannot use
# Counted, in numbers of bfloat16: the inside of a single block for each token and value of its
# width, at the height of its backward pass, when the inputs of all blocks are there still; the
# same of the VAE's decoder for each pixel.
INSIDE_BLOCK = 24.1
INSIDE_DECODER = 6464.0
INSIDE_ENCODER = 75e6  # the same of the ID encoder, for each photo
COMPARED = 1  # alignment keeps so many times a block's input more in each step
DECODER_FLOPS = 10.06e6  # of the VAE's decoder, for each pixel
ENCODER_FLOPS = 52e9  # of the ID encoder, for each photo
ENCODER, INNER, TOKEN_WIDTH = 151.4e6, 2048, 2048  # the ID encoder, the layers, the ID tokens
VAE, TOWER, RECOGNISER = 83.8e6, 304e6, 65e6  # parameters of the other frozen models


@dataclass(frozen=True)
class Family:
    """The sizes of a diffusion model."""

    name: str
    width: int
    doubles: int
    singles: int
    mlp: int  # a block's linear maps for each token, in squares of the width
    modulated: bool  # each block has maps of its own for the modulation
    text_width: int
    extra: float  # parameters besides
    text: int = 512  # tokens of a prompt
    pixels: int = 16  # of the picture, for each token's side

    @property
    def parameters(self) -> float:
        """Return the number of parameters."""
        square = self.width**2
        double = 2 * self.mlp + (12 if self.modulated else 0)
        single = self.mlp + (3 if self.modulated else 0)
        blocks = (self.doubles * double + self.singles * single) * square
        return blocks + self.text_width * self.width + self.extra

    @property
    def layers(self) -> int:
        """Return the number of PuLID's layers."""
        return -(-self.doubles // 2) + -(-self.singles // 4)

    @property
    def adapter(self) -> float:
        """Return the parameters of an adapter in the released files' sizes."""
        layer = 2 * INNER * self.width + 2 * INNER * TOKEN_WIDTH + 2 * (self.width + TOKEN_WIDTH)
        return ENCODER + self.layers * layer

    def tokens(self, side: int) -> int:
        """Return the image tokens of a square picture."""
        return (side // self.pixels) ** 2


FAMILIES = (
    Family("FLUX.1-dev", 3072, 19, 38, 12, True, 4096, 41e6),
    Family("FLUX.1-schnell", 3072, 19, 38, 12, True, 4096, 31e6),
    Family("Chroma", 3072, 19, 38, 12, False, 4096, 280e6),
    Family("FLUX.2 klein 4B", 3072, 5, 20, 13, False, 7680, 152e6),
    Family("FLUX.2 klein 9B", 4096, 8, 24, 13, False, 12288, 270e6),
)


@dataclass(frozen=True)
class Need:
    """What a stage needs: bytes all the time and for each picture, FLOPs for each picture."""

    held: float
    each: float
    flops: float
    kept: float = 0.0  # of each: what the backward pass finds when it begins

    def fits(self, card: float) -> int:
        """Return the pictures of a forward that a card of so many GB has room for."""
        return max(0, int((card * GB - SPARE * GB - self.held) // self.each))


def held(family: Family, weight: int = HALF, ema: bool = False, optimizer: str = "adamw") -> float:
    """Return the bytes that are there all the time; ``weight``: of one of the base's numbers."""
    trained = family.adapter * (2 * SINGLE + STATES[optimizer] + SINGLE * ema)
    frozen = HALF * (VAE + TOWER) + SINGLE * RECOGNISER
    narrow = HALF * ENCODER  # the ID encoder's weights as a step computes with them
    return weight * family.parameters + trained + frozen + narrow


def kept(family: Family, side: int) -> float:
    """Return the bytes of one forward's block inputs, which are kept for its gradient."""
    image, every = family.tokens(side), family.tokens(side) + family.text
    doubles, singles = -(-family.doubles // 2), -(-family.singles // 4)
    inputs = (family.doubles + family.singles) * every
    # where identity enters, the block's output is kept as well as the sum
    identity = doubles * image + singles * every
    return HALF * family.width * (inputs + identity)


def inside(family: Family, side: int) -> float:
    """Return the bytes inside a single block at the height of its backward pass."""
    return HALF * INSIDE_BLOCK * family.width * (family.tokens(side) + family.text)


def block_flops(family: Family, side: int) -> tuple[float, float]:
    """Return the FLOPs of one block: of its linear maps, and of its attention."""
    every = family.tokens(side) + family.text
    return 2 * family.mlp * family.width**2 * every, 4 * every**2 * family.width


def layers_flops(family: Family, side: int) -> float:
    """Return the FLOPs of PuLID's layers in one forward."""
    return family.layers * 4 * family.tokens(side) * family.width * INNER


def forward_flops(family: Family, side: int, identity: bool = True) -> float:
    """Return the FLOPs of one forward without gradient."""
    blocks = (family.doubles + family.singles) * sum(block_flops(family, side))
    return blocks + identity * layers_flops(family, side)


def step_flops(family: Family, side: int, first: bool) -> float:
    """Return the FLOPs of a forward with gradient: itself, its recomputation, its backward pass.

    Frozen maps give a gradient to their inputs alone; attention's backward has five products for
    the forward's two. In a ``first`` step nothing before the first identity has a gradient.
    """
    linear, attention = block_flops(family, side)
    blocks = family.doubles + family.singles
    whole = blocks * (3 * linear + 4.5 * attention) + 3.5 * layers_flops(family, side)
    return whole - first * (2 * linear + 3.5 * attention)


def need(family: Family, side: int, stage: Stage, base: float) -> Need:
    """Return what a stage needs at pictures of ``side``; ``base``: bytes held all the time."""
    decoder = INSIDE_DECODER * HALF * side**2
    every = HALF * family.width * (family.tokens(side) + family.text)
    parts, flops = [(0.0, 0.0)], 3 * ENCODER_FLOPS
    naive = stage.id > 0 and stage.id_on == "estimate"
    if stage.diffusion or naive:
        parts.append((kept(family, side), max(inside(family, side), naive * decoder)))
        flops += step_flops(family, side, True) + 3 * naive * DECODER_FLOPS * side**2
    if stage.branches:
        steps = stage.gradient_steps or stage.branch_steps
        aligned = stage.semantic > 0 or stage.layout > 0
        drawn = stage.id > 0 and stage.id_on == "branch"
        both = steps * kept(family, side)
        both += aligned * steps * COMPARED * (family.doubles + family.singles) * every
        parts.append((both, max(inside(family, side), drawn * decoder)))
        own = (stage.branch_steps - steps) * forward_flops(family, side)
        own += aligned * stage.branch_steps * forward_flops(family, side, False)
        own += step_flops(family, side, True) + (steps - 1) * step_flops(family, side, False)
        own += 3 * drawn * DECODER_FLOPS * side**2
        flops += own * (stage.branch_batch or stage.batch) / stage.batch
    encoder = HALF * INSIDE_ENCODER
    most = max(sum(part) for part in parts)
    return Need(base, most + encoder, flops, max(part[0] for part in parts) + encoder)


def family_of(config: Config) -> Family:
    """Return the sizes of the settings' base, by its name; FLUX.1-dev's where that says nothing."""
    name = config.model.base.lower()
    for word, number in (("schnell", 1), ("chroma", 2), ("klein", 3)):
        if word in name:
            return FAMILIES[4 if word == "klein" and "9b" in name else number]
    return FAMILIES[0]


def report(config: Config) -> str:
    """Return the plan as text: the settings' own stages, then every family at three sizes."""
    own = family_of(config)
    lines = [f"The run's stages on {own.name} at {config.data.size} pixels:", ""]
    lines += table([(own, config.data.size, stage) for stage in config.stages], config)
    first, last = config.stages[0], config.stages[-1]
    for stage in dict.fromkeys((first, last)):
        lines += ["", f"The losses of stage '{stage.name}' on every family:", ""]
        cases = [(family, side, stage) for family in FAMILIES for side in SIDES]
        lines += table(cases, config)
    return "\n".join([*lines, "", *NOTES])


NOTES = (
    "held: weights, gradients and optimizer, all the time. each: a picture of a forward, beyond",
    "that. At most: pictures that a card of so many GB has room for in one forward (0: it does not",
    f"fit), with {SPARE:g} GB to spare. Computed from sizes; only the virtual card has counted it.",
)


def table(cases: list[tuple[Family, int, Stage]], config: Config) -> list[str]:
    """Return the lines of a table."""
    cards = "  ".join(f"{card:>2} GB" for card in CARDS)
    lines = [
        f"{'model':<16} {'side':>5} {'stage':<12} {'held':>8} {'each':>8} {'TFLOP':>7}   {cards}"
    ]
    weight = 1 if config.model.weight_dtype.startswith("fp8") else HALF
    settings = config.optimizer
    for family, side, stage in cases:
        there = held(family, weight, settings.ema > 0, settings.kind)
        if config.model.branch or config.model.branch_lora:
            there += weight * family.parameters  # a second model
        found = need(family, side, stage, there)
        room = "  ".join(f"{found.fits(card):>5}" for card in CARDS)
        lines.append(
            f"{family.name:<16} {side:>5} {stage.name[:12]:<12} {found.held / GB:>5.1f} GB "
            f"{found.each / GB:>5.1f} GB {found.flops / TERA:>7.1f}   {room}"
        )
    return lines
