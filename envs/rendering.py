"""What makes pictures cheap in the fast look, and what draws them.

On a CPU a small picture costs what its shadows, its samples per pixel and its triangles cost; its
size hardly matters. `render="fast"` leaves the first two out and does less for each triangle:

- geoms outside the camera's view are not handed to OpenGL (no pixel changes);
- the triangles of a mesh are ordered by place, so that neighbours share the work on their corners
  (no pixel changes, but for equal depths);
- corners of a fine mesh that lie in the same cell become one, and triangles without area are left
  out. A cell is a mesh's extent divided by the picture's height: less than a pixel, unless the mesh
  reaches beyond the picture;
- corners of neighbouring faces share one normal where theirs are within 30 degrees of its mean.
  Curved surfaces drawn face by face look smooth then, and each of their corners is lit once.
"""

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

FAST_LOOK = 1  # raise this when a change here alters pixels
_SMOOTH = math.cos(math.radians(30))
_HIDDEN_GROUP = 5  # MuJoCo's last, which nothing draws by default
_FINE = 2000  # triangles
_CORNERS = ("mesh_face", "mesh_facenormal", "mesh_facetexcoord")
_MESH_FIELDS = ("mesh_vert", "mesh_normal", "mesh_facenum", *_CORNERS)


@contextlib.contextmanager
def light_model(model: Any, height: int) -> Iterator[None]:
    """Alters what a new OpenGL context copies from a model, and puts it back.

    Args:
        model: an `MjModel`.
        height: of the pictures, in pixels.
    """
    quality, samples = model.vis.quality, model.vis.quality.offsamples
    before = {name: getattr(model, name).copy() for name in _MESH_FIELDS}
    try:
        quality.offsamples = 0
        for mesh in range(model.nmesh):
            if model.mesh_facenum[mesh] > _FINE:
                _merge_corners(model, mesh, height)
            _share_normals(model, mesh)
            _order_faces(model, mesh)
        yield
    finally:
        quality.offsamples = samples
        for name, value in before.items():
            getattr(model, name)[...] = value


def _merge_corners(model: Any, mesh: int, cells: int) -> None:
    """Vertex clustering (Rossignac and Borrel 1993)."""
    faces = _faces(model, mesh)
    vertices = _part(model.mesh_vert, model.mesh_vertadr[mesh], model.mesh_vertnum[mesh])
    low = vertices.min(axis=0)
    scale = cells / max(float((vertices.max(axis=0) - low).max()), 1e-9)
    x, y, z = ((vertices - low) * scale).astype(np.int64).T
    _, cell = np.unique((x * (cells + 1) + y) * (cells + 1) + z, return_inverse=True)
    sums = np.stack([np.bincount(cell, axis) for axis in vertices.T], axis=1)
    vertices[:] = (sums / np.bincount(cell)[:, None])[cell]
    a, b, c = cell[model.mesh_face[faces]].T
    kept = (a != b) & (b != c) & (c != a)
    for name in _CORNERS:
        corners = getattr(model, name)
        if len(corners):
            corners[faces][: kept.sum()] = corners[faces][kept]
    model.mesh_facenum[mesh] = kept.sum()


def _share_normals(model: Any, mesh: int) -> None:
    faces = _faces(model, mesh)
    vertices = _part(model.mesh_vert, model.mesh_vertadr[mesh], model.mesh_vertnum[mesh])
    normals = _part(model.mesh_normal, model.mesh_normaladr[mesh], model.mesh_normalnum[mesh])
    # one mesh may hold the same point several times
    whole = np.ascontiguousarray(vertices).view(np.dtype((np.void, 12))).ravel()
    _, point = np.unique(whole, return_inverse=True)
    point_of = np.zeros(len(normals), np.int64)
    point_of[model.mesh_facenormal[faces].ravel()] = point[model.mesh_face[faces].ravel()]
    sums = np.stack([np.bincount(point_of, axis, len(vertices)) for axis in normals.T], axis=1)
    mean = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    shared = mean[point_of].astype(np.float32)
    near = np.einsum("ij,ij->i", shared, normals) > _SMOOTH
    normals[near] = shared[near]


def _order_faces(model: Any, mesh: int) -> None:
    """Sorts along a curve that fills space (Morton 1966)."""
    faces = _faces(model, mesh)
    vertices = _part(model.mesh_vert, model.mesh_vertadr[mesh], model.mesh_vertnum[mesh])
    centres = vertices[model.mesh_face[faces]].mean(axis=1)
    low = centres.min(axis=0)
    scale = 1023 / max(float((centres.max(axis=0) - low).max()), 1e-9)
    cells = ((centres - low) * scale).astype(np.int64)
    code = np.zeros(len(cells), np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << 3 * bit + axis
    order = np.argsort(code, kind="stable")
    for name in _CORNERS:
        corners = getattr(model, name)
        if len(corners):
            corners[faces] = corners[faces][order]


def _faces(model: Any, mesh: int) -> slice:
    begin = model.mesh_faceadr[mesh]
    return slice(begin, begin + model.mesh_facenum[mesh])


def _part(array: np.ndarray, begin: int, length: int) -> np.ndarray:
    return array[begin : begin + length]


@contextlib.contextmanager
def only_in_view(model: Any, data: Any, view: Any, aspect: float) -> Iterator[None]:
    """Hides the geoms whose bounding sphere is outside a camera's view.

    Args:
        model: their groups are changed, and put back.
        data: where they are.
        view: the `MjvGLCamera` of the scene, updated.
        aspect: width over height of the picture.
    """
    groups = model.geom_group.copy()
    model.geom_group[_outside(model, data, view, aspect)] = _HIDDEN_GROUP
    try:
        yield
    finally:
        model.geom_group[:] = groups


def _outside(model: Any, data: Any, view: Any, aspect: float) -> np.ndarray:
    """bool[ngeom]; none if the view is no plain perspective."""
    if view.orthographic or view.frustum_width or view.frustum_center:
        return np.zeros(model.ngeom, bool)
    forward, up = np.array(view.forward, np.float64), np.array(view.up, np.float64)
    axes = np.stack([np.cross(forward, up), up, forward])
    right, above, depth = axes @ (data.geom_xpos - np.array(view.pos, np.float64)).T
    slope = (view.frustum_top - view.frustum_bottom) / 2 / view.frustum_near
    beyond = -depth
    for across, tangent in ((right, slope * aspect), (above, slope)):
        past = (np.abs(across) - tangent * depth) / math.hypot(1, tangent)
        beyond = np.maximum(beyond, past)
    # planes have no bounding sphere: their radius is 0
    return (model.geom_rbound > 0) & (beyond > 1.01 * model.geom_rbound)


@functools.cache
def gl() -> dict[str, str]:
    """Returns the `gl` that mujoco renders with and the `device` behind it.

    The device is "none" where nothing can be rendered.
    """
    from mujoco import gl_context

    name = os.environ.get("MUJOCO_GL", "default")
    backend = getattr(gl_context, "GLContext", None)
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if backend is None or (backend.__module__ == "mujoco.glfw" and not display):
        return {"gl": name, "device": "none"}
    from OpenGL import GL

    try:
        context = backend(1, 1)
    except Exception:  # each backend raises its own type
        return {"gl": name, "device": "none"}
    context.make_current()
    device = GL.glGetString(GL.GL_RENDERER)
    context.free()
    return {"gl": name, "device": device.decode() if device else "unknown"}
