"""What keeps a figure from print."""

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from pretrain_xai.drawing.figures import TWO_COLUMNS


def print_faults(figure: Figure) -> list[str]:
    """Return what keeps a figure from print: wider than two columns, small text, text off the canvas or on other text.

    Text at a slant is only asked for its size; ticks keep labels beyond the ends of their axis, which are not drawn.
    """
    figure.draw_without_rendering()
    faults = ["wider than two columns"] if figure.get_figwidth() > TWO_COLUMNS + 1e-6 else []
    beyond = {
        text
        for axis in figure.findobj(Axis)
        for tick in axis.get_major_ticks()
        for text in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) - 1e-9 <= tick.get_loc() <= max(axis.get_view_interval()) + 1e-9
    }
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    texts = [text for text in texts if text not in beyond and text.get_figure() is not None]
    faults += [f"{text.get_text()!r} is small" for text in texts if text.get_fontsize() < 7]
    upright = [text for text in texts if text.get_rotation() % 90 == 0]
    boxes = np.array([text.get_window_extent().extents for text in upright]).reshape(-1, 4)
    room, (right, top) = figure.dpi / 72, figure.bbox.size  # a point, since boxes hold the space around letters
    outside = (boxes[:, :2] < -room).any(1) | (boxes[:, 2] > right + room) | (boxes[:, 3] > top + room)
    faults += [f"{upright[place].get_text()!r} leaves the canvas" for place in np.flatnonzero(outside)]
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    overlap = (np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - low > room).all(-1)
    pairs = np.argwhere(np.triu(overlap, k=1))
    return faults + [f"{upright[one].get_text()!r} lies on {upright[other].get_text()!r}" for one, other in pairs]
