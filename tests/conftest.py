"""Pytest puts the folder of this file on the path: tests of any level import the modules beside it."""
