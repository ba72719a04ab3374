"""The reference robot: differential inverse kinematics of a planar two-link arm.

From joint angles and a wanted tip velocity to joint rates dq = P / Q. Q is the determinant of the
arm's Jacobian up to scale, so it vanishes where the arm is stretched or folded.
"""
