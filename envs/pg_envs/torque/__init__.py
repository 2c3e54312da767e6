"""Continuous torque: pendulum, linear-quadratic chain, arm, and a bandit."""
