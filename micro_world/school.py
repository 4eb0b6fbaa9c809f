"""What each network of the drawn world learns, and by which loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    interpolate,
    normalize,
    smooth_l1_loss,
)

from ..encoders.eva_clip import TowerSizes, build_tower
from ..encoders.pixels import LUMA, normalise
from ..training.draws import generator
from ..training.trainable import trainable
from .crops import tower_crops
from .flux import POOLED, as_model, random_flux, text_of
from .lessons import Lesson, learn
from .nets import CELL, FINDER_SHRINK, Finder, Recogniser, WordReader
from .people import IDENTITY
from .pool import SEEN, SIDE, Pool, faces, head_weights, painted, softened
from .renderer import boxes, keypoints, photo_keypoints

SILENT = 0.1  # share of the base's steps whose prompts say nothing
PAIRS = 4  # of so many steps, one has pictures of two people side by side
WARMTH = 0.07  # of the recognisers' softmax
CANVAS = 80  # of the finder, at an eighth of SCRFD's 640
TOWER = TowerSizes(width=64, depth=6, patch=14, side=4, hidden=170, output=64)
# by AdamW it takes twice the steps to the same loss
BASE = Lesson("base", 8_000, 32, 6e-3, warmup=100, decay=0.05, kind="muon")
RECOGNISER = Lesson("recogniser", 900, 128, 2e-3)
JUDGE = Lesson("judge", 900, 128, 2e-3)
READER = Lesson("reader", 700, 128, 1e-3)
FINDER = Lesson("finder", 2_000, 32, 2e-3)
EYES = Lesson("tower", 700, 128, 1e-3)
LESSONS = (FINDER, RECOGNISER, JUDGE, READER, EYES, BASE)
Weights = dict[str, Tensor]


def base(pool: Pool) -> Weights:
    """Teach the diffusion model to draw what prompts say; return its weights."""
    people, pictures, codec = pool.people, pool.pictures, pool.codec
    model = as_model(random_flux(seed=pool.seed))
    counts = head_weights(boxes(people, SIDE))
    with trainable(model, recompute=False) as base:
        base.net.requires_grad_(True)

        def latents(rows: Tensor) -> Tensor:
            return model.model.process_latent_in(codec.encode(pictures[rows].float() / 255))

        def loss(step: int) -> Tensor:
            draw = generator(pool.seed, step, "base")
            silent = float(torch.rand((), generator=draw)) < SILENT
            sides = (0, 1) if step % PAIRS == 0 else (None,)  # two people, each with a prompt
            count = BASE.batch // len(sides)
            text, x0, weight = [], [], []
            for side in sides:
                rows = torch.randint(SEEN, (count,), generator=draw)
                own = people[rows]
                text.append(text_of(replace(own, said=own.said & (not silent)), side))
                x0.append(latents(rows))
                weight.append(counts[rows])
            x0, weight = torch.cat(x0, -1), torch.cat(weight, -1)
            noise = torch.randn(x0.shape, generator=draw)
            sigma = torch.randn(count, generator=draw).sigmoid()
            cond = {"c_crossattn": torch.cat(text, 1), "y": torch.zeros(count, POOLED)}
            out = base(base.noised(x0, noise, sigma), sigma, cond)
            return (weight * (out - (noise - x0)).square()).mean()

        return learn(BASE, base.net, loss, pool.folder, pool.tell)


def recogniser(pool: Pool) -> Weights:
    """Teach φ, whose vectors PuLID gets and L_id compares, on one half of the people."""
    return recognise(pool, RECOGNISER, Recogniser(), slice(0, SEEN // 2))


def judge(pool: Pool) -> Weights:
    """Teach the φ that only measures: another network, on the other half."""
    return recognise(pool, JUDGE, Recogniser((24, 48, 80, 112), 96), slice(SEEN // 2, SEEN))


def recognise(pool: Pool, lesson: Lesson, net: Recogniser, half: slice) -> Weights:
    """Teach that photo and scene of a person are alike, and those of others are not."""
    draw = generator(pool.seed, lesson.name, "points")
    begin(net, draw)
    scenes = pool.pictures[half]
    views = [
        faces(pool.photos[half], photo_keypoints(pool.sitters[half], SIDE), draw),
        faces(scenes, keypoints(pool.people[half], SIDE), draw),
        # as the base will paint them
        faces(scenes, keypoints(pool.people[half], SIDE), draw, pool.codec),
    ]

    def loss(step: int) -> Tensor:
        draw = generator(pool.seed, step, lesson.name)
        rows = torch.randint(half.stop - half.start, (lesson.batch,), generator=draw)
        scene = torch.where(
            torch.rand(len(rows), 1, 1, 1, generator=draw) < 0.5, views[1][rows], views[2][rows]
        )
        scene = softened(scene.float() / 127.5 - 1, draw)
        pair = torch.cat([views[0][rows].float() / 127.5 - 1, scene])
        own, other = normalize(net.head(net.body(pair).flatten(1)), dim=-1).chunk(2)
        alike, right = own @ other.T / WARMTH, torch.arange(len(rows))
        return (cross_entropy(alike, right) + cross_entropy(alike.T, right)) / 2

    return learn(lesson, net, loss, pool.folder, pool.tell)


def reader(pool: Pool) -> Weights:
    """Teach to read the prompt's words back from a scene."""
    net = WordReader()
    begin(net, generator(pool.seed, "reader"))
    people, pictures, codec = pool.people, pool.pictures, pool.codec

    def loss(step: int) -> Tensor:
        draw = generator(pool.seed, step, "reader")
        rows = torch.randint(SEEN, (READER.batch,), generator=draw)
        scenes = pictures[rows].float() / 255
        scenes[::2] = painted(codec, scenes[::2])
        words = people.words[rows]
        losses = [cross_entropy(own, words[:, n]) for n, own in enumerate(net.lines(scenes))]
        return torch.stack(losses).sum()

    return learn(READER, net, loss, pool.folder, pool.tell)


def finder(pool: Pool) -> Weights:
    """Teach to find faces: scenes and photos, two on a canvas, of many sizes."""
    net = Finder()
    begin(net, generator(pool.seed, "finder"))
    kinds = (
        (pool.pictures, boxes(pool.people, SIDE), keypoints(pool.people, SIDE)),
        (pool.photos, None, photo_keypoints(pool.sitters, SIDE)),
    )

    def loss(step: int) -> Tensor:
        draw = generator(pool.seed, step, "finder")
        pictures, heads, points = kinds[step % 2]
        canvas = torch.zeros(FINDER.batch, 3, CANVAS, CANVAS)
        size = int(torch.randint(24, CANVAS + 1, (), generator=draw))
        spots = [(0, 0)] if size > CANVAS // 2 else [(0, 0), (0, CANVAS - size)]
        cells = CANVAS * FINDER_SHRINK // CELL
        there = torch.zeros(FINDER.batch, cells, cells)
        wanted = torch.zeros(FINDER.batch, cells, cells, 14)
        for left, top in spots:
            rows = torch.randint(SEEN, (FINDER.batch,), generator=draw)
            own = interpolate(pictures[rows].float() / 127.5 - 1, (size, size), mode="area")
            own = softened(own, draw)
            canvas[:, :, top : top + size, left : left + size] = own
            corner = torch.tensor([left, top], dtype=torch.float32)
            scale = size / SIDE
            at = (points[rows] * scale + corner) * FINDER_SHRINK / CELL
            box = around(points[rows]) if heads is None else heads[rows]
            box = (box * scale + corner.repeat(2)) * FINDER_SHRINK / CELL
            # sure in the four cells around the face's middle: which is nearest is a hair's breadth
            for step_x, step_y in product((0, 1), repeat=2):
                cell = at.mean(1).floor().long() + torch.tensor([step_x, step_y])
                cell = cell.clamp(0, cells - 1)  # x, y
                place = (torch.arange(FINDER.batch), cell[:, 1], cell[:, 0])
                there[place] = 1.0
                sides = torch.cat([cell - box[:, :2], box[:, 2:] - cell], 1)
                wanted[place] = torch.cat([sides, (at - cell[:, None]).flatten(1)], 1)
        score, sides, five = net.cells(canvas)
        found = torch.cat([sides, five], 1).movedim(1, -1)
        sure = binary_cross_entropy_with_logits(score[:, 0], there)
        return 10 * sure + smooth_l1_loss(found[there > 0], wanted[there > 0], beta=0.1)

    return learn(FINDER, net, loss, pool.folder, pool.tell)


def tower(pool: Pool) -> Weights:
    """Teach EVA-CLIP's tower as CLIP is: pictures and what is said of them belong together.

    What is said: the numbers of who it is, and the words that show in a face.
    """
    net = empty_tower()
    draw = generator(pool.seed, "tower")
    begin(net, draw)
    both = nn.ModuleDict({"tower": net, "said": nn.Linear(len(IDENTITY) + 3 * 4, TOWER.output)})
    begin(both["said"], draw)
    crops = tower_crops(pool.photos, photo_keypoints(pool.sitters, SIDE), TOWER.side * TOWER.patch)
    words = torch.stack([pool.sitters.word(w) for w in ("hat", "glasses", "expression")], 1)
    said = nn.functional.one_hot(words, 4).flatten(1).float()
    said = torch.cat([4 * pool.sitters.identity - 2, said], 1)

    def loss(step: int) -> Tensor:
        draw = generator(pool.seed, step, "tower")
        rows = torch.randint(SEEN, (EYES.batch,), generator=draw)
        own = normalize(net(grey(crops[rows].float() / 255)), dim=-1)
        other = normalize(both["said"](said[rows]), dim=-1)
        alike, right = own @ other.T / WARMTH, torch.arange(len(rows))
        return (cross_entropy(alike, right) + cross_entropy(alike.T, right)) / 2

    weights = learn(EYES, both, loss, pool.folder, pool.tell)
    return {k[6:]: v for k, v in weights.items() if k.startswith("tower.")}


def empty_tower() -> nn.Module:
    """Return EVA-CLIP's tower in the drawn world's size, on the CPU, its weights 0."""
    net = build_tower(TOWER)
    zeros = {key: torch.zeros(value.shape) for key, value in net.state_dict().items()}
    net.load_state_dict(zeros, assign=True)
    return net


def begin(net: nn.Module, draw: torch.Generator) -> None:
    """Draw a network's first weights: N(0, 2 / fan in) for matrices, norms 1, the rest 0."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim > 1 and "pos_embed" not in name and "cls_token" not in name:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=draw)
            elif value.ndim > 1:
                value.normal_(0, 0.02, generator=draw)
            else:
                value.fill_(float(name.endswith("weight")))


def around(points: Tensor) -> Tensor:
    """Return the boxes of photos' heads by their five points: left, top, right, bottom [B, 4]."""
    low, high = points.amin(1), points.amax(1)
    middle, reach = (low + high) / 2, 1.25 * (high - low).amax(1, keepdim=True)
    return torch.cat([middle - reach, middle + reach], 1).clamp(0, SIDE)


def grey(crops: Tensor) -> Tensor:
    """Return crops [B, 3, S, S] in 0..1 as the tower's pixels, as *Encode PuLID Identity* does."""
    luma = (crops.movedim(1, -1) * torch.tensor(LUMA)).sum(-1, keepdim=True).expand(-1, -1, -1, 3)
    return normalise(luma, crops.shape[-1])


NETWORKS: dict[str, Callable[[Pool], Weights]] = {
    "finder": finder,
    "recogniser": recogniser,
    "judge": judge,
    "reader": reader,
    "tower": tower,
    "base": base,
}
