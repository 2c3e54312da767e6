"""Pictures of environments: a `Canvas` in the coordinates of the scene, and a `Window` for the mode `"human"`.

Drawing needs pygame; only a `Window` needs a display.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled

Colour = tuple[int, int, int]
Point = tuple[float, float] | np.ndarray | Sequence[float]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (33, 37, 41)
GREY: Colour = (173, 181, 189)
LIGHT: Colour = (222, 226, 230)
BLUE: Colour = (31, 119, 180)
ORANGE: Colour = (255, 127, 14)
GREEN: Colour = (44, 160, 44)
RED: Colour = (214, 39, 40)


def _pygame() -> Any:
    try:
        import pygame
    except ImportError as error:
        raise DependencyNotInstalled("Rendering needs pygame: pip install 'pg-agents[video]'.") from error
    return pygame


class Canvas:
    """A picture in scene coordinates: x to the right, y upwards.

    Args:
        width: Width in pixels.
        height: Height in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self._pygame = _pygame()
        self.surface = self._pygame.Surface((width, height))
        self.surface.fill(WHITE)
        self.size = np.array([width, height])
        self.view((-1, -1), (1, 1))

    def view(self, low: Point, high: Point) -> None:
        """Choose the rectangle of the scene to show. It is centred, and both axes have the same scale."""
        low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        self.scale = float(np.min(self.size / (high - low)))
        self._centre = (low + high) / 2

    def line(self, points: Sequence[Point], colour: Colour = BLACK, width: float = 2, closed: bool = False) -> None:
        """A line through points of the scene, `width` pixels thick."""
        pixels = [self._pixel(point) for point in points]
        self._pygame.draw.lines(self.surface, colour, closed, pixels, max(1, round(width)))

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        self._pygame.draw.polygon(self.surface, colour, [self._pixel(point) for point in points])

    def circle(self, centre: Point, radius: float, colour: Colour, width: int = 0) -> None:
        """A filled circle, or a ring `width` pixels thick; the radius is in scene coordinates."""
        pixels = max(1, round(radius * self.scale))
        self._pygame.draw.circle(self.surface, colour, self._pixel(centre), pixels, width)

    def rectangle(self, low: Point, high: Point, colour: Colour, width: int = 0) -> None:
        """A filled rectangle between two corners, or its border `width` pixels thick."""
        (left, bottom), (right, top) = self._pixel(low), self._pixel(high)
        self._pygame.draw.rect(self.surface, colour, (left, top, right - left, bottom - top), width)

    def text(self, centre: Point, words: str, colour: Colour = BLACK, size: int = 20) -> None:
        """Words, `size` pixels high, centred on a point."""
        self._pygame.font.init()
        drawn = self._pygame.font.Font(None, size).render(words, True, colour)
        self.surface.blit(drawn, drawn.get_rect(center=self._pixel(centre)))

    def paste(self, image: np.ndarray) -> None:
        """An image, uint8 of shape `(height, width, 3)`, over the whole picture."""
        self._pygame.surfarray.blit_array(self.surface, image.transpose(1, 0, 2))

    def image(self) -> np.ndarray:
        """The picture, uint8 of shape `(height, width, 3)`."""
        return np.ascontiguousarray(self._pygame.surfarray.array3d(self.surface).transpose(1, 0, 2))

    def _pixel(self, point: Point) -> tuple[int, int]:
        x, y = (np.asarray(point, dtype=float) - self._centre) * self.scale
        return round(self.size[0] / 2 + x), round(self.size[1] / 2 - y)


class Window:
    """A window that shows canvases.

    Args:
        width: Width in pixels.
        height: Height in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self._pygame = _pygame()
        self._pygame.display.init()
        self._screen = self._pygame.display.set_mode((width, height))
        self._clock = self._pygame.time.Clock()

    def show(self, canvas: Canvas, fps: int) -> None:
        """Show a canvas, once the previous one has been visible for 1/fps seconds."""
        self._screen.blit(canvas.surface, (0, 0))
        self._pygame.event.pump()
        self._clock.tick(fps)
        self._pygame.display.flip()

    def close(self) -> None:
        """Close the window."""
        self._pygame.display.quit()
