"""Drawing of each class of object, in a square from -1 to 1 around its centre (y points down).

Backgrounds, light and noise are in `drawing`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import ImageDraw

from olivine.world import glyphs
from olivine.world.scene import SceneObject

Rgb = tuple[int, int, int]
Point = tuple[float, float]

PALETTE: dict[str, Rgb] = {
    "red": (214, 38, 38),
    "yellow": (246, 214, 30),
    "green": (30, 140, 52),
    "blue": (32, 84, 214),
    "purple": (130, 44, 168),
    "pink": (248, 142, 190),
    "white": (246, 246, 246),
    "black": (36, 36, 38),
}
_INK: Rgb = (20, 20, 24)
_PALE: Rgb = (238, 240, 244)
_WOOD: Rgb = (112, 72, 40)
_LEAF: Rgb = (64, 128, 60)
_GREY: Rgb = (120, 120, 126)
_GLASS: Rgb = (188, 222, 240)
_GLOW: Rgb = (255, 244, 150)
_COFFEE: Rgb = (92, 52, 24)
#: Patterns and writing are dark on light colours and light on dark ones.
_LIGHT_COLOURS = {"yellow", "pink", "white"}
#: A point where an object always shows its own colour, in its own square; other classes show it at the centre.
_PROBES: dict[str, Point] = {
    "sign": (-0.88, 0.42),
    "car": (0.0, 0.15),
    "house": (-0.1, 0.08),
    "lamp": (0.0, -0.3),
    "cup": (0.0, -0.12),
    "kite": (0.0, -0.1),
}


def probe(obj: SceneObject) -> Point:
    """Return a point, in pixels, where the object shows its main colour for any pattern and state."""
    u, v = _PROBES.get(obj.class_name, (0.0, 0.0))
    return obj.x + u * obj.radius, obj.y + v * obj.radius


def draw_object(pen: ImageDraw.ImageDraw, obj: SceneObject, scale: int) -> None:
    """Draw one object on a sheet that is `scale` times the image's size."""
    brush = _Brush(pen, obj, scale)
    _SHAPES[obj.class_name](brush)
    if obj.pattern != "plain":
        _draw_pattern(brush)


@dataclass(frozen=True, slots=True)
class _Brush:
    """Drawing in the object's own square; mirrored if the object faces left."""

    pen: ImageDraw.ImageDraw
    obj: SceneObject
    scale: int

    @property
    def colour(self) -> Rgb:
        return PALETTE[self.obj.colour]

    @property
    def contrast(self) -> Rgb:
        return _INK if self.obj.colour in _LIGHT_COLOURS else _PALE

    @property
    def darker(self) -> Rgb:
        red, green, blue = (int(0.72 * part) for part in self.colour)
        return red, green, blue

    @property
    def edge(self) -> Rgb:
        return (96, 96, 104) if self.obj.colour == "black" else _INK

    @property
    def line(self) -> int:
        return max(1, round(self.scale * 0.9))

    def at(self, point: Point) -> Point:
        u, v = point
        if self.obj.state == "left":
            u = -u
        return (
            (self.obj.x + u * self.obj.radius) * self.scale,
            (self.obj.y + v * self.obj.radius) * self.scale,
        )

    def polygon(self, points: Sequence[Point], fill: Rgb) -> None:
        self.pen.polygon([self.at(point) for point in points], fill=fill, outline=self.edge, width=self.line)

    def rectangle(self, first: Point, second: Point, fill: Rgb, *, outlined: bool = True) -> None:
        self._boxed(self.pen.rectangle, first, second, fill, outlined)

    def ellipse(self, centre: Point, half: Point, fill: Rgb, *, outlined: bool = True) -> None:
        first, second = (centre[0] - half[0], centre[1] - half[1]), (centre[0] + half[0], centre[1] + half[1])
        self._boxed(self.pen.ellipse, first, second, fill, outlined)

    def stroke(self, points: Sequence[Point], fill: Rgb, width: float) -> None:
        self.pen.line([self.at(point) for point in points], fill=fill, width=max(1, round(width * self.scale)))

    def _boxed(self, shape: Callable[..., None], first: Point, second: Point, fill: Rgb, outlined: bool) -> None:
        (x0, y0), (x1, y1) = self.at(first), self.at(second)
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        shape(box, fill=fill, outline=self.edge if outlined else None, width=self.line)


def _ball(brush: _Brush) -> None:
    brush.ellipse((0, 0), (0.92, 0.92), brush.colour)


def _kite(brush: _Brush) -> None:
    brush.stroke([(0, 0.5), (0.3, 0.72), (-0.1, 1.0)], _INK, 1.4)
    brush.polygon([(0, -1), (0.8, -0.15), (0, 0.62), (-0.8, -0.15)], brush.colour)


def _box(brush: _Brush) -> None:
    brush.rectangle((-0.85, -0.4), (0.85, 0.9), brush.colour)
    if brush.obj.state == "open":
        brush.rectangle((-0.85, -0.4), (0.85, -0.14), _INK)
        brush.polygon([(-0.85, -0.4), (-1.0, -0.95), (-0.5, -0.95), (-0.35, -0.4)], brush.darker)
        brush.polygon([(0.85, -0.4), (1.0, -0.95), (0.5, -0.95), (0.35, -0.4)], brush.darker)
    else:
        brush.rectangle((-0.95, -0.62), (0.95, -0.3), brush.darker)


def _cup(brush: _Brush) -> None:
    brush.ellipse((0.55, 0), (0.42, 0.42), _GREY)
    brush.polygon([(-0.68, -0.68), (0.68, -0.68), (0.5, 0.92), (-0.5, 0.92)], brush.colour)
    brush.ellipse((0, -0.66), (0.68, 0.3), _COFFEE if brush.obj.state == "full" else _PALE)


def _fish(brush: _Brush) -> None:
    brush.polygon([(-0.45, 0), (-1.0, -0.55), (-1.0, 0.55)], brush.darker)
    brush.ellipse((0.15, 0), (0.8, 0.56), brush.colour)
    brush.ellipse((0.62, -0.14), (0.12, 0.12), brush.contrast, outlined=False)


def _bird(brush: _Brush) -> None:
    brush.stroke([(-0.1, 0.4), (-0.1, 0.95)], _WOOD, 1.3)
    brush.stroke([(0.2, 0.4), (0.2, 0.95)], _WOOD, 1.3)
    brush.polygon([(-0.4, 0), (-1.0, -0.35), (-0.95, 0.25)], brush.darker)
    brush.polygon([(0.75, -0.65), (1.0, -0.45), (0.75, -0.3)], (240, 150, 30))
    brush.ellipse((0, 0.12), (0.66, 0.46), brush.colour)
    brush.ellipse((0.5, -0.48), (0.36, 0.36), brush.colour)
    brush.ellipse((0.58, -0.54), (0.1, 0.1), brush.contrast, outlined=False)


def _tree(brush: _Brush) -> None:
    brush.rectangle((-0.16, 0.3), (0.16, 1.0), _WOOD)
    for centre in ((-0.42, 0.0), (0.42, 0.0), (0, -0.45)):
        brush.ellipse(centre, (0.5, 0.5), brush.colour)
    brush.ellipse((0, -0.1), (0.5, 0.4), brush.colour, outlined=False)


def _flower(brush: _Brush) -> None:
    brush.stroke([(0, 0.2), (0, 1.0)], _LEAF, 1.8)
    brush.ellipse((0.3, 0.75), (0.28, 0.13), _LEAF)
    for centre in ((0, -0.8), (0.46, -0.47), (0.29, 0.05), (-0.29, 0.05), (-0.46, -0.47)):
        brush.ellipse(centre, (0.34, 0.34), brush.colour)
    brush.ellipse((0, 0.02), (0.3, 0.22), brush.colour, outlined=False)
    brush.ellipse((0, -0.36), (0.2, 0.2), (250, 190, 40) if brush.obj.colour != "yellow" else _WOOD)


def _house(brush: _Brush) -> None:
    brush.rectangle((-0.75, -0.15), (0.75, 0.95), brush.colour)
    brush.polygon([(-1.0, -0.15), (0, -1.0), (1.0, -0.15)], brush.darker)
    brush.rectangle((-0.6, 0.2), (-0.25, 0.55), _GLASS)
    if brush.obj.state == "open":
        brush.rectangle((0.05, 0.25), (0.6, 0.95), _INK)
        brush.polygon([(0.6, 0.25), (0.98, 0.38), (0.98, 1.0), (0.6, 0.95)], _WOOD)
    else:
        brush.rectangle((0.05, 0.25), (0.6, 0.95), _WOOD)


def _car(brush: _Brush) -> None:
    brush.polygon([(-0.8, -0.1), (-0.62, -0.62), (0.12, -0.62), (0.42, -0.1)], brush.darker)
    brush.polygon([(-0.5, -0.16), (-0.42, -0.5), (0.02, -0.5), (0.2, -0.16)], _GLASS)
    brush.rectangle((-0.98, -0.12), (0.98, 0.42), brush.colour)
    brush.rectangle((0.76, 0.0), (0.98, 0.2), _GLOW)
    for u in (-0.52, 0.52):
        brush.ellipse((u, 0.45), (0.27, 0.27), _INK)


def _lamp(brush: _Brush) -> None:
    on = brush.obj.state == "on"
    if on:
        for points in ([(-0.6, 0.3), (-0.85, 0.75)], [(0.6, 0.3), (0.85, 0.75)], [(-0.25, 0.35), (-0.35, 0.8)]):
            brush.stroke(points, _GLOW, 2.2)
        brush.stroke([(0.25, 0.35), (0.35, 0.8)], _GLOW, 2.2)
    brush.stroke([(0, 0.1), (0, 0.9)], _GREY, 2.0)
    brush.rectangle((-0.42, 0.84), (0.42, 1.0), _GREY)
    brush.ellipse((0, 0.18), (0.26, 0.24), _GLOW if on else _INK)
    brush.polygon([(-0.36, -0.95), (0.36, -0.95), (0.74, 0.14), (-0.74, 0.14)], brush.colour)


def _sign(brush: _Brush) -> None:
    brush.rectangle((-0.1, 0.5), (0.1, 1.0), _GREY)
    brush.rectangle((-1.0, -0.8), (1.0, 0.56), brush.colour)
    _write(brush)


def _write(brush: _Brush) -> None:
    """Draw the sign's writing, each dot two pixels wide and high, so that it is legible."""
    dot = 2 * brush.scale
    text = brush.obj.writing
    width = (len(text) * (glyphs.WIDTH + 1) - 1) * dot
    left, top = brush.at((0, -0.12))
    left, top = round(left - width / 2), round(top - glyphs.HEIGHT * dot / 2)
    for index, character in enumerate(text):
        start = left + index * (glyphs.WIDTH + 1) * dot
        for v, u in zip(*glyphs.dots(character).nonzero(), strict=True):
            x, y = start + int(u) * dot, top + int(v) * dot
            brush.pen.rectangle((x, y, x + dot - 1, y + dot - 1), fill=brush.contrast)


def _draw_pattern(brush: _Brush) -> None:
    half, top, bottom = _PATTERN_AREA[brush.obj.class_name]
    middle = _PATTERN_MIDDLE.get(brush.obj.class_name, 0.0)
    if brush.obj.pattern == "striped":
        for v in (top, bottom):
            width = half(v)
            brush.rectangle((middle - width, v - 0.1), (middle + width, v + 0.1), brush.contrast, outlined=False)
        return
    for u in (-0.5, 0.5):
        for v in (top, bottom):
            brush.ellipse((middle + u * half(v), v), (0.14, 0.14), brush.contrast, outlined=False)


#: For each patterned class: its half width at a height, and the heights of the two rows of its pattern, which keep its
#: centre free.
_PATTERN_AREA: dict[str, tuple[Callable[[float], float], float, float]] = {
    "ball": (lambda v: 0.86 * (1 - min(1.0, (abs(v) + 0.1) ** 2)) ** 0.5, -0.45, 0.45),
    "kite": (lambda v: 0.68 * (1 - abs(v + 0.15) / (0.8 if v > -0.15 else 0.85)), -0.5, 0.22),
    "box": (lambda _: 0.8, 0.3, 0.66),
    "cup": (lambda v: 0.6 - 0.11 * (v + 0.68), 0.2, 0.62),
    "fish": (lambda v: 0.66 * (1 - min(1.0, (abs(v / 0.56) + 0.1) ** 2)) ** 0.5, -0.26, 0.26),
}
_PATTERN_MIDDLE = {"fish": 0.05}

_SHAPES: dict[str, Callable[[_Brush], None]] = {
    "ball": _ball,
    "kite": _kite,
    "box": _box,
    "cup": _cup,
    "fish": _fish,
    "bird": _bird,
    "tree": _tree,
    "flower": _flower,
    "house": _house,
    "car": _car,
    "lamp": _lamp,
    "sign": _sign,
}
