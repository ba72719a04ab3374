"""Judges of joint rates that share no code with ours: pinocchio and MuJoCo.

Each library is given the planar two-link arm in its own description language, and asked for the
tip's Jacobian; the judged velocity is that Jacobian times the rates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Judge = Callable[[Any, Any, Any], Floats]

URDF = """
<robot name="arm">
  <link name="base"/>
  <link name="upper">
    <inertial><mass value="1"/><origin xyz="{half_first} 0 0"/>
      <inertia ixx="0.01" ixy="0" ixz="0" iyy="0.01" iyz="0" izz="0.01"/></inertial>
  </link>
  <link name="lower">
    <inertial><mass value="1"/><origin xyz="{half_second} 0 0"/>
      <inertia ixx="0.01" ixy="0" ixz="0" iyy="0.01" iyz="0" izz="0.01"/></inertial>
  </link>
  <link name="tip"/>
  <joint name="shoulder" type="continuous">
    <parent link="base"/><child link="upper"/><axis xyz="0 0 1"/>
  </joint>
  <joint name="elbow" type="continuous">
    <parent link="upper"/><child link="lower"/><origin xyz="{first} 0 0"/><axis xyz="0 0 1"/>
  </joint>
  <joint name="tip" type="fixed">
    <parent link="lower"/><child link="tip"/><origin xyz="{second} 0 0"/>
  </joint>
</robot>
"""

MJCF = """
<mujoco>
  <worldbody>
    <body name="upper">
      <joint name="shoulder" type="hinge" axis="0 0 1"/>
      <geom type="capsule" fromto="0 0 0 {first} 0 0" size="0.02" mass="1"/>
      <body name="lower" pos="{first} 0 0">
        <joint name="elbow" type="hinge" axis="0 0 1"/>
        <geom type="capsule" fromto="0 0 0 {second} 0 0" size="0.02" mass="1"/>
        <site name="tip" pos="{second} 0 0"/>
      </body>
    </body>
  </worldbody>
</mujoco>
"""


def pinocchio_judge(first: float, second: float) -> Judge:
    """(n,) |J dq - v| / |v| with pinocchio's Jacobian; link lengths in m."""
    import pinocchio

    model = pinocchio.buildModelFromXML(_filled(URDF, first, second))
    data = model.createData()
    tip = model.getFrameId("tip", pinocchio.FrameType.BODY)

    def jacobian(angles: Floats) -> Floats:
        # A continuous joint's configuration is the cosine and the sine of its angle.
        place = np.stack([np.cos(angles), np.sin(angles)], axis=1).ravel()
        found = pinocchio.computeFrameJacobian(
            model, data, place, tip, pinocchio.ReferenceFrame.LOCAL_WORLD_ALIGNED
        )
        return np.asarray(found[:2], dtype=np.float64)

    return _judge(jacobian)


def mujoco_judge(first: float, second: float) -> Judge:
    """(n,) |J dq - v| / |v| with MuJoCo's Jacobian; link lengths in m."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(_filled(MJCF, first, second))
    data = mujoco.MjData(model)
    tip = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, "tip")
    buffer = np.zeros((3, model.nv))

    def jacobian(angles: Floats) -> Floats:
        data.qpos[:] = angles
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, buffer, None, tip)
        return buffer[:2].copy()

    return _judge(jacobian)


def _filled(text: str, first: float, second: float) -> str:
    return text.format(first=first, second=second, half_first=first / 2, half_second=second / 2)


def _judge(jacobian: Callable[[Floats], Floats]) -> Judge:
    def judge(theta: Any, v: Any, dq: Any) -> Floats:
        angles, wanted, rates = (np.asarray(a, dtype=np.float64) for a in (theta, v, dq))
        given = np.array([jacobian(a) @ r for a, r in zip(angles, rates, strict=True)])
        return np.asarray(np.hypot(*(given - wanted).T) / np.hypot(*wanted.T), dtype=np.float64)

    return judge
